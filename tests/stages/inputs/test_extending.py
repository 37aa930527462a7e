"""Longer runs: they go on from a shorter one where they may, and end in the bytes of a run that never stopped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsae.artifacts.artifact import Artifact
from tests.miniature import HERE, Said, keys, write_config, write_sweep

Lmsae = Callable[..., Said]
STEADY = {"lr_warm_up_steps": 4, "lr_schedule": "constant"}
ROWS = [
    {"name": "batch", "sae.architecture": "batchtopk", "sae.k": "4"},
    {"name": "jump", "sae.architecture": "jumprelu", "sae.l0_coefficient": "0.1", "train.ema": "0.9"}
    | {"train.sparsity_warm_up_steps": "3"},
    {"name": "muon", "sae.architecture": "topk", "sae.k": "4", "train.optimizer": "muon", "train.resample_steps": "5"},
]
SHORT, LONG = 256 * 21, 256 * 48


def sweep(
    folder: Path, tokens: int, rows: list[dict[str, str]] = ROWS, checkpoint_steps: int = 0, **train: Any
) -> None:
    """A sweep of runs of so many tokens, whose schedules do not know how many."""
    runtime = {"device": "cpu", "threads": 1, "keep_training_state": True, "checkpoint_steps": checkpoint_steps}
    shared = {"dead_threshold": 512, "epochs": 3, "tokens": tokens, **STEADY, **train}
    write_config(folder, train=shared, runtime=runtime)
    write_sweep(folder, [{"sae.hook_point": HERE} | row for row in rows])


def made(folder: Path) -> list[Artifact]:
    return [Artifact(folder / "artifacts/train" / key) for key in keys(folder, "train")]


def payload(folder: Path) -> dict[str, bytes]:
    """All that the dictionaries of the sweep consist of, and their manifests."""
    assert [artifact.damaged_files() for artifact in made(folder)] == [[] for _ in made(folder)]
    return {
        f"{artifact.path.name}/{name}": (artifact.path / name).read_bytes()
        for artifact in made(folder)
        for name in ["manifest.json", *(entry["path"] for entry in artifact.manifest()["files"])]
    }


def extends(folder: Path) -> list[dict[str, Any] | None]:
    """What each run of the sweep went on from."""
    return [json.loads((artifact.path / "run.json").read_text())["facts"]["extends"] for artifact in made(folder)]


def train(folder: Path, lmsae: Lmsae, tokens: int, **more: Any) -> str:
    """Train a sweep; what was said."""
    sweep(folder, tokens, **more)
    assert lmsae("plan", "--quiet").code == 0
    said = lmsae("train")
    assert said.code == 0, said.err
    return said.out


@pytest.fixture(scope="module")
def captured(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with its activations."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("extending") / "here")


@pytest.fixture
def folder(captured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lmsae: Lmsae) -> Path:
    """A folder in which the starting weights are made and nothing has been trained."""
    copy = shutil.copytree(captured, tmp_path / "here")
    monkeypatch.chdir(copy)
    sweep(copy, SHORT)
    for stage in ("plan", "init"):
        assert lmsae(stage).code == 0
    return copy


@pytest.mark.slow
def test_a_longer_run_goes_on_from_a_shorter_one_to_the_bytes_of_a_run_that_never_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lmsae: Lmsae
) -> None:
    straight = shutil.copytree(folder, tmp_path / "straight")
    train(folder, lmsae, SHORT)
    shorter = [artifact.reference for artifact in made(folder)]
    said = train(folder, lmsae, LONG)
    assert extends(folder) == [{"reference": reference, "steps": 20} for reference in shorter]
    assert said.count("goes on from step 20 of train/") == 3
    monkeypatch.chdir(straight)
    assert train(straight, lmsae, LONG) == ""
    assert extends(straight) == [None] * 3
    assert payload(folder) == payload(straight)


def test_keeping_the_state_changes_no_byte_of_the_dictionary(folder: Path, lmsae: Lmsae) -> None:
    train(folder, lmsae, SHORT)
    kept = payload(folder)
    for artifact in made(folder):
        assert [path.name[:13] for path in (artifact.path / "checkpoint").iterdir()] == ["000000000020-"]
        artifact.clear()
    config = (folder / "config/config.yaml").read_text()
    (folder / "config/config.yaml").write_text(config.replace("keep_training_state: true", ""))
    assert lmsae("train").code == 0
    assert payload(folder) == kept
    assert not any((artifact.path / "checkpoint").exists() for artifact in made(folder))


@pytest.mark.parametrize("schedule", [{"lr_warm_up_steps": 0.1}, {"lr_schedule": "linear", "lr_warm_up_steps": 0}])
def test_a_schedule_that_knows_the_end_from_the_start_forbids_it_and_says_so(
    folder: Path, lmsae: Lmsae, schedule: dict[str, Any]
) -> None:
    said = train(folder, lmsae, SHORT, rows=ROWS[:1], **schedule)
    assert "no longer run could go on from it: the learning rate differs from the first step on" in said
    said = train(folder, lmsae, LONG, rows=ROWS[:1], **schedule)
    assert "shares its first 0 steps alone (the learning rate differs then)" in said
    assert extends(folder) == [None]


def test_with_a_cool_down_in_steps_it_goes_on_from_where_that_began(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lmsae: Lmsae
) -> None:
    straight = shutil.copytree(folder, tmp_path / "straight")
    cooling: dict[str, Any] = {"rows": ROWS[:1], "lr_schedule": "trapezoid", "lr_cool_down_steps": 6}
    said = train(folder, lmsae, SHORT, **cooling)
    assert "keeps the state of step 15 of 21, where a longer run can go on (the learning rate differs then)" in said
    (made_before,) = [artifact.reference for artifact in made(folder)]
    said = train(folder, lmsae, LONG, **cooling)
    assert f"goes on from step 15 of {made_before} ({SHORT:,} tokens) (the learning rate differs then)" in said
    assert [went_on and went_on["steps"] for went_on in extends(folder)] == [21 - 6]
    monkeypatch.chdir(straight)
    train(straight, lmsae, LONG, **cooling)
    assert payload(folder) == payload(straight)


def test_a_run_that_stopped_early_serves_as_well(folder: Path, lmsae: Lmsae) -> None:
    sweep(folder, SHORT, ROWS[:1], checkpoint_steps=8)
    assert lmsae("plan", "--quiet").code == 0
    (unfinished,) = made(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmsae.training.run.Run._finish", _stop)
        with pytest.raises(SystemExit):
            lmsae("train")
    assert not unfinished.is_finished
    for newer in (unfinished.path / "checkpoint").glob("*20-*"):
        newer.unlink()
    train(folder, lmsae, LONG, rows=ROWS[:1])
    assert extends(folder) == [{"reference": unfinished.reference, "steps": 16}]


def _stop(run: object) -> None:
    raise SystemExit(f"{run} was stopped")


def test_a_shorter_run_without_a_state_is_named_and_another_row_is_none(folder: Path, lmsae: Lmsae) -> None:
    train(folder, lmsae, SHORT, rows=ROWS[:1])
    (shorter,) = made(folder)
    shutil.rmtree(shorter.path / "checkpoint")
    said = train(folder, lmsae, LONG, rows=ROWS[:1])
    assert (
        f"trained from the start: {shorter.reference} has kept no state (runtime.keep_training_state keeps one)" in said
    )
    assert "trained from the start" not in train(folder, lmsae, LONG, rows=ROWS[:1], lr=0.002)


def test_a_damaged_state_is_passed_over(folder: Path, lmsae: Lmsae) -> None:
    train(folder, lmsae, SHORT, rows=ROWS[:1])
    (state,) = (made(folder)[0].path / "checkpoint").iterdir()
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    train(folder, lmsae, LONG, rows=ROWS[:1])
    assert extends(folder) == [None]


def test_gc_removes_states_when_asked_to_and_leaves_the_dictionaries(folder: Path, lmsae: Lmsae) -> None:
    train(folder, lmsae, SHORT)
    assert "state of train/" not in lmsae("gc").out
    assert lmsae("gc", "--states").out.count("state of train/") == 3
    assert lmsae("gc", "--states", "--delete").code == 0
    assert all(artifact.is_finished for artifact in made(folder))
    assert not any((artifact.path / "checkpoint").exists() for artifact in made(folder))
