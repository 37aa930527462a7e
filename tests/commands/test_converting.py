"""Conversion to jumprelu: as a command, and as a setting of a row."""

import json
import re
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE

from lmsae.dictionary.dictionary import Dictionary
from lmsae.interop import saelens
from tests.miniature import ROWS, Said, keys, make_until, manifests, row_of, write_config, write_sweep

Lmsae = Callable[..., Said]
TOP, BATCH, PLAIN, JUMP = range(4)


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished miniature as the working directory; converting changes nothing in it."""
    monkeypatch.chdir(finished)
    return finished


def metrics_of(row: str, folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results" / "rows" / row / "eval" / "metrics.json").read_text())


@pytest.mark.parametrize("row", [TOP, BATCH])
def test_a_converted_dictionary_can_be_read_here_and_by_saelens(
    here: Path, tmp_path: Path, lmsae: Lmsae, row: int
) -> None:
    key, folder = keys(here, "train")[row], tmp_path / "new" / "converted"
    before = manifests(here)
    said = lmsae("convert", key[:8], str(folder))
    assert said.code == 0, said.err
    first, second = said.out.splitlines()
    number = r"-?\d+\.\d+"
    cost = rf"explained variance {number} -> {number}, L0 {number} -> {number} \([\d,]+ calibration tokens\)"
    assert re.fullmatch(rf"train/{key} as jumprelu: {cost}", first)
    assert second == f"wrote {folder}, for lmsae and SAELens"
    converted = Dictionary.load(folder)
    assert converted.config.act_fn.kind == "jumprelu"
    x = 3 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(SAE.load_from_disk(str(folder))(x), converted(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(saelens.load(folder)(x), converted(x), rtol=1e-4, atol=1e-4)
    assert manifests(here) == before


def test_batchtopk_is_converted_without_any_change(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    key = keys(here, "train")[BATCH]
    assert lmsae("convert", key, str(tmp_path)).code == 0
    original, converted = (Dictionary.load(folder) for folder in (here / "artifacts/train" / key, tmp_path))
    x = 3 * torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    assert original.encode(x).any()
    assert torch.equal(original.encode(x), converted.encode(x))
    assert torch.equal(original(x), converted(x))
    cost = json.loads((tmp_path / "conversion.json").read_text())
    assert cost["conversion_l0_before"] == cost["conversion_l0_after"] > 0
    assert cost["conversion_explained_variance_before"] == cost["conversion_explained_variance_after"]


def test_topk_is_converted_to_latents_that_fire_above_the_threshold_learned(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    key = keys(here, "train")[TOP]
    assert lmsae("convert", key, str(tmp_path)).code == 0
    original, converted = (Dictionary.load(folder) for folder in (here / "artifacts/train" / key, tmp_path))
    sparsity: Any = converted.sparsity
    threshold = sparsity.threshold
    assert threshold.unique().numel() == 1
    assert threshold[0] > 0
    x = 3 * torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    pre = original.geometry.encode(original.read(x))
    assert torch.equal(converted.encode(x), pre.where(pre > threshold, 0))
    assert not torch.equal(original.encode(x), converted.encode(x))
    assert json.loads((tmp_path / "conversion.json").read_text())["conversion_l0_before"] <= 4


@pytest.mark.parametrize(("row", "why"), [(PLAIN, "it learns no threshold in training"), (JUMP, "it is one already")])
def test_what_cannot_be_converted_is_refused_and_nothing_written(
    here: Path, tmp_path: Path, lmsae: Lmsae, row: int, why: str
) -> None:
    said = lmsae("convert", keys(here, "train")[row], str(tmp_path / "new"))
    assert (said.code, why in said.err) == (2, True), said
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_left_alone(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    said = lmsae("convert", keys(here, "train")[TOP], str(tmp_path))
    assert (said.code, f"{tmp_path} is not empty" in said.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """No file that is written within the block may become larger; the kernel says so."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("was_there", [False, True])
