"""Folders of every format: recognized by their files, described by their configs, and refused by one sentence."""

import json
from pathlib import Path

import pytest
import torch

from lmsae.errors import FolderError
from lmsae.interop import dictionary_learning, openmoss, sparsify
from lmsae.interop.finished import FILES, Origin, format_of
from lmsae.interop.foreign_names import hook_point, mean_the_same, model_name
from lmsae.interop.loading import describe, load
from tests.interop import test_openmoss, test_sparsify
from tests.interop.peers import MADE, exported, made_as, rewritten
from tests.interop.test_damaged import FIELDS, FORMATS, NO_JSON, ODD_VALUES, change_config, whole


def without_weights(kind: str, folder: Path) -> Path:
    (folder / FORMATS[kind].weights).unlink()
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_is_known_by_its_files_and_described_as_it_is_loaded(tmp_path: Path, kind: str) -> None:
    known = whole(kind, tmp_path)
    assert FILES[format_of(tmp_path)] == (known.config, known.weights)
    described, loaded = describe(tmp_path), load(tmp_path)
    assert described.format == format_of(tmp_path) == kind
    assert described.dictionary == loaded.config == known.load(tmp_path).config


@pytest.mark.parametrize("name", MADE)
def test_every_architecture_of_saelens_is_described_without_its_weights(tmp_path: Path, name: str) -> None:
    folder = rewritten(exported(made_as(name), tmp_path))
    wanted = load(folder).config
    (folder / "sae_weights.safetensors").unlink()
    described = describe(folder)
    assert described.dictionary == wanted
    reads, elsewhere = ("blocks.1.hook_resid_post",), ("blocks.1.hook_mlp_out",)
    writes = elsewhere if "transcoder" in name else reads
    assert described.origin == Origin(models=("tiny",), reads=reads, writes=writes)


def test_a_config_with_all_sizes_needs_no_weights(tmp_path: Path) -> None:
    for kind in ("sparsify", "openmoss"):
        folder = tmp_path / kind
        folder.mkdir()
        whole(kind, folder)
        config = load(folder).config
        if kind == "openmoss":
            change_config(folder / FORMATS[kind].config, "expansion_factor", config.d_sae / config.widths.reads[0])
        assert describe(without_weights(kind, folder)).dictionary == config
    change_config(tmp_path / "sparsify" / "cfg.json", "num_latents", 0)
    change_config(tmp_path / "sparsify" / "cfg.json", "expansion_factor", 4)
    assert describe(tmp_path / "sparsify").dictionary.d_sae == 24


def test_sizes_that_a_config_lacks_come_from_the_weights(tmp_path: Path) -> None:
    known = whole("dictionary_learning", tmp_path)
    change_config(tmp_path / known.config, "trainer.k")
    assert describe(tmp_path).dictionary == load(tmp_path).config
    change_config(tmp_path / known.config, "trainer.dict_size")
    assert describe(tmp_path).dictionary == load(tmp_path).config
    with pytest.raises(FolderError, match=r"ae.pt: there is no such file"):
        describe(without_weights("dictionary_learning", tmp_path))


@pytest.mark.parametrize("damage", NO_JSON)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_config_that_is_no_object_of_json_is_refused_with_its_file(tmp_path: Path, kind: str, damage: str) -> None:
    known = whole(kind, tmp_path)
    (tmp_path / known.config).write_bytes(NO_JSON[damage])
    with pytest.raises(FolderError, match=known.config):
        describe(tmp_path)
    with pytest.raises(FolderError, match=known.config):
        describe(without_weights(kind, tmp_path))


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_field_of_any_value_is_described_or_refused_by_the_one_error(tmp_path: Path, kind: str, field: str) -> None:
    known = whole(kind, tmp_path)
    before = (tmp_path / known.config).read_bytes()
    for name in (field, "expansion_factor", "num_latents", "trainer.k", "metadata.model_name"):
        for value in ODD_VALUES:
            (tmp_path / known.config).write_bytes(before)
            if "." in name and name.partition(".")[0] not in json.loads(before):
                continue
            change_config(tmp_path / known.config, name, value)
            try:
                describe(tmp_path)
            except FolderError as error:
                assert str(tmp_path) in str(error)  # noqa: PT017  any other error fails the test


