"""Ranges: where each metric is healthy, and what is said of a dictionary outside of one for no cause that is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lmsae.health import knobs
from lmsae.health.case import Case
from lmsae.health.config import Thresholds


@dataclass(frozen=True, slots=True)
class Range:
    """The range in which a metric is healthy, ends included, the name and the meaning of being outside, and what to
    change in a case then."""

    metric: str
    low: float
    high: float
    name: str
    meaning: str
    advise: Callable[[Case], str]

    @property
    def text(self) -> str:
        """The range in words."""
        if self.high == math.inf:
            return f"at least {self.low:g}"
        if self.low == -math.inf:
            return f"at most {self.high:g}"
        return f"{self.low:g} to {self.high:g}"

    def holds(self, value: float) -> bool:
        """True if a value is in the range; one that is not a number never is."""
        return self.low <= value <= self.high


def ranges(limits: Thresholds) -> tuple[Range, ...]:
    """The range of every metric that has one."""
    return (
        Range(
            "explained_variance",
            limits.min_explained_variance,
            math.inf,
            "missing_variance",
            "the reconstruction misses too much of the signal",
            knobs.complete,
        ),
        Range(
            "ce_loss_score_mean",
            limits.min_ce_loss_score_mean,
            math.inf,
            "model_loss",
            "the model loses too much with the reconstruction",
            knobs.serve,
        ),
        Range(
            "dead_share",
            -math.inf,
            limits.max_dead_share,
            "dead_latents",
            "too many latents never fire",
            knobs.revive,
        ),
        Range(
            "dense_share",
            -math.inf,
            limits.max_dense_share,
            "dense_latents",
            "too many latents fire on more than a tenth of all tokens",
            knobs.thin,
        ),
        Range(
            "l2_ratio",
            limits.min_l2_ratio,
            limits.max_l2_ratio,
            "shrinkage",
            "reconstructions are shorter or longer than the activations",
            knobs.lengthen,
        ),
    )
