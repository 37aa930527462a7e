"""verify."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.planning.passes import write_passes
from lmsae.planning.plan import plan_of
from tests.miniature import Said, keys, manifests

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
    assert "`lmsae run` makes what is missing. So does `snakemake train_all eval_all`" in said.out


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


def test_a_dictionary_that_was_deleted_is_wanted_again_and_activations_are_not(made: Path) -> None:
    """By the marks that Snakemake goes by, at every start."""
    plan, runtime = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    for stage, lost in (("activations", {"activations"}), ("train", {"activations", "train", "report"})):
        shutil.rmtree(made / "artifacts" / stage / keys(made, stage)[0])
        plan.write(Artifacts(runtime.artifacts), runtime.together)
        references = write_passes(plan, runtime)
        undone = {one for one in references if any(not _mark(made, mark).exists() for mark in references[one])}
        assert undone == lost


def _mark(folder: Path, reference: str) -> Path:
    return folder / "artifacts" / "passes" / f"{reference}.done"


def test_planning_a_finished_sweep_again_writes_nothing(made: Path) -> None:
    """So it works where the folder of artifacts is read-only."""

    def seen() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (made / "artifacts").rglob("*")}

    def plan() -> dict[Path, int]:
        plan, runtime = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
        plan.write(Artifacts(runtime.artifacts), runtime.together)
        write_passes(plan, runtime)
        return seen()

    assert plan() == plan()
