"""The command `export`: dictionaries of a sweep in the formats of other tools, whole or not at all."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE

from lmsae.dictionary.dictionary import Dictionary
from lmsae.interpretation.opening import Features, open_features
from lmsae.planning.plan import plan_of
from lmsae.stages.row import PlannedRow
from tests.conftest import made_once
from tests.interop.circuit_tracer_reader import read_config, read_layers, run_clt, run_layer
from tests.interop.neuronpedia_tables import read_source, require_links
from tests.interop.test_saebench import require_valid
from tests.miniature import Said, make_until, row_of, write_sweep

Lmsae = Callable[..., Said]
RELU = {"sae.act_fn": "relu", "sae.losses": "l1", "sae.l1_coefficient": "1", "sae.k": ""}


def at(layer: int, **cells: str) -> dict[str, str]:
    """A transcoder's row: from what the MLP of a layer reads to what it writes."""
    where = {
        "sae.hook_point_in": f"blocks.{layer}.ln2.hook_normalized",
        "sae.hook_point_out": f"blocks.{layer}.hook_mlp_out",
    }
    return row_of("transcoder", **{**where, "name": f"mlp{layer}", **cells})


GIVEN = [
    at(0),
    at(1, **RELU),
    row_of("batchtopk", name="batch"),
    row_of("matryoshka", name="nested"),
    row_of("clt", **{"sae.hook_point_in": "blocks.0.ln2.hook_normalized blocks.1.ln2.hook_normalized"}),
    row_of("molt"),
    row_of("abstopk", name="signed"),
    row_of("crosscoder", name="across"),
]


