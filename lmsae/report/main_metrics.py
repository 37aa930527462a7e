"""The main metrics: those that people look at first, in tables, in plots and on the page."""

from collections.abc import Iterable
from dataclasses import dataclass

from lmsae.metrics.definitions import METRICS


@dataclass(frozen=True, slots=True)
class MainMetric:
    """A main metric: its name, its heading on the page, and the title of its plot against L0; None if it has none. A
    share is shown in per cent."""

    name: str
    heading: str
    plot: str | None = None
    is_share: bool = False


MAIN_METRICS = (
    MainMetric("l0", "L0"),
    MainMetric("explained_variance", "Expl. variance", "Explained variance"),
    MainMetric("ce_loss_score_mean", "CE score (mean)", "CE score, against mean ablation"),
    MainMetric("ce_loss_score_zero", "CE score (zero)"),
    MainMetric("ce_difference", "CE difference", "CE difference, nats a token"),
    MainMetric("l2_ratio", "L2 ratio"),
    MainMetric("dead_share", "Dead", is_share=True),
    MainMetric("dense_share", "Dense", is_share=True),
)


def in_order(names: Iterable[str]) -> list[str]:
    """Metric names as tables show them: the main ones, those of each group, then those without a definition of their
    own by name."""
    present = set(names)
    order = list(dict.fromkeys([*(metric.name for metric in MAIN_METRICS), *METRICS]))
    return [name for name in order if name in present] + sorted(present - set(order))
