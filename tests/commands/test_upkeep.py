"""verify and gc."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact
from lmsae.artifacts.claim import hold_claim
from tests.miniature import ROWS, Said, keys, manifests, write_sweep

Lmsae = Callable[..., Said]


def test_verify_finds_a_finished_sweep_whole(finished: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    said = lmsae("verify")
    assert (said.code, said.out) == (0, f"{len(manifests(finished))} whole, 0 damaged, 0 wanted but not made\n")


def test_verify_says_what_the_plan_wants_and_is_not_there(made: Path, lmsae: Lmsae) -> None:
    """Not finished, or gone with all its folder: as after a clone that brought the plan and no artifacts."""
    Artifact(made / "artifacts" / "eval" / keys(made, "eval")[0]).clear()
    shutil.rmtree(made / "artifacts" / "train")
    said = lmsae("verify")
    assert said.code == 1
    assert f"{len(manifests(made))} whole, 0 damaged, 5 wanted but not made" in said.out
    assert "lmsae run" in said.out


def test_verify_looks_at_the_named_artifacts_only(made: Path, lmsae: Lmsae) -> None:
    damaged, whole = keys(made, "train")[:2]
    (made / "artifacts" / "train" / damaged / "curves.csv").write_text("step\n")
    assert lmsae("verify", whole) == Said(0, "1 whole, 0 damaged, 0 wanted but not made\n", "")
    said = lmsae("verify", damaged, whole)
    assert said.code == 1
    assert said.out.startswith(f"artifacts/train/{damaged}/curves.csv: its bytes are not those that were written\n")
    assert "1 whole, 1 damaged" in said.out


def test_a_damaged_artifact_deleted_as_told_comes_back_with_the_same_bytes(made: Path, lmsae: Lmsae) -> None:
    before = manifests(made)
    key = keys(made, "train")[0]
    (made / "artifacts" / "train" / key / "dictionary.safetensors").write_bytes(b"")
    assert "Delete a damaged artifact's directory" in lmsae("verify").out
    shutil.rmtree(made / "artifacts" / "train" / key)
    assert "train: 1 made, 3 there already" in lmsae("run").err
    assert manifests(made) == before


def test_gc_lists_what_no_row_wants_and_removes_nothing(made: Path, lmsae: Lmsae) -> None:
    before = manifests(made)
    lost = keys(made, "train")[-1]
    write_sweep(made, ROWS[:3])
    said = lmsae("gc")
    assert said.code == 0
    assert f"unwanted train/{lost}" in said.out
    assert "6 artifacts" in said.out  # the last row's own five, and the report of all four rows
    assert "`lmsae gc --delete` removes them" in said.out
    assert manifests(made) == before


def test_gc_removes_what_no_row_wants_and_nothing_else(made: Path, lmsae: Lmsae) -> None:
    write_sweep(made, ROWS[:3])
    unwanted = {line.split()[1] for line in lmsae("gc").out.splitlines() if line.startswith("unwanted")}
    before = set(manifests(made))
    assert lmsae("gc", "--delete").out.count("removed ") == len(unwanted) == 6
    assert set(manifests(made)) == before - unwanted
    assert not any((made / "artifacts" / reference).exists() for reference in unwanted)
    assert lmsae("gc").out == "0 artifacts, 0 bytes\n"
    assert "report: 1 made" in lmsae("run").err


def test_gc_leaves_what_somebody_is_making(made: Path, lmsae: Lmsae) -> None:
    lost = made / "artifacts" / "train" / keys(made, "train")[-1]
    write_sweep(made, ROWS[:3])
    with hold_claim(lost):
        assert lmsae("gc", "--delete").code == 2
    assert lost.exists()