@pytest.fixture(scope="session")
def given(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with rows to give away, made as far as their features. Look, and do not touch."""

    def make(folder: Path) -> None:
        shutil.copytree(pristine, folder, dirs_exist_ok=True)
        write_sweep(folder, GIVEN)
        with contextlib.chdir(folder):
            make_until("features")

    return made_once("given", tmp_path_factory, make)


@pytest.fixture
def here(given: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: what `given` has."""
    monkeypatch.chdir(given)
    return given


def planned(row: str, here: Path) -> PlannedRow:
    plan, _ = plan_of(here / "config/config.yaml", here / "config/sweep.tsv", [], {})
    return next(one for one in plan.rows if one.name == row)


def dictionary(row: str, here: Path) -> Dictionary:
    return Dictionary.load(here / "artifacts" / planned(row, here).dictionary.reference)


def noise(width: int = 16) -> torch.Tensor:
    return 3 * torch.randn(50, width, generator=torch.Generator().manual_seed(0))


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_set_of_transcoders_is_written_for_circuit_tracer_and_conversion_tells_its_cost(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    folder = tmp_path / "set"
    said = lmsae("export", "circuit-tracer", "mlp1", "mlp0", str(folder), "--convert")
    assert said.code == 0, said.err
    cost, wrote = said.out.splitlines()
    assert cost.startswith("mlp0 as jumprelu: explained variance ")
    assert wrote == f"wrote {folder} for circuit-tracer: transcoder_set, 2 layers"
    assert names_in(folder) == {"config.yaml", "layer_0.safetensors", "layer_1.safetensors"}
    assert read_config(folder) == {
        "model_kind": "transcoder_set",
        "model_name": "model",
        "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out",
        "scan": "set",
    }
    layers, x, ours = read_layers(folder), noise(), dictionary("mlp1", here)
    codes, output = run_layer(layers[1], x.double().numpy())
    np.testing.assert_allclose(codes, ours.encode(x), atol=1e-4)
    np.testing.assert_allclose(output, ours(x), atol=1e-4)
    assert ["activation_function.threshold" in one for one in layers] == [True, False]


def test_a_clt_is_written_for_circuit_tracer(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    assert lmsae("export", "circuit-tracer", "clt", str(tmp_path), "--scan", "my/clt").code == 0
    assert (read_config(tmp_path)["model_kind"], read_config(tmp_path)["scan"]) == ("cross_layer_transcoder", "my/clt")
    ours, x = dictionary("clt", here), noise(32)
    codes, outputs = run_clt(tmp_path, list(np.split(x.double().numpy(), 2, axis=1)))
    np.testing.assert_allclose(np.concatenate(codes, 1), ours.encode(x), atol=1e-4)
    np.testing.assert_allclose(np.concatenate(outputs, 1), ours(x), atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["mlp0", "mlp1"], "mlp0: circuit-tracer 0.5 has relu and jumprelu, and this is topk. --convert writes it"),
        (["mlp1"], "there is no dictionary for layer 0. Add rows"),
        (["mlp1", "batch"], "batch: circuit-tracer traces through transcoders and clts, and this is a sae."),
        (["mlp1", "nobody"], "No row is called 'nobody' either"),
        (["mlp1/features"], "is no dictionary: name a row, or a train artifact"),
    ],
)
def test_what_circuit_tracer_cannot_have_is_refused_and_nothing_written(
    here: Path, tmp_path: Path, lmsae: Lmsae, rows: list[str], why: str
) -> None:
    said = lmsae("export", "circuit-tracer", *rows, str(tmp_path / "set"))
    assert (said.code, why in said.err) == (2, True), said
    assert not [*tmp_path.iterdir()]


def test_saelens_opens_each_row_in_a_folder_of_its_own_with_what_was_measured(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    said = lmsae("export", "saelens", "batch", "nested", str(tmp_path / "hub"))
    assert said.code == 0, said.err
    for row, architecture in (("batch", "batchtopk"), ("nested", "matryoshka_batchtopk")):
        sae, ours, x = SAE.load_from_disk(str(tmp_path / "hub" / row)), dictionary(row, here), noise()
        torch.testing.assert_close(sae(x), ours(x), rtol=1e-4, atol=1e-4)
        metrics = evaluation(row, here)
        found = sae.cfg.metadata
        assert (found.l0, found.num_dead_features) == (metrics["l0"], metrics["dead"])
        assert (found.training_architecture, sae.cfg.architecture()) == (architecture, "jumprelu")
        assert found.model_name == "model"


def evaluation(row: str, here: Path) -> dict[str, Any]:
    file = here / "artifacts" / planned(row, here).specs["eval"].reference / "metrics.json"
    return json.loads(file.read_text())


def test_a_transcoder_with_topk_is_converted_for_saelens_where_that_is_asked_for(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    assert lmsae("export", "saelens", "mlp0", str(tmp_path / "hub"), "--convert").code == 0
    sae = SAE.load_from_disk(str(tmp_path / "hub/mlp0"))
    assert sae.cfg.metadata.training_architecture == "topk_transcoder"
    assert sae.cfg.architecture() == "jumprelu_transcoder"


def test_a_row_that_saelens_cannot_have_costs_no_other_row(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    said = lmsae("export", "saelens", "molt", "batch", str(tmp_path / "hub"))
    assert said.code == 2
    assert f"wrote {tmp_path / 'hub'}, but for 1 of 2 dictionaries:\n  molt: SAELens has no molt" in said.err
    assert {path.parts[0] for path in map(Path, names_in(tmp_path / "hub"))} == {"batch"}
    alone = lmsae("export", "saelens", "molt", str(tmp_path / "none"))
    assert (alone.code, (tmp_path / "none").exists()) == (2, False)


def test_a_key_without_a_row_is_exported_with_its_own_evaluation(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    reference = planned("batch", here).dictionary.reference
    assert lmsae("export", "saelens", reference, str(tmp_path / "hub")).code == 0
    config = json.loads((tmp_path / "hub" / reference.replace("/", "-") / "cfg.json").read_text())
    assert config["metadata"]["l0"] == evaluation("batch", here)["l0"]


def test_a_folder_with_something_in_it_is_left_alone(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    said = lmsae("export", "saelens", "batch", str(tmp_path))
    assert (said.code, f"{tmp_path} is not empty; name a new folder" in said.err) == (2, True)
    assert names_in(tmp_path) == {"mine.txt"}


def test_saebench_gets_a_core_result_of_each_row(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    said = lmsae("export", "saebench", "batch", "mlp0", "molt", str(tmp_path / "results"), "--release", "mine")
    assert said.code == 0, said.err
    core = tmp_path / "results" / "eval_results" / "core"
    assert names_in(core) == {f"mine_{row}_eval_results.json" for row in ("batch", "mlp0", "molt")}
    for row in ("batch", "mlp0", "molt"):
        result, metrics = json.loads((core / f"mine_{row}_eval_results.json").read_text()), evaluation(row, here)
        require_valid(result)
        found = result["eval_result_metrics"]
        assert found["model_performance_preservation"]["ce_loss_with_sae"] == metrics["ce_spliced"]
        assert found["shrinkage"]["l2_norm_in"] == metrics["l2_norm_in"] > 0
        assert found["sparsity"]["l0"] == metrics["l0"]
        assert found["misc_metrics"]["frac_alive"] == pytest.approx(1 - metrics["dead_share"])
        assert result["sae_cfg_dict"]["training_tokens"] == 8192
        assert result["eval_config"]["n_eval_reconstruction_batches"] == 2  # 1024 tokens in contexts of 32, 16 at once
    batch = json.loads((core / "mine_batch_eval_results.json").read_text())
    assert batch["sae_cfg_dict"]["architecture"] == "jumprelu"
    assert max(latent["consistent_activation_heuristic"] for latent in batch["eval_result_details"]) > 1
    again = tmp_path / "again"
    assert lmsae("export", "saebench", "batch", str(again), "--release", "mine").code == 0
    same = again / "eval_results/core/mine_batch_eval_results.json"
    assert same.read_bytes() == (core / "mine_batch_eval_results.json").read_bytes()


def test_a_clt_has_no_result_there(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    said = lmsae("export", "saebench", "clt", str(tmp_path / "results"))
    assert (said.code, "SAEBench scores dictionaries of one hook point" in said.err) == (2, True)
    assert not [*tmp_path.iterdir()]


def read_back(folder: Path, source: str) -> dict[str, list[dict[str, Any]]]:
    found = read_source(folder / "v1" / "model" / source)
    require_links(found)
    return found


def features_of(row: str, here: Path) -> Features:
    return open_features(here / "artifacts" / planned(row, here).of("features")[0].reference)


def test_a_bundle_for_neuronpedia_has_every_latent_and_every_piece_of_text(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    folder = tmp_path / "bundle"
    said = lmsae("export", "neuronpedia", "batch", str(folder), "--title", "Ours", "--url", "https://example.org")
    assert said.code == 0, said.err
    assert said.out == f"wrote {folder} for Neuronpedia: 0-batch\n"
    found, features = read_back(folder, "0-batch"), features_of("batch", here)
    (release,), (model,), (source,) = (found[table] for table in ("SourceRelease", "Model", "Source"))
    assert (release["name"], release["description"], release["urls"]) == ("bundle", "Ours", ["https://example.org"])
    assert (model["layers"], model["dimension"], model["neuronsPerLayer"]) == (2, 16, 32)
    assert (source["num_prompts"], source["num_tokens_in_prompt"]) == (features.info.contexts, 32)
    for row, theirs in zip(features.latents().to_pylist(), found["Neuron"], strict=True):
        assert theirs["index"] == str(row["latent"])
        assert theirs["frac_nonzero"] == row["firing_rate"]
        assert theirs["maxActApprox"] == row["max_activation"]
        assert sum(theirs["freq_hist_data_bar_heights"]) == row["active_tokens"]
        assert theirs["pos_str"] == [one["text"] for one in row["promoted"]]
        assert theirs["neg_values"] == [one["logit"] for one in row["suppressed"]]
    for piece, theirs in zip(features.contexts().to_pylist(), found["Activation"], strict=True):
        assert theirs["tokens"] == piece["texts"]
        assert theirs["values"] == [value or 0 for value in piece["activations"]]
        assert theirs["values"][theirs["qualifyingTokenIndex"]] == piece["activation"]
        assert theirs["values"][theirs["maxValueTokenIndex"]] == theirs["maxValue"]
        if piece["kind"] == "top":
            assert (theirs["binMin"], theirs["binContains"]) == (-1, -1)
        else:
            assert theirs["binMin"] <= piece["activation"] * 1.00001
            assert piece["activation"] <= theirs["binMax"] * 1.00001


def test_intervals_tell_the_share_of_all_tokens_that_is_in_them(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    assert lmsae("export", "neuronpedia", "batch", str(tmp_path)).code == 0
    found, features = read_back(tmp_path, "0-batch"), features_of("batch", here)
    rates = {str(row["latent"]): row["firing_rate"] for row in features.latents().to_pylist()}
    shares: dict[str, dict[float, float]] = {}
    for piece in found["Activation"]:
        if piece["binMin"] != -1:
            shares.setdefault(piece["index"], {})[piece["binMin"]] = piece["binContains"]
    # Every bin that holds a token has a sample, so those that are shown are all.
    assert shares
    for index, of_bins in shares.items():
        assert sum(of_bins.values()) == pytest.approx(rates[index])


def test_dimensions_of_decoder_rows_are_told_by_their_size(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    assert lmsae("export", "neuronpedia", "batch", str(tmp_path)).code == 0
    rows: Any = dictionary("batch", here).fold_normalizers().geometry.W_dec
    for latent, row in zip(read_back(tmp_path, "0-batch")["Neuron"], rows.double().numpy(), strict=True):
        first = np.argsort(-row)[:3]
        assert latent["neuron_alignment_indices"] == first.tolist()
        np.testing.assert_allclose(latent["neuron_alignment_values"], row[first], rtol=1e-5)
        np.testing.assert_allclose(latent["neuron_alignment_l1"], abs(row[first]) / abs(row).sum(), rtol=1e-5)


def test_layers_of_one_slug_are_one_set_and_those_of_a_clt_a_source_each(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    assert lmsae("export", "neuronpedia", "mlp0", "mlp1", str(tmp_path / "mlp"), "--slug", "mlp-64").code == 0
    assert [read_back(tmp_path / "mlp", f"{n}-mlp-64")["SourceSet"][0]["name"] for n in (0, 1)] == ["mlp-64"] * 2
    assert lmsae("export", "neuronpedia", "clt", str(tmp_path / "clt"), "--model-id", "model").code == 0
    rates = [row["firing_rate"] for row in features_of("clt", here).latents().to_pylist()]
    for layer in (0, 1):
        latents = read_back(tmp_path / "clt", f"{layer}-clt")["Neuron"]
        assert [one["index"] for one in latents] == [str(number) for number in range(64)]
        assert [one["frac_nonzero"] for one in latents] == rates[64 * layer : 64 * layer + 64]


def test_two_dictionaries_are_not_one_source(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    said = lmsae("export", "neuronpedia", "batch", "nested", str(tmp_path / "both"), "--slug", "res")
    assert (said.code, "nested: batch is the source 0-res already" in said.err) == (2, True)
    assert {path.parts[2] for path in map(Path, names_in(tmp_path / "both"))} == {"0-res"}


def test_the_same_features_give_the_same_bundle(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    for name in ("first", "second"):
        assert lmsae("export", "neuronpedia", "batch", str(tmp_path / name), "--release", "mine").code == 0
    first, second = (tmp_path / name for name in ("first", "second"))
    assert names_in(first) == names_in(second)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names_in(first))


@pytest.mark.parametrize(
    ("row", "why"), [("signed", "abstopk have signs"), ("across", "belongs to one layer, and this crosscoder reads")]
)
def test_what_neuronpedia_cannot_show_is_refused(here: Path, tmp_path: Path, lmsae: Lmsae, row: str, why: str) -> None:
    said = lmsae("export", "neuronpedia", row, str(tmp_path / "none"))
    assert (said.code, why in said.err) == (2, True), said
    assert not [*tmp_path.iterdir()]
