"""Schedules: pure functions of the step."""


def steps_of(duration: int | float, total: int) -> int:
    """Steps that a duration means: an integer is a number of steps, a float a share of all `total` steps."""
    return round(duration * total) if isinstance(duration, float) else duration


def trapezoid(step: int, total: int, warm_up: int | float, decay: int | float, end_ratio: float) -> float:
    """Factor of the learning rate at `step` of `total`: linear warm-up, constant, linear decay to `end_ratio`.

    `warm_up` and `decay` are steps, or fractions of `total`; 0 turns either off.
    """
    rising, falling = steps_of(warm_up, total), steps_of(decay, total)
    up = min(1.0, (step + 1) / rising) if rising else 1.0
    left = total - step
    down = end_ratio + (1 - end_ratio) * left / (falling + 1) if falling and left <= falling else 1.0
    return up * down


def warm_up(step: int, total: int, duration: int | float) -> float:
    """Factor that rises linearly from 0 (at step 0) to 1 over `duration` (steps, or a fraction of `total`)."""
    rising = steps_of(duration, total)
    return min(1.0, step / rising) if rising else 1.0
