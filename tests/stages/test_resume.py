"""Kills: a stage that is killed anywhere, and run again, makes the bytes of one that never was."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmsae.artifacts.artifact import Artifact
from lmsae.lm.huggingface import HuggingFaceModel
from lmsae.store import array, layout
from lmsae.training.run import Run
from tests.miniature import HERE, Said, keys, write_config, write_sweep
from tests.stages.zygote import Order, Zygote

ROWS = [
    {"name": "batch", "sae.architecture": "batchtopk", "sae.k": "4", "sae.convert_to_jumprelu": "true"}
    | {"train.keep_steps": "log"},
    {"name": "muon", "sae.architecture": "topk", "sae.k": "2", "train.optimizer": "muon", "train.ema": "0.9"}
    | {"train.eval_steps": "7", "train.eval_tokens": "512", "train.keep_steps": "5 17"},
    {"name": "long", "sae.architecture": "p_anneal", "sae.p_anneal_coefficient": "0.1", "train.tokens": "12288"},
    {"name": "e2e", "sae.architecture": "topk", "sae.k": "4", "sae.losses": "e2e_kl", "sae.e2e_kl_coefficient": "100"},
]
SHARD_BYTES = 33_000
"""A chunk, and so 32 contexts, in each shard of the miniature."""
KILLED = -signal.SIGKILL
FACTS = {"activations": "resumed_from_contexts", "train": "resumed_from_steps"}
SECTIONS: dict[str, dict[str, Any]] = {
    "activations": {"batch_contexts": 24},  # batches of the model lie across the borders of shards
    "train": {"dead_threshold": 512},
    "runtime": {"device": "cpu", "threads": 1, "checkpoint_seconds": 0},
}
RUNTIME = SECTIONS["runtime"]
Command = Callable[..., Said]
pytestmark = pytest.mark.xdist_group("kills")


@pytest.fixture(scope="module")
def uninterrupted(pristine: Path, tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """A sweep of runs that need all kinds of state, trained without a break; the stages after training are not made."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "here"
    shutil.copytree(pristine, folder)
    write_config(folder, **SECTIONS)
    elsewhere = {"sae.hook_point": "blocks.1.hook_resid_post", "activations.dtype": "int8"}
    there = [{**row, "name": f"{row['name']}-there", **elsewhere} for row in ROWS[:1]]
    write_sweep(folder, [{"sae.hook_point": HERE} | row for row in ROWS] + there)
    for stage in ("plan", "tokenize", "activations", "norm", "init", "train"):
        ended = zygote.run(Order(str(folder), [stage], shard_bytes=SHARD_BYTES))
        assert ended.status == 0, ended.said
        (folder / f"{stage}-events").write_text(str(ended.events))
    return folder


def unmade(stage: str, folder: Path) -> None:
    """Bring a folder to where nothing of a stage has been made."""
    for key in keys(folder, stage):
        for entry in (folder / "artifacts" / stage / key).iterdir():
            if entry.name != "spec.json":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.fixture
