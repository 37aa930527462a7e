"""One object for a dictionary of any geometry, whatever it is called by and wherever it lies."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.named import load
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import FolderError, HookPointError, MissingArtifact, ShapeError, SourceError
from lmsae.interop import saelens
from tests.application.conftest import TEXT
from tests.architectures import parts, randomize
from tests.miniature import HERE, THERE


def test_a_row_a_key_and_a_folder_are_the_same_dictionary(here: Path, top: LoadedDictionary) -> None:
    folder = top.artifacts["train"]
    x = top.read(TEXT)
    for name in ("top/train", folder.name[:10], f"train/{folder.name}", folder, str(folder)):
        same = load(name, device="cpu")
        assert torch.equal(same.encode(x), top.encode(x))
        assert same.metrics == top.metrics
        assert same.features.info == top.features.info
        assert same.home == top.home


def test_a_row_knows_where_it_belongs_and_what_was_measured(here: Path) -> None:
    jump = load("jump", device="cpu")
    assert jump.model.d_vocab == 257
    assert jump.reads == jump.writes == (THERE,)
    written = (here / "results/rows/jump/eval/metrics.json").read_text()
    assert jump.metrics == json.loads(written)
    assert jump.features.info.reads[0].hook_point == THERE
    assert repr(jump) == f"<sae jump: 64 latents, jumprelu, {THERE}>"


def test_its_codes_and_reconstruction_are_those_of_the_dictionary(sae: LoadedDictionary) -> None:
    x = sae.read(TEXT)
    found = sae.model.read(sae.tokenize(TEXT), sae.reads)
    assert torch.equal(x, torch.cat([found[name] for name in sae.reads], dim=-1))
    codes = sae.encode(x)
    assert torch.equal(codes, sae.dictionary.encode(x))
    assert torch.equal(sae.decode(codes, x), sae.dictionary(x))
    torch.testing.assert_close(sae.encode(x, [9, 3]), codes[..., [9, 3]])


def test_sparse_codes_are_the_dense_ones(sae: LoadedDictionary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsae.application.sparse_codes.CODES_AT_ONCE", 3 * sae.latents)
    x = torch.cat([sae.read(TEXT), sae.read(TEXT[::-1])])
    codes, sparse = sae.encode(x), sae.encode_sparse(x)
    torch.testing.assert_close(sparse.to_dense(), codes)
    assert torch.equal(sparse.l0(), (codes != 0).sum(-1))
    assert len(sparse) == int((codes != 0).sum())
    latents, values = sparse.of(1, 2)
    torch.testing.assert_close(codes[1, 2, latents], values)
    assert torch.equal(values.abs(), values.abs().sort(descending=True).values)


def test_codes_are_decoded_alone_where_that_says_all(sae: LoadedDictionary) -> None:
    x = sae.read(TEXT)
    codes = sae.encode(x)
    if Path(sae.name).name in ("skip_transcoder", "molt", "by_token", "gated"):
        with pytest.raises(ShapeError, match=r"Give x, too"):
            sae.decode(codes)
    else:
        torch.testing.assert_close(sae.decode(codes), sae.decode(codes, x))


@pytest.mark.parametrize("number", [64, -1])
def test_a_latent_that_there_is_not_is_refused(top: LoadedDictionary, number: int) -> None:
    with pytest.raises(ShapeError, match="there is no latent"):
        top.encode(top.read(TEXT), [number])


@pytest.mark.parametrize("name", ["tpo", "nowhere/at-all", "0000000000"])
def test_a_name_that_means_nothing_is_told(here: Path, name: str) -> None:
    with pytest.raises(FolderError) as error:
        load(name)
    assert "did you mean top" in str(error.value) or name != "tpo"


def test_a_row_that_is_not_finished_says_how_it_is_made(made: Path) -> None:
    (folder,) = {path.resolve() for path in (made / "results/rows/top").glob("train")}
    for name in ("manifest.json", ".manifest.json"):
        (folder / name).unlink()
    with pytest.raises(MissingArtifact, match=f"lmsae train {folder.name}"):
        load("top")


def test_a_row_whose_evaluation_was_deleted_is_of_use_all_the_same(made: Path) -> None:
    shutil.rmtree((made / "results/rows/top/eval").resolve())
    top = load("top", device="cpu")
    assert top.reads == (HERE,)
    assert top.encode(top.read(TEXT)).any()


def test_a_row_without_evaluation_or_features_says_so(here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    shutil.copytree(here / "artifacts", folder, ignore=shutil.ignore_patterns("eval", "features", "sweeps"))
    key = load("top").artifacts["train"].name
    alone = load(key, artifacts=folder)
    assert alone.reads == (HERE,)
    with pytest.raises(MissingArtifact, match="no finished eval"):
        _ = alone.metrics
    with pytest.raises(MissingArtifact, match="no finished features"):
        _ = alone.features


def test_a_folder_of_another_library_is_one_too(here: Path, tmp_path: Path) -> None:
    made = randomize(Dictionary(parts("topk", width=16, d_sae=32, normalize_activations="none")[0]))
    saelens.export(made, tmp_path, provenance={"model_name": "model", "hook_name": THERE}, density=None)
    theirs = load(tmp_path, device="cpu")
    assert theirs.reads == theirs.writes == (THERE,)
    assert theirs.artifacts == {}
    x = theirs.read(TEXT)
    torch.testing.assert_close(theirs.encode(x), made.eval().encode(x))
    assert theirs.generate(TEXT, add={3: 1.0}, max_new_tokens=2).prompt == TEXT
    with pytest.raises(MissingArtifact, match="lmsae eval --dictionary"):
        _ = theirs.metrics


def test_a_folder_that_names_no_model_is_given_one(here: Path, tmp_path: Path) -> None:
    randomize(Dictionary(parts("topk", width=16, d_sae=32)[0])).save(tmp_path)
    with pytest.raises(SourceError, match=r"which model .* belongs to: lmsae.load\(.*, model="):
        _ = load(tmp_path).model
    with pytest.raises(SourceError, match="which hook point"):
        _ = load(tmp_path, model="model").reads
    given = load(tmp_path, model="model", hook_point=HERE, device="cpu", dtype="bfloat16")
    assert given.read(TEXT).shape == (1, len(TEXT) + 1, 16)
    assert next(iter(given.model.weights.values())).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("named", "error", "part"),
    [
        ({"hook_point": "blocks.7.hook_resid_post"}, HookPointError, "2 layers"),
        ({"hook_point": "blocks.0.mlp.hook_post"}, ShapeError, "has width 32, and .* has 16 there"),
        ({"hook_point": f"{HERE} {THERE}"}, ShapeError, "has 1 hook points on a side, and 2 are named"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(
    here: Path, named: dict[str, Any], error: type[Exception], part: str
) -> None:
    with pytest.raises(error, match=part):
        load("top", **named).generate(TEXT)


def test_text_begins_with_bos_and_ids_stay_as_they_are(top: LoadedDictionary) -> None:
    ids = top.tokenize(TEXT)
    assert ids.tolist() == [[0, *ids[0, 1:].tolist()]]
    assert top.texts.texts[int(ids[0, 1])] == TEXT[0]
    assert torch.equal(top.tokenize(ids), ids)
    assert torch.equal(top.tokenize(ids[0].tolist()), ids)
    assert top.counted(ids).tolist() == [[False, *[True] * len(TEXT)]]
