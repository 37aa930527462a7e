"""Checkpoints: a run that stops anywhere and goes on from what it left ends in the same bytes as one that never did."""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lmsae.planning.catalog import CATALOG
from lmsae.training import checkpoints
from lmsae.training.checkpoints import Checkpoints, Keeper
from lmsae.training.interruption import Interruption, hear_interruptions
from lmsae.training.run import Run
from lmsae.training.together import train_together
from tests.training.runs import Stream, learn, saved, train

STEPS = 15
Start = Callable[[], Run]

SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "muon": ("topk", {}, {"optimizer": "muon", "gradient_accumulation": 3}),
    "sparse_adam": ("topk", {}, {"optimizer": "sparse_adam", "weight_decay": 0.01}),
    "schedule_free": ("topk", {}, {"optimizer": "schedule_free", "lr_schedule": "constant"}),
    "ema": ("standard", {}, {"ema": 0.9}),
    "ema of muon": ("batchtopk", {}, {"ema": 0.5, "optimizer": "muon"}),
    "k schedule": ("batchtopk", {}, {"initial_k": 12, "k_warm_up_steps": 9}),
    "resampling": ("standard_new", {"l1_coefficient": 2.0}, {"resample_steps": 4, "dead_threshold": 32}),
    "resampling schedule_free": (
        "topk",
        {},
        {"resample_steps": 4, "dead_threshold": 32, "optimizer": "schedule_free", "lr_schedule": "constant"},
    ),
    "ema of resampling": ("topk", {"k": 1}, {"resample_steps": 4, "dead_threshold": 32, "ema": 0.9}),
    "dead latents": ("topk", {"k": 1}, {"dead_threshold": 64}),
    "p_anneal": ("p_anneal", {"p_anneal_changes": 12}, {"ema": 0.8}),
    "warm-ups": ("jumprelu", {}, {"sparsity_warm_up_steps": 10, "lr_warm_up_steps": 10, "threshold_lr_factor": 10}),
    "bfloat16": ("batchtopk", {}, {"precision": "bfloat16"}),
    "lorsa in parts": ("lorsa", {}, {"gradient_accumulation": 2, "optimizer": "muon"}),
}


def stopped(run: Run, batches: list[Any], steps: Sequence[int], start: Start, folder: Path) -> Run:
    """The run, stopped after each of these steps, and a new one gone on from its checkpoint each time."""
    for stop in steps:
        while run.steps_done < stop:
            run.step(batches[run.steps_done % len(batches)])
        Checkpoints(folder, run).write()
        run = start()
        assert Checkpoints(folder, run).restore() == stop
    return learn(run, batches)


