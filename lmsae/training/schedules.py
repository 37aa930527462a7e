"""Schedules: pure functions of the step.

A duration is a number of steps (an integer) or a share of all steps (a float); 0 is off.
"""

import math
from collections.abc import Callable, Mapping

Shape = Callable[[float, float], float]
"""From 1 at progress 0 to `end` at progress 1: shape(progress, end)."""

EXPONENTIAL_FACTOR = 3.0


def steps_of(duration: int | float, total: int) -> int:
    """Steps that a duration means: an integer is a number of steps, a float a share of all `total` steps."""
    return round(duration * total) if isinstance(duration, float) else duration


def stay_constant(progress: float, end: float) -> float:
    """1 throughout."""
    del progress, end
    return 1.0


def fall_linearly(progress: float, end: float) -> float:
    """A straight line."""
    return end + (1 - end) * (1 - progress)


def fall_as_cosine(progress: float, end: float) -> float:
    """Half a cosine: slow, fast, slow."""
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2


def fall_geometrically(progress: float, end: float) -> float:
    """By the same ratio every step; `end` must be positive."""
    return end**progress


def fall_exponentially(progress: float, end: float) -> float:
    """As exp(-3 progress), shifted and scaled to the ends: fast, then slow."""
    rest = math.exp(-EXPONENTIAL_FACTOR)
    return end + (1 - end) * (math.exp(-EXPONENTIAL_FACTOR * progress) - rest) / (1 - rest)


LR_SHAPES: Mapping[str, Shape] = {
    "constant": stay_constant,
    "trapezoid": fall_linearly,
    "linear": fall_linearly,
    "cosine": fall_as_cosine,
    "exponential": fall_geometrically,
}
K_SHAPES: Mapping[str, Shape] = {"linear": fall_linearly, "exponential": fall_exponentially}


def learning_rate(step: int, total: int, shape: Shape, rise: int | float, fall: int | float, end_ratio: float) -> float:
    """Factor of the learning rate at `step` of `total`: a linear rise, 1, and a fall to `end_ratio` in some shape.

    The fall takes the last `fall` steps, or as many as the rise leaves. The first step has more than 0, and
    `end_ratio` would be reached one step after the last.
    """
    rising = min(steps_of(rise, total), total)
    falling = min(steps_of(fall, total), total - rising)
    up = min(1.0, (step + 1) / rising) if rising else 1.0
    left = total - step
    return up * shape(1 - left / (falling + 1), end_ratio) if falling and left <= falling else up


def warm_up(step: int, total: int, duration: int | float) -> float:
    """Factor that rises linearly from 0 (at step 0) to 1 over `duration`."""
    rising = steps_of(duration, total)
    return min(1.0, step / rising) if rising else 1.0


def k_at(
    step: int, total: int, shape: Shape, ends: tuple[int, int], cold_boot: int | float, duration: int | float
) -> int:
    """k at `step` of `total`: the first of `ends` for `cold_boot`, then in some shape to the second over `duration`."""
    waiting, moving = steps_of(cold_boot, total), steps_of(duration, total)
    if step < waiting:
        return ends[0]
    if step >= waiting + moving:
        return ends[1]
    return round(ends[1] + (ends[0] - ends[1]) * shape((step - waiting) / moving, 0.0))
