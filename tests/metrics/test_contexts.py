"""Standard errors over contexts: against formulas in NumPy, a jackknife, and what new text really gives."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.metrics.bins import position_bins
from lmsae.metrics.contexts import ContextSums, Places, Ratio, mean_of
from lmsae.metrics.formulas import FIRING_RATIOS, RECONSTRUCTION_RATIOS, Firing, Reconstruction

CONTEXTS, SIZE, WIDTH, D_SAE = 240, 8, 3, 12


def all_of(counted: Tensor) -> Places:
    return Places(counted, counted[..., None].double())


def text(contexts: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which tokens count, targets, reconstructions and codes of contexts whose tokens have much in common.

    The mean is far from 0 and the reconstruction is biased.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    own = draw(contexts, 1, WIDTH)
    y = 2 + own + draw(contexts, SIZE, WIDTH)
    y_hat = 0.8 * y + 0.3 * own.abs() * draw(contexts, SIZE, WIDTH) + 0.9
    codes = (draw(contexts, SIZE, D_SAE) + own[..., :1] - 0.5).relu()
    counted = torch.rand(contexts, SIZE, generator=generator) < 0.8
    return counted, y, y_hat, codes


def measure(
    counted: Tensor, y: Tensor, y_hat: Tensor, codes: Tensor, batch: int = 16
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics and standard errors of contexts."""
    sums, firing = Reconstruction(torch.full((WIDTH,), 2.1), 0.5), Firing()
    for one, *sides in zip(*(side.split(batch) for side in (counted, y, y_hat, codes)), strict=True):
        target, reconstruction, found = (side[one] for side in sides)
        sums.update(target, reconstruction, all_of(one))
        firing.update(found, all_of(one))
    return sums.result() | firing.result(), sums.errors() | firing.errors()


def test_errors_are_those_of_a_jackknife_that_leaves_each_context_out_in_turn() -> None:
    """Whatever bias a reconstruction has, and though the calibration mean is not that of this text."""
    whole = text(CONTEXTS, 0)
    _, errors = measure(*whole)
    assert errors.keys() == {"explained_variance"} | RECONSTRUCTION_RATIOS.keys() | FIRING_RATIOS.keys()
    left = [
        measure(*(torch.cat([side[:i], side[i + 1 :]]) for side in whole), batch=CONTEXTS)[0] for i in range(CONTEXTS)
    ]
    for name, error in errors.items():
        values = np.array([metrics[name] for metrics in left])
        jackknife = math.sqrt((CONTEXTS - 1) / CONTEXTS * ((values - values.mean()) ** 2).sum())
        assert error == pytest.approx(jackknife, rel=0.04 if name == "explained_variance" else 0.005), name


@pytest.mark.slow
def test_errors_say_how_far_metrics_of_other_text_lie() -> None:
    """400 texts of which each has 100 contexts: a spread that is known up to some 4 %."""
    drawn = [measure(*text(100, seed), batch=100) for seed in range(400)]
    for name in drawn[0][1]:
        spread = np.std([metrics[name] for metrics, _ in drawn], ddof=1)
        said = math.sqrt(np.mean([errors[name] ** 2 for _, errors in drawn]))
        assert said == pytest.approx(spread, rel=0.12), name


def test_tokens_of_one_context_are_no_independent_draws() -> None:
    """Of the same tokens, each in a context of its own, the error of the mean is that of any mean, and much smaller."""
    counted, y, y_hat, codes = text(CONTEXTS, 0)
    one_each = torch.ones(int(counted.sum()), 1, dtype=torch.bool)
    _, errors = measure(one_each, y[counted][:, None], y_hat[counted][:, None], codes[counted][:, None])
    by_token = (codes[counted] != 0).sum(1).double()
    assert errors["l0"] == pytest.approx(by_token.std().item() / math.sqrt(len(by_token)), rel=1e-9)
    assert measure(counted, y, y_hat, codes)[1]["l0"] > 1.5 * errors["l0"]


@pytest.mark.parametrize("batch", [1, 7, CONTEXTS])
def test_a_ratio_and_its_error_are_those_of_the_formula_in_every_bin(batch: int) -> None:
    counted, y, y_hat, _ = text(CONTEXTS, 1)
    bins = position_bins(SIZE).of(torch.zeros(CONTEXTS, SIZE, dtype=torch.long))
    members = torch.cat([torch.ones(CONTEXTS, SIZE, 1), torch.nn.functional.one_hot(bins)], dim=-1).double()
    places, sums = Places(counted, members * counted[..., None]), ContextSums("a", "b")
    a, b = y[..., 0], y_hat[..., 1].square()
    for start in range(0, CONTEXTS, batch):
        own = slice(start, start + batch)
        part = Places(counted[own], places.members[own])
        sums.update({"a": a[own][counted[own]], "b": b[own][counted[own]]}, part)
    ratio = Ratio({"a": 2, "b": 0.5}, {"b": 1})
    for bin in range(5):
        inside = places.members[..., bin].numpy()
        n, d = (((2 * a + 0.5 * b).numpy() * inside).sum(1), (b.numpy() * inside).sum(1))
        c = (inside.sum(1) > 0).sum()
        r = n.sum() / d.sum()
        error = math.sqrt(c / (c - 1) * ((n - r * d) ** 2).sum()) / d.sum()
        assert sums.ratio(ratio, bin) == pytest.approx(r, rel=1e-12)
        assert sums.error(ratio, bin) == pytest.approx(error, rel=1e-9)


def one_context_each(values: list[float]) -> ContextSums:
    sums = ContextSums("tokens", "x")
    for value in values:
        sums.update({"tokens": torch.ones(1), "x": torch.tensor([value])}, all_of(torch.ones(1, 1, dtype=torch.bool)))
    return sums


@pytest.mark.parametrize(
    ("values", "is_right"),
    [
        ([3.0], math.isnan),
        ([3.0, 5.0], lambda error: error == pytest.approx(1.0)),  # a mean of 4, spread sqrt 2, over sqrt 2
        ([0.1] * 300, lambda error: error == 0.0),
    ],
)
def test_one_context_has_no_error_and_the_same_everywhere_has_none_to_speak_of(
    values: list[float], is_right: Callable[[float], bool]
) -> None:
    assert is_right(one_context_each(values).error(mean_of("x")))
    assert math.isnan(one_context_each(values).error(Ratio({"x": 1}, {"tokens": 0})))