def test_a_disk_that_cannot_hold_the_file_is_told_and_the_folder_left_as_it_was(
    here: Path, tmp_path: Path, lmsae: Lmsae, was_there: bool
) -> None:
    folder, key = tmp_path / "new", keys(here, "train")[TOP]
    if was_there:
        folder.mkdir()
    with largest_file(4096):
        said = lmsae("convert", key, str(folder))
    assert (said.code, said.out) == (2, "")
    assert f"{folder}: a file became larger than its disk, or `ulimit -f`, allows" in said.err
    assert [path.name for path in tmp_path.rglob("*")] == (["new"] if was_there else [])
    assert lmsae("convert", key, str(folder)).code == 0


def test_room_for_the_folder_is_asked_for_beforehand(
    here: Path, tmp_path: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, usage = keys(here, "train")[TOP], namedtuple("usage", "total used free")
    assert lmsae("convert", key, str(tmp_path / "first")).code == 0
    nbytes = sum(value.nbytes for value in Dictionary.load(tmp_path / "first").state_dict().values())
    assert nbytes > 2 * 16 * 64 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 1000, 1000))
    said = lmsae("convert", key, str(tmp_path / "new"))
    needs = f"({2 * nbytes:,} bytes) and its disk has 1 kB (1,000 bytes) free"  # for lmsae, and for SAELens
    assert needs in said.err
    assert said.err.rstrip().endswith("or name a folder on another disk.")
    assert (said.code, (tmp_path / "new").exists()) == (2, False)


@pytest.mark.parametrize(("stage", "why"), [("eval", "is no dictionary"), ("norm", "is no dictionary")])
def test_an_artifact_that_is_no_dictionary_is_refused(
    here: Path, tmp_path: Path, lmsae: Lmsae, stage: str, why: str
) -> None:
    said = lmsae("convert", f"{stage}/{keys(here, stage)[0]}", str(tmp_path))
    assert (said.code, why in said.err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_rows_may_be_converted_after_training_and_say_what_that_cost(made: Path, lmsae: Lmsae) -> None:
    convert = {"sae.convert_to_jumprelu": "true"}
    rows = [
        ROWS[TOP],
        ROWS[BATCH],
        {**ROWS[TOP], **convert, "name": "top2"},
        {**ROWS[BATCH], **convert, "name": "batch2"},
    ]
    write_sweep(made, rows)
    said = lmsae("run")
    assert [line for line in said.err.splitlines() if " 0 made" not in line] == [
        "train: 2 made, 2 there already",
        "eval: 2 made, 2 there already",
        "features: 2 made, 2 there already",
        "page: 2 made, 2 there already",
        "report: 1 made, 0 there already",
    ]
    before, after = metrics_of("batch", made), metrics_of("batch2", made)
    cost = {name: after.pop(name) for name in [*after] if name.startswith("conversion_")}
    assert before.pop("l0_over_k") == before["l0"] / 4  # a jumprelu has no k
    assert before == after
    assert set(cost) == {
        "conversion_tokens",
        *(f"conversion_{name}_{when}" for name in ("explained_variance", "l0") for when in ("before", "after")),
    }
    assert cost["conversion_l0_before"] == cost["conversion_l0_after"]
    top, top2 = metrics_of("top", made), metrics_of("top2", made)
    assert top["l0"] != top2["l0"]
    # The threshold is that of as many active latents, to within the rounding of products.
    assert top2["conversion_l0_after"] == pytest.approx(top2["conversion_l0_before"], rel=2e-3)
    saved = Dictionary.load(made / "results/rows/top2/train")
    assert saved.config.act_fn.kind == "jumprelu"
    assert "cfg.json" in {path.name for path in (made / "results/saelens/top2").iterdir()}
    assert "conversion_l0_after" in (made / "results/table.csv").read_text()


def test_a_dictionary_of_whole_contexts_is_converted_too(fresh: Path) -> None:
    write_config(fresh, train={"tokens": 1024}, eval={"tokens": 128})
    write_sweep(fresh, [row_of("lorsa", **{"sae.convert_to_jumprelu": "true"})])
    make_until("eval")
    metrics = json.loads((fresh / "artifacts/eval" / keys(fresh, "eval")[0] / "metrics.json").read_text())
    assert metrics["conversion_tokens"] <= 1024
    assert metrics["conversion_l0_before"] <= 4