def folder(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return shutil.copytree(uninterrupted, tmp_path / "here")


def files(folder: Path, stage: str) -> dict[str, bytes]:
    """Every file of a stage's artifacts, but for the account of how they were made."""
    made = [Artifact(folder / "artifacts" / stage / key) for key in keys(folder, stage)]
    assert [artifact.damaged_files() for artifact in made] == [[] for _ in made]
    found = (path for artifact in made for path in artifact.path.rglob("*") if path.is_file())
    mine = (path for path in found if path.name != "run.json" and not path.name.endswith(".draft"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in mine if ".claim" not in path.name}


def resumed(folder: Path, stage: str) -> list[list[int]]:
    """From where each artifact of a stage was gone on with."""
    runs = [folder / "artifacts" / stage / key / "run.json" for key in keys(folder, stage)]
    return [json.loads(run.read_text())["facts"][FACTS[stage]] for run in runs]


def finish(stage: str, folder: Path, zygote: Zygote) -> None:
    ended = zygote.run(Order(str(folder), [stage], shard_bytes=SHARD_BYTES))
    assert ended.status == 0, ended.said


@pytest.mark.parametrize("wanted", [3, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", FACTS)
def test_a_stage_killed_before_any_change_of_a_file_goes_on_to_the_same_bytes(
    stage: str, wanted: int, uninterrupted: Path, folder: Path, zygote: Zygote
) -> None:
    draw, whole = random.Random(stage), files(uninterrupted, stage)
    last = max(int((uninterrupted / f"{stage}-events").read_text()) // 8, 120)  # a whole shard takes up to 60
    unmade(stage, folder)
    deaths = resumptions = 0
    while deaths < wanted:
        ended = zygote.run(Order(str(folder), [stage], draw.randint(2, last), SHARD_BYTES))
        deaths += ended.status == KILLED
        if ended.status != KILLED:
            assert (ended.status, files(folder, stage)) == (0, whole), ended.said
            resumptions += sum(map(len, resumed(folder, stage)))
            unmade(stage, folder)
    finish(stage, folder, zygote)
    assert files(folder, stage) == whole
    assert resumptions + sum(map(len, resumed(folder, stage))) > wanted * 2 // 3
    assert not any(map(len, resumed(uninterrupted, stage)))


@pytest.mark.slow
@pytest.mark.parametrize("stage", FACTS)
def test_a_stage_killed_at_any_time_goes_on_to_the_same_bytes(
    stage: str, uninterrupted: Path, folder: Path, zygote: Zygote
) -> None:
    draw, ended = random.Random(stage), None
    unmade(stage, folder)
    for _ in range(4):
        pid = zygote.start(Order(str(folder), [stage], shard_bytes=SHARD_BYTES))
        time.sleep(draw.uniform(0.1, 0.7))
        os.kill(pid, signal.SIGKILL)  # a zombie if it has finished
        ended = zygote.wait()
        assert ended.status in (0, KILLED), ended.said
    finish(stage, folder, zygote)
    assert files(folder, stage) == files(uninterrupted, stage)


def state_of(pid: int) -> str:
    """A process's state: T if it is stopped, Z if it has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(state: str, pid: int) -> None:
    deadline = time.monotonic() + 120
    while (found := state_of(pid)) != state:
        assert found != "Z", "it has ended before"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("draws", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", FACTS)
def test_a_process_that_was_stopped_and_taken_over_from_writes_nothing_when_it_goes_on(
    stage: str, draws: int, uninterrupted: Path, folder: Path, zygote: Zygote, lmsae: Command
) -> None:
    """It is continued while the next one is at work, and stops by itself with a sentence."""
    draw, whole = random.Random(f"{stage} stopped"), files(uninterrupted, stage)
    last = int((uninterrupted / f"{stage}-events").read_text())
    for _ in range(draws):
        unmade(stage, folder)
        stop_at = draw.randint(last // 4, last // 2)
        stopped = zygote.start(Order(str(folder), [stage], stop_at, SHARD_BYTES, signal.SIGSTOP))

        def go_on(*arguments: Any, real: Callable[..., Any], stopped: int = stopped) -> Any:
            if state_of(stopped) == "T":
                os.kill(stopped, signal.SIGCONT)
                wait_for("Z", stopped)
            return real(*arguments)

        try:
            wait_for("T", stopped)
            with pytest.MonkeyPatch.context() as monkeypatch:
                for place, name in ((HuggingFaceModel, "read"), (Run, "step")):
                    real = getattr(place, name)
                    monkeypatch.setattr(place, name, lambda *given, real=real, go_on=go_on: go_on(*given, real=real))
                monkeypatch.setattr("lmsae.artifacts.claim.STALE_S", 0.1)
                assert array.Layout is layout.Layout  # it has its own name for it, and goes on with the real one
                monkeypatch.setattr(layout, "Layout", partial(layout.Layout, target_shard_bytes=SHARD_BYTES))
                monkeypatch.chdir(folder)
                assert lmsae(stage, "--wait").code == 0
            assert state_of(stopped) == "Z"
        finally:
            os.kill(stopped, signal.SIGKILL)
            ended = zygote.wait()
        assert ended.status == 75, ended.said
        assert f"taken over by process {os.getpid()}" in ended.said
        assert files(folder, stage) == whole


def zarr_of(number: int, folder: Path) -> Path:
    return folder / "artifacts" / "activations" / keys(folder, "activations")[number] / "activations.zarr"


def test_capture_goes_on_behind_the_whole_shards_of_each_hook_point(
    uninterrupted: Path, folder: Path, zygote: Zygote
) -> None:
    """Two hook points of one pass with different numbers of them; a flipped bit ends those of the second."""
    for store in (zarr_of(0, folder), zarr_of(1, folder)):
        for name in ("manifest.json", ".manifest.json", "run.json"):
            (store.parent / name).unlink()
    for shard in (zarr_of(0, folder) / "c").iterdir():
        if int(shard.name) >= 11:
            shutil.rmtree(shard)
    damaged = zarr_of(1, folder) / "c/17/0/0"
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    (zarr_of(1, folder) / "c/20/0/.0.0123456789abcdef.draft").write_bytes(b"half")
    (zarr_of(0, folder) / "c/99/0").mkdir(parents=True)
    (zarr_of(0, folder) / "c/99/0/0").write_bytes(b"of no shard of this store")
    (zarr_of(0, folder) / "c/98/0").mkdir(parents=True)  # nor is this
    finish("activations", folder, zygote)
    assert files(folder, "activations") == files(uninterrupted, "activations")
    assert resumed(folder, "activations") == [[11 * 32], [17 * 32]]
    below = (entry for store in (zarr_of(0, folder), zarr_of(1, folder)) for entry in store.parent.rglob("*"))
    assert [entry for entry in below if entry.is_dir() and not any(entry.iterdir())] == []


def test_capture_goes_on_in_the_batches_of_an_uninterrupted_pass(
    folder: Path, lmsae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model rounds differently in other batches."""
    real, batches = HuggingFaceModel.read, []

    def read(model: HuggingFaceModel, tokens: Any, hook_points: Any) -> Any:
        batches.append(tokens.tolist())
        return real(model, tokens, hook_points)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(HuggingFaceModel, "read", read)
    monkeypatch.setattr(layout, "Layout", partial(layout.Layout, target_shard_bytes=SHARD_BYTES))
    unmade("activations", folder)
    assert lmsae("activations").code == 0
    whole = batches.copy()
    for number in (0, 1):
        for name in ("manifest.json", ".manifest.json", "run.json", "activations.zarr/c/5/0/0"):
            (zarr_of(number, folder).parent / name).unlink()
    batches.clear()
    assert lmsae("activations").code == 0
    assert batches == whole[5 * 32 // 24 :]


def test_shards_of_another_cut_are_not_gone_on_with(uninterrupted: Path, folder: Path, lmsae: Command) -> None:
    for name in ("manifest.json", ".manifest.json", "run.json"):
        (zarr_of(0, folder).parent / name).unlink()
    with contextlib.chdir(folder):
        assert lmsae("activations").code == 0  # in this process shards have their usual size
    assert len(list(zarr_of(0, folder).glob("c/*/0/0"))) == 1
    assert resumed(folder, "activations")[0] == []


# Being asked to stop, in this process


@pytest.fixture
def untrained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: nothing is trained, and checkpoints are written only when somebody asks to stop."""
    monkeypatch.chdir(folder)
    unmade("train", folder)
    write_config(folder, **SECTIONS | {"runtime": RUNTIME | {"checkpoint_seconds": 1e6}})
    return folder


def asked(number: signal.Signals, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal in the midst of the first step that comes after so many."""
    real = Run.step

    def step(run: Run, batch: Any) -> None:
        if run.steps_done == steps:
            monkeypatch.undo()
            os.kill(os.getpid(), number)
        real(run, batch)

    monkeypatch.setattr(Run, "step", step)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_checkpoints_that_training_goes_on_from(
    number: signal.Signals, code: int, untrained: Path, uninterrupted: Path, lmsae: Command
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        asked(number, 13, monkeypatch)
        try:
            found = lmsae("train").code
        except SystemExit as stop:
            found = stop.code
    assert found == code
    assert not list(untrained.glob("artifacts/train/*/.claim"))
    left = {path.name.partition("-")[0] for path in untrained.glob("artifacts/train/*/checkpoint/*.pt")}
    assert left == {f"{14:012}"}
    assert lmsae("train").code == 0
    assert files(untrained, "train") == files(uninterrupted, "train")
    assert [14] in resumed(untrained, "train")


def test_a_time_limit_leaves_checkpoints_that_training_goes_on_from(
    untrained: Path, uninterrupted: Path, lmsae: Command
) -> None:
    write_config(untrained, **SECTIONS | {"runtime": RUNTIME | {"checkpoint_seconds": 1e6, "time_limit": 1e-6}})
    for _ in range(3):
        with pytest.raises(SystemExit) as stop:
            lmsae("train")
        assert stop.value.code == 124
    write_config(untrained, **SECTIONS)
    assert lmsae("train").code == 0
    assert files(untrained, "train") == files(uninterrupted, "train")
    assert [1, 2, 3] in resumed(untrained, "train")


def test_rows_trained_together_before_the_stop_may_go_on_alone_and_without_one_that_is_damaged(
    untrained: Path, uninterrupted: Path, lmsae: Command
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(SystemExit):  # noqa: PT012
        asked(signal.SIGTERM, 20, monkeypatch)
        lmsae("train")
    stopped = sorted(untrained.glob("artifacts/train/*/checkpoint/*.pt"))
    assert len(stopped) > 1
    stopped[0].write_bytes(stopped[0].read_bytes()[:1000])
    for key in reversed(keys(untrained, "train")):
        said = lmsae("train", key)
        assert said.code == 0, said.err
        assert ("passed over: its bytes are not" in said.err) == (key == stopped[0].parts[-3])
    assert files(untrained, "train") == files(uninterrupted, "train")
    assert resumed(untrained, "train").count([21]) == len(stopped) - 1


def test_show_says_from_where_training_was_gone_on_with(untrained: Path, lmsae: Command) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(SystemExit):  # noqa: PT012
        asked(signal.SIGTERM, 4, monkeypatch)
        lmsae("train")
    assert lmsae("train").code == 0
    key = next(key for key, steps in zip(keys(untrained, "train"), resumed(untrained, "train"), strict=True) if steps)
    shown = "".join(lmsae("show", key).out.split())
    assert '"resumed_from_steps":[5]' in shown
