"""Training curves: the numbers of a step that are recorded, and their file."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lmsae.losses import Forward
from lmsae.metrics.formulas import explain_variance
from lmsae.runtime.wandb_log import Counts

POINTS = 200


class Log(Protocol):
    """A second place for curve points, which get there as they are made."""

    def __call__(self, point: Mapping[str, float | Counts]) -> None: ...

    def finish(self) -> None: ...


class Tally:
    """The losses and sums of one step, over the parts of its batch."""

    def __init__(self) -> None:
        self.tokens = 0
        self.losses: dict[str, float] = {}
        self._squared_error = self._active = 0.0
        self._targets: list[Tensor] = []

    @torch.no_grad()
    def add(self, forward: Forward, terms: Mapping[str, Tensor], share: float) -> None:
        """Take in a part of the batch, which holds `share` of its tokens."""
        self.tokens += len(forward.target)
        for name, term in terms.items():
            self.losses[name] = self.losses.get(name, 0.0) + share * term.item()
        self._squared_error += (forward.reconstruction - forward.target).pow(2).sum().item()
        self._active += (forward.codes.values != 0).sum().item()
        self._targets.append(forward.target)

    def summarize(self) -> dict[str, float]:
        """The step's loss, its terms, explained variance (NaN for a batch without any), and mean L0."""
        target = torch.cat(self._targets)
        variance, squared_norm = (part.pow(2).sum().item() for part in (target - target.mean(0), target))
        return {
            "loss": sum(self.losses.values()),
            **{f"{name}_loss": value for name, value in self.losses.items()},
            "explained_variance": explain_variance(self._squared_error, variance, squared_norm),
            "l0": self._active / self.tokens,
        }


def is_point(step: int, steps: int) -> bool:
    """True if `step` of `steps` is recorded: 200 to 400 evenly spaced ones are, and always the last.

    They are a power of two apart, so that those of a longer run are among those of a shorter one.
    """
    apart = 1 << max(0, (steps // POINTS).bit_length() - 1)
    return step % apart == 0 or step == steps - 1


def describe(latest: Sequence[Mapping[str, float]]) -> str:
    """The loss, L0 and explained variance of runs at their latest points, in a line: of several the range."""
    said = []
    for name, title in (("loss", "loss"), ("l0", "L0"), ("explained_variance", "explained variance")):
        values = [point[name] for point in latest if math.isfinite(point[name])]
        if values:
            ends = dict.fromkeys(f"{value:.3g}" for value in (min(values), max(values)))
            said.append(f"{title} {' to '.join(ends)}")
    return ", ".join(said)


def write(points: list[dict[str, float]], path: Path) -> None:
    """Write the points as csv, one line each."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(points[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)
