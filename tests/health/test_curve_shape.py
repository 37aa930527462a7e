"""The shape of curves whose shape is known by construction."""

import math

import pytest

from lmsae.health.curve_shape import at_the_end, drift, early_dead, early_rise, late_gain, path_of

STEPS = 400


def curves(loss: list[float], lr: list[float] | None = None, **more: list[float]) -> dict[str, list[float]]:
    tokens = [100.0 * (step + 1) for step in range(len(loss))]
    return {"tokens": tokens, "loss": loss, "lr": lr or [0.01] * len(loss), **more}


def test_a_loss_that_falls_in_a_straight_line_gains_half_in_its_second_half() -> None:
    assert late_gain(curves([10 - step / STEPS for step in range(STEPS)])) == pytest.approx(0.5, abs=0.03)


def test_a_loss_that_falls_with_the_logarithm_of_training_gains_what_the_logarithm_says() -> None:
    expected = math.log(1 / 0.53) / math.log(1 / 0.06)
    found = late_gain(curves([10 - math.log(step + 1) for step in range(STEPS)]))
    assert found == pytest.approx(expected, abs=0.03)


def test_a_loss_that_has_settled_gains_nothing_late() -> None:
    assert late_gain(curves([1 + math.exp(-step / 20) for step in range(STEPS)])) == pytest.approx(0, abs=1e-3)


def test_what_a_falling_rate_brings_at_the_end_does_not_count() -> None:
    """The loss settles, and falls again while the rate does."""
    rate = [0.01] * 320 + [0.01 * (STEPS - step) / 80 for step in range(320, STEPS)]
    settled = [1 + math.exp(-step / 20) for step in range(STEPS)]
    fallen = [loss - 0.5 * max(0, step - 360) / 40 for step, loss in enumerate(settled)]
    assert late_gain(curves(fallen, rate)) == pytest.approx(0, abs=1e-3)


def test_training_is_as_long_as_its_rates_and_not_as_its_tokens() -> None:
    """A loss in a straight line over the sum of rates is one, however the rates fall."""
    rate = [0.01 * (1 - step / STEPS) for step in range(STEPS)]
    way = path_of(curves([0.0] * STEPS, rate))
    assert late_gain(curves([10 - at / way[-1] for at in way], rate)) == pytest.approx(0.5, abs=0.03)


def test_aux_k_is_no_gain_and_no_loss() -> None:
    loss = [1 + math.exp(-step / 20) for step in range(STEPS)]
    aux = [0.0] * 300 + [5.0] * 100
    together = [one + other for one, other in zip(loss, aux, strict=True)]
    assert late_gain(curves(together, aux_k_loss=aux)) == pytest.approx(late_gain(curves(loss)), abs=1e-12)


def test_the_path_is_the_sum_of_rates_over_tokens() -> None:
    assert path_of(curves([0.0] * 3, [1.0, 0.5, 0.25])) == [100, 150, 175]
    assert path_of({"tokens": [1, 2]}) == []


def test_an_early_rise_is_told_in_multiples_of_the_first_loss_and_a_late_one_is_none() -> None:
    rising = [2.0, 30.0, 6.0, *[1.0] * 197]
    assert early_rise({"loss": rising}) == 15
    assert early_rise({"loss": [1.0] * 200, "reconstruction_loss": rising}) == 15
    assert early_rise({"loss": [*[2.0] * 50, 30.0, *[1.0] * 149]}) == 1


def test_latents_are_dead_early_where_the_first_that_can_be_are() -> None:
    dead = [0.0] * 100 + [30.0] * 300
    assert early_dead(curves([1.0] * STEPS, dead=dead), 10_000, 100) == 0.3
    growing = [0.0] * 100 + [float(step) for step in range(300)]
    assert early_dead(curves([1.0] * STEPS, dead=growing), 10_000, 100) == pytest.approx(0.095)  # 0 to 19 of 100
    assert math.isnan(early_dead(curves([1.0] * STEPS, dead=dead), 30_000, 100))


def test_drift_is_the_change_over_the_last_fifth() -> None:
    assert drift([10.0] * 80 + [8.0] * 20) == pytest.approx(-0.2)
    assert drift([10.0] * 100) == 0
    assert at_the_end([0.0] * 95 + [1.0] * 5) == 1


@pytest.mark.parametrize("few", [{}, curves([]), curves([1.0, 0.5, 0.2])])
def test_nothing_is_said_of_a_curve_that_is_not_there_or_of_a_few_points(few: dict[str, list[float]]) -> None:
    assert math.isnan(late_gain(few))
    assert math.isnan(drift({}.get("l0", [])))
    assert math.isnan(at_the_end([]))
