"""A longer run parts from a shorter one as soon as any schedule differs."""

from typing import Any

import pytest
import torch

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import SAEConfig
from lmsae.losses import TrainingStep
from lmsae.losses.auxiliary import AuxK
from lmsae.losses.config import LOSSES, LossConfig
from lmsae.losses.penalties import L1
from lmsae.sparsity.capabilities import HasGate, TakesAnyK
from lmsae.sparsity.config import GatedConfig, JumpReLUConfig, TopKConfig
from lmsae.training.config import TrainConfig
from lmsae.training.curves import is_point
from lmsae.training.forks import Fork, Schedules, find_fork

BATCH = 10


def schedules(steps: int, *losses: LossConfig, **settings: Any) -> Schedules:
    steady = {"lr_schedule": "constant", "lr_warm_up_steps": 0}
    config = TrainConfig(tokens=steps * BATCH, batch_size=BATCH, **{**steady, **settings})
    return Schedules(config, losses, k=4)


# What is set, and how many of 100 steps are those of a run of 1,000 too; then what differs.
CASES: list[tuple[dict[str, Any], int, str | None]] = [
    ({}, 99, None),
    ({"lr_warm_up_steps": 50, "sparsity_warm_up_steps": 20}, 99, None),
    ({"lr_warm_up_steps": 0.1}, 0, "the learning rate"),
    ({"sparsity_warm_up_steps": 0.1}, 99, None),  # which nothing has
    ({"lr_schedule": "trapezoid", "lr_cool_down_steps": 30}, 70, "the learning rate"),
    ({"lr_schedule": "trapezoid", "lr_cool_down_steps": 0}, 99, None),
    ({"lr_schedule": "cosine", "lr_warm_up_steps": 10}, 10, "the learning rate"),
    ({"initial_k": 9, "k_cold_boot_steps": 5, "k_warm_up_steps": 20}, 99, None),
    ({"initial_k": 9, "k_cold_boot_steps": 5, "k_warm_up_steps": 0.5}, 10, "k"),
    ({"resample_steps": 25}, 99, None),
    ({"resample_steps": 0.25}, 24, "resampling"),
]


@pytest.mark.parametrize(("settings", "steps", "differs"), CASES)
def test_runs_part_where_a_schedule_first_differs(settings: dict[str, Any], steps: int, differs: str | None) -> None:
    assert find_fork(schedules(100, **settings), schedules(1000, **settings)) == Fork(steps, differs)


@pytest.mark.parametrize(("warm_up", "steps"), [(0.1, 1), (10, 99)])
def test_runs_part_at_a_warm_up_in_shares_if_they_have_a_loss_that_is_warmed_up(warm_up: float, steps: int) -> None:
    kinds = (AuxK(), L1(l1_coefficient=1.0))
    shorter, longer = (schedules(length, *kinds, sparsity_warm_up_steps=warm_up) for length in (100, 1000))
    assert find_fork(shorter, longer) == Fork(steps, "the warm-up of sparsity penalties" if steps == 1 else None)


def test_the_last_step_of_the_shorter_run_is_never_shared() -> None:
    assert find_fork(schedules(1), schedules(2)) == Fork(0, None)


def test_a_run_is_compared_with_one_twice_as_long_to_know_what_any_longer_one_shares() -> None:
    assert schedules(100).lengthen().steps == 200


@pytest.mark.parametrize("kind", [kind for kind, loss in LOSSES.items() if not loss.needs_model])
def test_no_loss_depends_on_the_number_of_steps_without_saying_so(kind: str) -> None:
    """Called at the same step of runs of other lengths, a loss is the same wherever `schedule_at` is. The warm-up of
    sparsity penalties changes those that make codes sparse. Losses of the language model see no step at all."""
    needs = LOSSES[kind].needs
    fields = LOSSES[kind].model_fields
    required: dict[str, Any] = {name: 0.5 for name, info in fields.items() if info.is_required()}
    loss = LOSSES[kind](**required)
    act_fn = TopKConfig(k=4) if TakesAnyK in needs else GatedConfig() if HasGate in needs else JumpReLUConfig()
    dictionary = _random_dictionary(act_fn)
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        forward = dictionary.training_pass(x, x)
    dead = torch.arange(16) % 2 == 0
    for step in range(0, 100, 7):
        lengths = [100, 130, 700]
        values = [
            loss(
                dictionary.geometry,
                dictionary.sparsity,
                forward,
                TrainingStep(sparsity_warm_up=1.0, dead=dead, step=step, steps=steps, memory=loss.memory()),
            ).item()
            for steps in lengths
        ]
        warm, cold = (
            loss(
                dictionary.geometry,
                dictionary.sparsity,
                forward,
                TrainingStep(sparsity_warm_up=factor, dead=dead, step=step, steps=100, memory=loss.memory()),
            ).item()
            for factor in (1.0, 0.5)
        )
        assert (warm != cold) == loss.sparsifies
        same = [loss.schedule_at(step, steps) == loss.schedule_at(step, lengths[0]) for steps in lengths]
        assert [value == values[0] for value, is_same in zip(values, same, strict=True) if is_same].count(False) == 0


def _random_dictionary(act_fn: Any) -> Dictionary:
    sizes: dict[str, Any] = {"widths": {"reads": (8,), "writes": (8,)}, "d_sae": 16, "normalize_activations": "none"}
    dictionary = Dictionary(DictionaryConfig(**sizes, geometry=SAEConfig(), act_fn=act_fn)).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in dictionary.parameters():
            weights.copy_(torch.rand(weights.shape, generator=generator))
    return dictionary


@pytest.mark.parametrize("steps", [1, 199, 200, 399, 400, 1000, 4096, 77_777])
def test_the_recorded_steps_of_a_longer_run_are_among_those_of_a_shorter_one(steps: int) -> None:
    recorded = {step for step in range(steps) if is_point(step, steps)}
    assert min(steps, 200) <= len(recorded) <= 401
    for longer in (steps + 1, 2 * steps, 3 * steps + 7, 50 * steps):
        assert {step for step in range(steps - 1) if is_point(step, longer)} <= recorded


def test_a_longer_run_has_the_curve_that_it_would_have_recorded(
    make_run: Any, batches_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmsae.training.curves.POINTS", 20)
    steady = {"lr_schedule": "constant", "lr_warm_up_steps": 0, "sparsity_warm_up_steps": 0}
    shorter, longer, straight = (make_run("topk", steps, **steady) for steps in (30, 90, 90))
    batches = batches_for("topk")
    for step in range(25):
        shorter.step(batches[step % len(batches)])
        straight.step(batches[step % len(batches)])
    longer.go_on_from(shorter.state())
    assert len(shorter.curves) == 25
    assert longer.curves == straight.curves
