"""Rows of a soft-frozen decoder learn and stay near their starts: between a frozen decoder and a free one."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.planning.catalog import CATALOG
from lmsae.training.checkpoints import Checkpoints
from lmsae.training.run import Run
from lmsae.training.soft_frozen import turn_back
from tests.training.runs import learn, saved
from tests.training.test_optimizers import every_optimizer, make

ROUNDING = 2e-6
WITH_ROWS = [name for name in CATALOG if name != "molt"]


def cosines(rows: list[Tensor], starts: list[Tensor]) -> Tensor:
    """The cosine of every row to its start, in float64."""
    pairs = zip(rows, starts, strict=True)
    return torch.cat([torch.cosine_similarity(a.double(), b.double(), dim=1) for a, b in pairs])


def rows_of(run: Run) -> list[Tensor]:
    return [rows.detach().clone() for rows in run.dictionary.geometry.rows()]


def learned(run: Run, batches: Any) -> Tensor:
    """The cosines of a run's rows to their starts when it has ended."""
    starts = rows_of(run)
    return cosines(rows_of(learn(run, batches)), starts)


@pytest.mark.parametrize("min_cosine", [-0.5, 0.0, 0.8, 0.99])
def test_a_row_beyond_the_cone_turns_to_the_nearest_direction_within(min_cosine: float) -> None:
    """By the angle in the plane of row and start, in float64, which shares no formula with the code."""
    generator = np.random.default_rng(0)
    noise, start = generator.normal(size=(2, 200, 5))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    rows = start * generator.uniform(-1, 1, size=(200, 1)) + noise * generator.uniform(0, 1, size=(200, 1)) ** 2
    turned = turn_back(torch.from_numpy(rows), torch.from_numpy(start), min_cosine).numpy()
    most, met = math.acos(min_cosine), set()
    for row, s, found in zip(rows, start, turned, strict=True):
        q, r = np.linalg.qr(np.stack([s, row], axis=1))
        plane = q * np.sign(np.diag(r))  # its first axis is s, and row lies in the upper half of the plane
        x, y = plane.T @ row
        angle = min(math.atan2(y, x), most)
        wanted = np.linalg.norm(row) * (plane @ np.array([math.cos(angle), math.sin(angle)]))
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        met.add(bool((found == row).all()))
    assert met == {True, False}


def test_rows_opposite_to_their_start_go_back_and_those_that_started_at_0_are_free() -> None:
    rows, start = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0]])
    assert turn_back(rows, start, 0.8).tolist() == [[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("name", WITH_ROWS)
def test_every_row_at_every_hook_point_stays_near_its_start_and_learns(
    name: str, make_run: Any, batches_for: Any
) -> None:
    settings: dict[str, Any] = {"steps": 30, "lr": 0.05, "weight_decay": 0.1}
    free = learned(make(make_run, "adam", name, **settings), batches_for(name))
    near = learned(make(make_run, "adam", name, decoder_min_cosine=0.8, **settings), batches_for(name))
    assert free.min() < 0.7
    assert near.min() > 0.8 - ROUNDING
    assert (near < 0.8 + ROUNDING).any()
    assert near.min() < 0.999


@every_optimizer
def test_rows_stay_near_their_starts_with_every_optimizer_that_may(
    optimizer: str, make_run: Any, batches_for: Any
) -> None:
    if optimizer == "schedule_free":
        with pytest.raises(ValueError, match="leave decoder_min_cosine empty"):
            make(make_run, optimizer, decoder_min_cosine=0.8)
        return
    run = make(make_run, optimizer, steps=30, lr=0.05, decoder_min_cosine=0.8, ema=0.9)
    near = learned(run, batches_for("topk"))
    assert 0.8 - ROUNDING < near.min() < 0.99


def test_unit_rows_stay_near_and_at_norm_1(make_run: Any, batches_for: Any) -> None:
    run = make(make_run, "adam", "standard", steps=30, lr=0.05, decoder_min_cosine=0.8, ema=0.9)
    assert learned(run, batches_for("standard")).min() > 0.8 - ROUNDING
    torch.testing.assert_close(run.dictionary.geometry.norms(), torch.ones(run.dictionary.geometry.latents))


def test_at_a_cosine_of_1_unit_rows_are_those_of_a_frozen_decoder(make_run: Any, batches_for: Any) -> None:
    """And so is all that learns beside them: one dictionary, up to rounding."""

    def unit_rows(**own: Any) -> Run:
        run = make(make_run, "adam", "topk", steps=20, grad_clip=0.0, columns={"unit_norm_decoder": True}, **own)
        return learn(run, batches_for("topk"))

    frozen, tight = unit_rows(decoder_lr_factor=0.0), unit_rows(decoder_min_cosine=1.0)
    for (name, one), other in zip(
        frozen.dictionary.state_dict().items(), tight.dictionary.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_without_a_bound_norms_learn_at_a_cosine_of_1(make_run: Any, batches_for: Any) -> None:
    run = make(make_run, "adam", "topk", steps=20, decoder_min_cosine=1.0)
    before = run.dictionary.geometry.norms().detach()
    assert learned(run, batches_for("topk")).min() > 1 - ROUNDING
    assert ((run.dictionary.geometry.norms() / before - 1).abs() > 0.01).any()


@pytest.mark.parametrize("name", WITH_ROWS)
def test_at_a_cosine_of_minus_1_a_dictionary_is_a_free_one_to_the_bit(
    name: str, make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    free, wide = (
        saved(learn(make(make_run, "adam", name, steps=10, **own), batches_for(name)), tmp_path / str(len(own)))
        for own in ({}, {"decoder_min_cosine": -1.0})
    )
    assert free == wide


@pytest.mark.parametrize("name", ["topk", "clt"])
def test_a_run_that_stopped_goes_on_from_where_its_rows_started_at_first(
    name: str, make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    """And not from where they stood when it stopped: it ends in the same bytes."""

    def start() -> Run:
        return make(make_run, "adam", name, steps=30, lr=0.05, decoder_min_cosine=0.8)

    whole = saved(learn(start(), batches_for(name)), tmp_path / "whole")
    run = start()
    for batch in batches_for(name)[:17]:
        run.step(batch)
    Checkpoints(tmp_path / "checkpoint", run).write()
    again = start()
    assert Checkpoints(tmp_path / "checkpoint", again).restore() == 17
    assert saved(learn(again, batches_for(name)), tmp_path / "again") == whole