@pytest.mark.parametrize("name", CATALOG)
def test_every_architecture_goes_on_as_if_it_had_never_stopped(
    name: str, make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    def start() -> Run:
        return make_run(name, STEPS, lr=1e-2)

    batches, stops = batches_for(name), sorted(random.Random(name).sample(range(STEPS), 3))
    whole = saved(learn(start(), batches), tmp_path / "whole")
    assert saved(stopped(start(), batches, stops, start, tmp_path / "checkpoint"), tmp_path / "stopped") == whole


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_way_to_train_goes_on_as_if_it_had_never_stopped(
    setting: str, make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    name, columns, options = SETTINGS[setting]

    def start() -> Run:
        return make_run(name, STEPS, lr=1e-2, columns=columns, **options)

    batches, stops = batches_for(name), sorted(random.Random(setting).sample(range(STEPS), 5))
    whole = saved(learn(start(), batches), tmp_path / "whole")
    assert saved(stopped(start(), batches, stops, start, tmp_path / "checkpoint"), tmp_path / "stopped") == whole


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("muon", "dictionary"),
        ("muon", "optimizers"),
        ("dead latents", "since_fired"),
        ("p_anneal", "memory"),
        ("ema", "ema"),
        ("warm-ups", "steps_done"),
        ("warm-ups", "curves"),
    ],
)
def test_every_part_of_the_state_is_needed(
    setting: str, part: str, make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    """So the tests above would notice if one were lost."""
    name, columns, options = SETTINGS[setting]
    batches = batches_for(name)
    runs = [make_run(name, STEPS, lr=1e-2, columns=columns, **options) for _ in range(3)]
    whole = learn(runs[0], batches)
    for batch in batches[:8]:
        runs[1].step(batch)
    runs[2].go_on_from(runs[1].state() | {part: runs[2].state()[part]})
    for batch in batches[8:STEPS]:
        runs[2].step(batch)
    assert saved(runs[2], tmp_path / "lossy") != saved(whole, tmp_path / "whole")


def interrupted(runs: Sequence[Run], batches: list[Any], stop: int, folder: Path) -> None:
    """Train runs together up to a step, and leave their checkpoints."""

    def after_step(active: Sequence[Run]) -> None:
        if active[0].steps_done == stop:
            for run in active:
                Checkpoints(folder / run.name.replace("/", "-"), run).write()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(train_together(runs, Stream(batches), "cpu", lambda tokens: None, after_step))


def test_company_may_change_at_a_stop_and_runs_may_stand_at_different_steps(
    make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    budgets = {"topk": 12, "batchtopk": 15, "jumprelu": 9, "standard": 14}
    batches = batches_for("topk")

    def start(name: str) -> Run:
        return make_run(name, budgets[name], lr=1e-2)

    def resumed(name: str, at: int) -> Run:
        run = start(name)
        assert Checkpoints(tmp_path / f"train-{name}", run).restore() == at
        return run

    whole = {name: saved(learn(start(name), batches), tmp_path / "whole") for name in budgets}
    interrupted([start("topk"), start("batchtopk")], batches, 5, tmp_path)
    interrupted([start("jumprelu")], batches, 7, tmp_path)
    alone = train([resumed("topk", 5)], batches)
    together = train([resumed("jumprelu", 7), start("standard"), resumed("batchtopk", 5)], batches)
    assert [run.name for run in together] == ["train/jumprelu", "train/standard", "train/batchtopk"]
    for run in alone + together:
        assert saved(run, tmp_path / "resumed") == whole[run.name.removeprefix("train/")]


def test_batches_that_all_runs_have_had_are_not_read_again(make_run: Any, batches_for: Any) -> None:
    batches = batches_for("topk")
    read: list[int] = []

    class Recording(Stream):
        def batches(self, start_step: int, stop_step: int) -> Any:
            read.extend([start_step, stop_step])
            return super().batches(start_step, stop_step)

    runs = [make_run("topk", 9), make_run("topk", 12)]
    for run, steps in zip(runs, (4, 6), strict=True):
        for batch in batches[:steps]:
            run.step(batch)
    list(train_together(runs, Recording(batches), "cpu", lambda tokens: None))
    assert read == [4, 12]


def test_the_log_hears_the_points_that_were_recorded_before_the_stop(make_run: Any, batches_for: Any) -> None:
    heard: list[dict[str, float]] = []

    class Log:
        def __call__(self, point: dict[str, float]) -> None:
            heard.append(point)

        def finish(self) -> None:
            pass

    first, second = make_run("topk", 10), make_run("topk", 10, log=Log())
    for batch in batches_for("topk")[:4]:
        first.step(batch)
    second.go_on_from(first.state())
    learn(second, batches_for("topk"))
    assert [point["step"] for point in heard] == list(range(10))
    assert heard == second.curves


# Files


@pytest.fixture
def two(make_run: Any, batches_for: Any, tmp_path: Path) -> list[Path]:
    """Checkpoints after steps 3 and 4, the older first."""
    run = make_run("topk", 10)
    kept = Checkpoints(tmp_path / "checkpoint", run)
    for batch in batches_for("topk")[:4]:
        run.step(batch)
        kept.write()
    return sorted((tmp_path / "checkpoint").iterdir())


def test_the_two_newest_checkpoints_are_kept(two: list[Path]) -> None:
    assert [int(path.name.partition("-")[0]) for path in two] == [3, 4]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_passed_over(
    damage: Callable[[Path], None], two: list[Path], make_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(two[1])
    assert Checkpoints(two[0].parent, make_run("topk", 10)).restore() == 3
    assert capsys.readouterr().err == f"{two[1]}: passed over: its bytes are not those that were written\n"
    damage(two[0])
    run = make_run("topk", 10)
    assert Checkpoints(two[0].parent, run).restore() == run.steps_done == 0


def test_the_one_that_a_run_went_on_from_stays_and_not_a_damaged_newer_one(two: list[Path], make_run: Any) -> None:
    truncate(two[1])
    run = make_run("topk", 10)
    kept = Checkpoints(two[0].parent, run)
    kept.restore()
    run.steps_done = 7
    kept.write()
    assert [path.name.partition("-")[0] for path in sorted(two[0].parent.iterdir())] == [f"{3:012}", f"{7:012}"]


def test_a_draft_counts_for_nothing(two: list[Path], make_run: Any) -> None:
    two[1].rename(two[1].with_name(".draft"))
    assert Checkpoints(two[0].parent, make_run("topk", 10)).restore() == 3


@pytest.mark.parametrize(("what", "value"), [("FORMAT", 0), ("__version__", "0.0.1")])
def test_a_checkpoint_that_was_made_otherwise_is_passed_over(
    what: str, value: Any, two: list[Path], make_run: Any, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoints, what, value)
    assert Checkpoints(two[0].parent, make_run("topk", 10)).restore() == 0
    assert f", not {value}" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_passed_over(
    two: list[Path], make_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Checkpoints(two[0].parent, make_run("batchtopk", 10)).restore() == 0
    assert "it is of run train/topk, not train/batchtopk" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_ends_nothing_and_leaves_the_earlier_one(
    make_run: Any, batches_for: Any, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run, batches = make_run("topk", 10), batches_for("topk")
    kept = Checkpoints(tmp_path / "checkpoint", run)
    keeper = Keeper({run: kept}, 0, Interruption())
    run.step(batches[0])
    keeper.after_step([run])
    before = list((tmp_path / "checkpoint").iterdir())

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    run.step(batches[1])
    keeper.after_step([run])
    assert "no checkpoint could be written; training goes on without: [Errno 28] No space" in capsys.readouterr().err
    assert list((tmp_path / "checkpoint").iterdir()) == before
    monkeypatch.undo()
    keeper.after_step([run])
    assert len(list((tmp_path / "checkpoint").iterdir())) == 2


# When


class Clock:
    """Time that passes when it is told to; each checkpoint takes `cost` seconds."""

    is_due = False

    def __init__(self, cost: float) -> None:
        self.now, self.cost, self.writes = 1000.0, cost, list[float]()

    def write(self) -> None:
        self.writes.append(self.now)
        self.now += self.cost


@pytest.mark.parametrize(
    ("seconds", "cost", "pauses"), [(0, 1, 0), (10, 0.25, 10), (10, 0.5, 10), (10, 1, 20), (10, 30, 600)]
)
def test_checkpoints_come_every_so_many_seconds_and_never_take_more_than_a_twentieth_of_the_time(
    seconds: float, cost: float, pauses: float, make_run: Any, monkeypatch: Any
) -> None:
    clock, run = Clock(cost), make_run("topk", 10)
    monkeypatch.setattr("lmsae.training.checkpoints.time.monotonic", lambda: clock.now)
    keeper = Keeper({run: clock}, seconds, Interruption())  # pyright: ignore[reportArgumentType]
    for _ in range(2000):
        clock.now += 1
        keeper.after_step([run])
    gaps = [later - earlier - cost for earlier, later in zip(clock.writes, clock.writes[1:], strict=False)]
    assert set(gaps) == {max(1, pauses)}
    assert keeper.facts() == {"checkpoints": len(clock.writes), "checkpoint_s": pytest.approx(cost * len(clock.writes))}


def test_checkpoints_may_come_every_so_many_steps(make_run: Any, batches_for: Any, tmp_path: Path) -> None:
    run = make_run("topk", 10)
    keeper = Keeper({run: Checkpoints(tmp_path / "checkpoint", run)}, 1e9, Interruption(), steps=4)
    for batch in batches_for("topk")[:9]:
        run.step(batch)
        keeper.after_step([run])
    assert [path.name[:12] for path in sorted((tmp_path / "checkpoint").iterdir())] == ["000000000004", "000000000008"]


def test_the_checkpoint_to_keep_outlives_later_ones_and_the_end_of_the_run(
    make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    run = make_run("topk", 10)
    checkpoints = Checkpoints(tmp_path / "checkpoint", run, keeps=3)
    keeper = Keeper({run: checkpoints}, 0, Interruption())
    for batch in batches_for("topk")[:9]:
        run.step(batch)
        keeper.after_step([run])
    there = [int(path.name[:12]) for path in sorted((tmp_path / "checkpoint").iterdir())]
    assert there == [3, 8, 9]
    (tmp_path / "checkpoint" / ".draft").touch()
    checkpoints.finish()
    assert [int(path.name[:12]) for path in (tmp_path / "checkpoint").iterdir()] == [3]
    Checkpoints(tmp_path / "checkpoint", run).finish()
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_waits_for_the_step_leaves_a_checkpoint_and_then_stops_the_run(
    number: signal.Signals, raised: type[BaseException], make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    run = make_run("topk", 10)
    before = signal.getsignal(number)
    with pytest.raises(raised) as stop, hear_interruptions(None) as interruption:  # noqa: PT012
        keeper = Keeper({run: Checkpoints(tmp_path / "checkpoint", run)}, 1e9, interruption)
        for batch in batches_for("topk"):
            if run.steps_done == 6:
                os.kill(os.getpid(), number)
            run.step(batch)
            keeper.after_step([run])
    assert run.steps_done == 7
    assert getattr(stop.value, "code", None) == (143 if number == signal.SIGTERM else None)
    assert signal.getsignal(number) is before
    assert Checkpoints(tmp_path / "checkpoint", make_run("topk", 10)).restore() == 7


def test_a_signal_that_comes_after_the_last_step_is_obeyed_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), hear_interruptions(None) as interruption:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.is_asked


def test_a_second_signal_does_what_it_always_does() -> None:
    with pytest.raises(SystemExit), hear_interruptions(None):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_time_limit_stops_a_run_as_a_signal_does() -> None:
    interruption = Interruption(0.01)
    interruption.obey()
    assert not interruption.is_asked
    time.sleep(0.02)
    assert interruption.is_asked
    with pytest.raises(SystemExit) as stop:
        interruption.obey()
    assert stop.value.code == 124


def test_checkpoints_are_read_without_running_anything_in_them(two: list[Path]) -> None:
    found = torch.load(two[1], weights_only=True)
    assert found["made_by"]["run"] == "train/topk"