def test_a_folder_without_a_dictionary_is_told_what_would_be_one(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"holds no dictionary; wanted in it: dictionary.json and"):
        format_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(FolderError, match=r"config.json is damaged, or the config of no dictionary"):
        format_of(tmp_path)


def test_a_folder_that_lmsae_and_saelens_both_read_is_lmsaes(tmp_path: Path) -> None:
    made = made_as("topk")
    made.save(exported(made, tmp_path))
    assert format_of(tmp_path) == "lmsae"


def test_dictionary_learning_names_its_model_and_submodule(tmp_path: Path) -> None:
    known = whole("dictionary_learning", tmp_path)
    change_config(tmp_path / known.config, "trainer.lm_name", "EleutherAI/pythia-70m-deduped")
    change_config(tmp_path / known.config, "trainer.submodule_name", "resid_post_layer_3")
    at = ("blocks.3.hook_resid_post",)
    assert dictionary_learning.describe(tmp_path)[1] == Origin(
        models=("EleutherAI/pythia-70m-deduped",), reads=at, writes=at
    )


def test_sparsify_names_its_model_beside_the_folder_and_the_hook_point_by_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "layers.2.mlp"
    folder.mkdir()
    test_sparsify.written(folder)
    (tmp_path / "config.json").write_text('{"model": "EleutherAI/pythia-160m"}')
    at = ("blocks.2.hook_mlp_out",)
    assert sparsify.describe(folder)[1] == Origin(models=("EleutherAI/pythia-160m",), reads=at, writes=at)
    (tmp_path / "config.json").write_text("[")
    assert sparsify.describe(folder)[1].models == ()


def test_openmoss_names_its_hook_points(tmp_path: Path) -> None:
    test_openmoss.written(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    origin = openmoss.describe(tmp_path)[1]
    assert (origin.reads, origin.writes) == ((fields["hook_point_in"],), (fields["hook_point_out"],))


def test_short_names_of_models_are_those_of_the_hub() -> None:
    short = ("gpt2-small", "pythia-70m-deduped", "gemma-2-2b", "tiny-stories-1L-21M", "mistral-7b", "Qwen/Qwen3-8B")
    assert [model_name(name) for name in short] == [
        "gpt2",
        "EleutherAI/pythia-70m-deduped",
        "google/gemma-2-2b",
        "roneneldan/TinyStories-1Layer-21M",
        "mistralai/Mistral-7B-v0.1",
        "Qwen/Qwen3-8B",
    ]
    assert mean_the_same("gpt2-small", "openai-community/gpt2")
    assert not mean_the_same("gpt2-medium", "gpt2")


def test_short_names_that_transformerlens_knows_mean_its_models() -> None:
    from transformer_lens.supported_models import MODEL_ALIASES

    official = {alias: name for name, aliases in MODEL_ALIASES.items() for alias in aliases}
    for alias in ("gpt2-small", "pythia-70m", "gemma-2b", "tiny-stories-33M", "tiny-stories-1L-21M", "mistral-7b"):
        assert mean_the_same(alias, official[alias]), alias


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("model.layers.12", "blocks.12.hook_resid_post"),
        ("transformer.h.3.attn", "blocks.3.hook_attn_out"),
        ("gpt_neox.layers.0.mlp", "blocks.0.hook_mlp_out"),
        ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_pre"),
        ("blocks.3.ln2.hook_normalized", "blocks.3.ln2.hook_normalized"),
        ("embeddings", "embeddings"),
        ("blocks.3.hook_out", "blocks.3.hook_resid_post"),
        ("blocks.3.hook_in", "blocks.3.hook_resid_pre"),
        ("blocks.3.mlp.hook_out", "blocks.3.mlp.hook_out"),
    ],
)
def test_names_of_modules_are_the_hook_points_at_their_outputs(module: str, wanted: str) -> None:
    assert hook_point(module) == wanted


def test_weights_that_are_not_finite_are_refused_in_every_format(tmp_path: Path) -> None:
    for kind, known in FORMATS.items():
        folder = tmp_path / kind
        folder.mkdir()
        whole(kind, folder)
        weights = known.read_weights(folder)
        name = next(name for name, value in weights.items() if value.ndim == 2)
        weights[name] = weights[name].clone()
        weights[name][0, 0] = torch.nan
        known.write_weights(folder, weights)
        with pytest.raises(FolderError, match=f"{known.weights}: {name} holds NaN or infinity"):
            load(folder)
