"""gc: what no sweep wants any more, and from whom it would be taken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.claim import hold_claim
from lmsae.artifacts.planned import read_planned
from tests.miniature import ROWS, Said, keys, manifests, write_sweep

Lmsae = Callable[..., Said]
OTHER = ["--config", "other/config.yaml", "--sweep", "other/sweep.tsv"]


def test_gc_lists_what_no_row_wants_and_removes_nothing(made: Path, lmsae: Lmsae) -> None:
    before = manifests(made)
    lost = keys(made, "train")[-1]
    write_sweep(made, ROWS[:3])
    said = lmsae("gc")
    assert said.code == 0
    assert f"unwanted train/{lost}" in said.out
    assert "8 artifacts" in said.out  # the last row's own seven, and the report of all four rows
    assert "the same command with --delete removes what it lists" in said.out
    assert manifests(made) == before


def test_gc_removes_what_no_row_wants_and_nothing_else(made: Path, lmsae: Lmsae) -> None:
    write_sweep(made, ROWS[:3])
    unwanted = {line.split()[1] for line in lmsae("gc").out.splitlines() if line.startswith("unwanted")}
    before = set(manifests(made))
    assert lmsae("gc", "--delete").out.count("removed ") == len(unwanted) == 8
    assert set(manifests(made)) == before - unwanted
    assert not any((made / "artifacts" / reference).exists() for reference in unwanted)
    assert lmsae("gc").out == "0 artifacts, 0 bytes\n"
    assert "report: 1 made" in lmsae("run").err


def test_gc_forgets_the_specs_of_rows_that_have_gone_and_a_plan_alone_does_not(made: Path, lmsae: Lmsae) -> None:
    lost, kept = (f"train/{keys(made, 'train')[place]}" for place in (-1, 0))
    write_sweep(made, ROWS[:3])
    assert lmsae("plan").code == 0
    assert read_planned(made / "artifacts", lost)
    assert lmsae("gc", "--delete").code == 0
    assert (read_planned(made / "artifacts", lost), bool(read_planned(made / "artifacts", kept))) == (None, True)


def test_gc_counts_one_as_one(made: Path, lmsae: Lmsae) -> None:
    write_sweep(made, ROWS[:3])
    assert "\n1 artifact, " in lmsae("gc", "--larger-than", largest_unwanted(lmsae("gc").out)).out


def largest_unwanted(said: str) -> str:
    """The size of the largest artifact that is listed, in the words of a flag."""
    sizes = [line.split()[2].replace(",", "") for line in said.splitlines() if line.startswith("unwanted")]
    return f"{max(map(int, sizes))}B"


def test_gc_leaves_what_somebody_is_making(made: Path, lmsae: Lmsae) -> None:
    lost = made / "artifacts" / "train" / keys(made, "train")[-1]
    write_sweep(made, ROWS[:3])
    with hold_claim(lost):
        assert lmsae("gc", "--delete").code == 75
    assert lost.exists()


@pytest.fixture
def shared(made: Path, lmsae: Lmsae) -> Path:
    """A finished sweep of four rows, and another one of a folder of its own in which the first row has gone."""
    shutil.copytree(made / "config", made / "other")
    write_sweep(made, ROWS[1:])
    (made / "config").rename(made / "changed")
    (made / "other").rename(made / "config")
    (made / "changed").rename(made / "other")
    assert lmsae("run", *OTHER).code == 0
    return made


def test_gc_keeps_what_another_sweep_wants_and_says_so(shared: Path, lmsae: Lmsae) -> None:
    before = set(manifests(shared))
    write_sweep(shared, ROWS[:1])
    said = lmsae("gc", "--delete").out
    taken = before - set(manifests(shared))
    assert {reference.split("/")[0] for reference in taken} == {"report"}
    assert "of config/config.yaml + config/sweep.tsv: all rows" in said
    assert "for other/config.yaml + other/sweep.tsv (`lmsae gc --forget other-" in said
    assert lmsae("run", *OTHER).err.count(" 0 made") == 9


def test_gc_says_what_it_would_take_from_whom_and_takes_it_only_from_the_one_that_is_named(
    shared: Path, lmsae: Lmsae
) -> None:
    write_sweep(shared, ROWS[:1])
    said = lmsae("gc", "--forget", "other").out
    lost = [line for line in said.splitlines() if line.startswith("unwanted train/")]
    assert len(lost) == 3
    assert sorted(line.rpartition("other/sweep.tsv: row ")[2] for line in lost) == ["batch", "jump", "plain"]
    assert "the same command with --delete removes what it lists" in said
    assert lmsae("gc", "--forget", "other", "--delete").code == 0
    assert lmsae("gc").out == "0 artifacts, 0 bytes\n"
    assert {reference.split("/")[0] for reference in manifests(shared)} == {
        "tokenize", "activations", "norm", "init", "train", "eval", "features", "page",
    }  # fmt: skip


def test_a_sweep_that_nobody_knows_cannot_be_forgotten(shared: Path, lmsae: Lmsae) -> None:
    said = lmsae("gc", "--forget", "mine")
    assert (said.code, "there are: other-" in said.err) == (2, True)


def test_gc_says_whose_files_are_gone_and_still_keeps_what_they_want(shared: Path, lmsae: Lmsae) -> None:
    shutil.rmtree(shared / "other")
    before = manifests(shared)
    assert "whose files are gone" in lmsae("gc", "--delete").out
    assert manifests(shared) == before


def test_a_note_of_a_sweep_that_cannot_be_read_stops_gc(shared: Path, lmsae: Lmsae) -> None:
    (note,) = (shared / "artifacts" / "sweeps").glob("other-*.json")
    for text in ("", "null", "{}", json.dumps({"wants": {"a": ["../../x"]}})):
        note.write_text(text)
        said = lmsae("gc", "--delete")
        assert (said.code, str(note.relative_to(shared)) in said.err) == (2, True)
