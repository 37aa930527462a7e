"""Centers of activations, which decoder biases start at."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOLERANCE = 1e-10
NEAR = 1e-8
"""Points nearer to the median than this share of the spread count as at it: their pull is nothing but rounding."""
MOST_STEPS = 10_000
CHUNK = 8192


def compute_mean(x: Tensor) -> Tensor:
    """The mean of points (n, d)."""
    return x.mean(0)


def make_zero(x: Tensor) -> Tensor:
    """The origin of the space of points (n, d)."""
    return x.new_zeros(x.shape[1])


def compute_geometric_median(x: Tensor) -> Tensor:
    """The point with the least mean distance to points (n, d), by Weiszfeld's iteration, in float64.

    Steps as of Vardi and Zhang 2000 (PNAS 97, equations 2.5 to 2.7), which also leave a point of the data that is not
    the median. Ends where a step moves less than TOLERANCE of the points' mean distance to their mean.
    """
    parts, median = x.split(CHUNK), x.mean(0, dtype=torch.float64)
    spread = sum((part.double() - median).norm(dim=1).sum().item() for part in parts) / len(x)
    for _ in range(MOST_STEPS):
        weight, pull, here = 0.0, torch.zeros_like(median), 0
        for part in parts:
            away = part.double() - median
            distances = away.norm(dim=1)
            apart = distances > NEAR * spread
            inverse = 1 / distances[apart]
            weight, pull = weight + inverse.sum().item(), pull + inverse @ away[apart]
            here += int((~apart).sum())
        # Points at the median itself hold it back by at most their number.
        free = max(0.0, 1 - here / pull.norm().item()) if here and pull.any() else float(not here)
        step = free * pull / weight if weight else torch.zeros_like(pull)
        median += step
        if step.norm() <= TOLERANCE * spread:
            break
    return median.to(x.dtype)


CENTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": compute_mean,
    "zero": make_zero,
    "geometric_median": compute_geometric_median,
}


def compute_center(kind: str, targets: Tensor, widths: Sequence[int]) -> Tensor:
    """The center (d_out,) of targets (tokens, d_out), of each hook point on its own."""
    return torch.cat([CENTERS[kind](part) for part in targets.split(list(widths), dim=1)])
