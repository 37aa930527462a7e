"""Health: a verdict on whether a dictionary can be used, by its metrics, and what speaks against it.

The thresholds are for small models and short training. SAELens' guidance for large ones is stricter: L0 of 50 to 200,
CE score of 80 to 95 %, fewer than 5 % dead latents, explained variance above 90 %. L0 has no threshold here: how sparse
to be is the choice that a sweep is about.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lmsae.runtime.numbers import format_share

# Below this, almost a third of the variance is missing, and latents describe another signal than the model's.
MIN_EXPLAINED_VARIANCE = 0.7
# Against the mean activation and not against zero: zeroing is so destructive that nearly everything scores well on it.
MIN_CE_LOSS_SCORE_MEAN = 0.8
# Dead latents are capacity paid for and not used. Peers ask for 5 % after hundreds of millions of tokens.
MAX_DEAD_SHARE = 0.10
# A latent that fires on a tenth of all tokens is hardly a sparse feature; a few are normal, a quarter is a dense code.
MAX_DENSE_SHARE = 0.25
# Reconstructions shorter than this have shrunk (too strong an L1 penalty); longer ones overshoot.
MIN_L2_RATIO, MAX_L2_RATIO = 0.8, 1.1
# A dictionary whose L0 is not its k is not the one that was asked for, healthy or not: so much is told.
MAX_OFF_K = 0.01


@dataclass(frozen=True, slots=True)
class Check:
    """The range in which a metric is healthy, ends included, and what is wrong with a dictionary outside it."""

    metric: str
    low: float
    high: float
    meaning: str

    @property
    def range(self) -> str:
        """The range in words."""
        if self.high == math.inf:
            return f"at least {self.low:g}"
        if self.low == -math.inf:
            return f"at most {self.high:g}"
        return f"{self.low:g} to {self.high:g}"

    def passes(self, value: float) -> bool:
        """True if a value is in the range; one that is not a number never is."""
        return self.low <= value <= self.high


CHECKS = (
    Check("explained_variance", MIN_EXPLAINED_VARIANCE, math.inf, "the reconstruction misses too much of the signal"),
    Check("ce_loss_score_mean", MIN_CE_LOSS_SCORE_MEAN, math.inf, "the model loses too much with the reconstruction"),
    Check("dead_share", -math.inf, MAX_DEAD_SHARE, "too many latents never fire"),
    Check("dense_share", -math.inf, MAX_DENSE_SHARE, "too many latents fire on more than a tenth of all tokens"),
    Check("l2_ratio", MIN_L2_RATIO, MAX_L2_RATIO, "reconstructions are shorter or longer than the activations"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgment on a dictionary: healthy or not, a line for each reason why not and for what is to be known of it, and
    the metrics outside their ranges."""

    ok: bool
    findings: tuple[str, ...]
    outside: tuple[str, ...]


def verdict(metrics: Mapping[str, float]) -> Verdict:
    """Judge the metrics that evaluation found (see docs/metrics.md). What was not measured counts as unhealthy."""
    measured = {**metrics, "dense_share": dense_share(metrics)}
    failed = {check: measured.get(check.metric, math.nan) for check in CHECKS}
    failed = {check: value for check, value in failed.items() if not check.passes(value)}
    return Verdict(
        ok=not failed,
        findings=(
            *(f"{c.metric} is {value:.3g} (healthy: {c.range}): {c.meaning}" for c, value in failed.items()),
            *_remark_on_k(metrics),
        ),
        outside=tuple(check.metric for check in failed),
    )


def _remark_on_k(metrics: Mapping[str, float]) -> Iterator[str]:
    share = metrics.get("l0_over_k", math.nan)
    if abs(share - 1) > MAX_OFF_K:
        yield f"l0 is {metrics['l0']:.4g}, {format_share(abs(share - 1))} {'above' if share > 1 else 'below'} k"


def dense_share(metrics: Mapping[str, float]) -> float:
    """Share of latents that fire on more than a tenth of all tokens; NaN where it was not measured."""
    latents = metrics.get("d_sae", 0)
    return metrics.get("dense_1e-1", math.nan) / latents if latents else math.nan
