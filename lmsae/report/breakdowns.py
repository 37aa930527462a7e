"""The figure of metrics by bins of tokens: by position, and by token frequency."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from lmsae.report.panels import WIDTH, Cell, Panels, describe_axes, draw_line
from lmsae.report.results import Breakdown
from lmsae.report.seeds import SeedGroup

METRICS = (
    ("explained_variance", "Explained variance"),
    ("l0", "L0"),
    ("ce_difference", "CE difference"),
)
AXES = {
    "position": ("by position", "token of the context, from 1", 2),
    "token_frequency": ("by token frequency", "share of training text", 10),
}
"""By kind of bin: the words for it, the label of the x axis, and the base of its logarithm."""


Line = tuple[SeedGroup, dict[str, Any]]
"""Rows that differ only in seeds, and the look of their line."""


def draw_breakdowns(lines: Sequence[Line], legend: Sequence[Any]) -> Panels:
    """A panel for each metric and kind of bin, with a line for rows that differ only in seeds. Bands are one standard
    deviation over seeds, or of a single row one standard error; lines too many to have a name have none."""
    kinds = [kind for kind in AXES if any(kind in group.results[0].breakdowns for group, _ in lines)]
    every = [one for group, _ in lines for result in group.results for one in result.breakdowns.values()]
    shown = [(metric, title) for metric, title in METRICS if any(metric in one.metrics for one in every)]
    panels = Panels(len(shown) * len(kinds), len(shown), Cell(WIDTH / len(shown), 2.5), legend)
    wanted = [(kind, metric, title) for kind in kinds for metric, title in shown]
    for axes, (kind, metric, title) in zip(panels.axes, wanted, strict=True):
        words, label, base = AXES[kind]
        for group, style in lines:
            there = [result.breakdowns[kind] for result in group.results if kind in result.breakdowns]
            found = [one for one in there if metric in one.metrics]
            if found:
                numbers, spread = _over_seeds(found, metric)
                has_band = len(lines) <= len(legend)
                draw_line(axes, middles(kind, found[0]), numbers, spread if has_band else [], style | {"marker": "."})
        describe_axes(axes, f"{title} {words}", label)
        axes.set_xscale("log", base=base)
        axes.xaxis.set_major_locator(LogLocator(base, numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_locator(MaxNLocator(5))
    return panels


def _over_seeds(found: Sequence[Breakdown], metric: str) -> tuple[Sequence[float], Sequence[float]]:
    """The numbers of a metric in each bin and their spread: mean and standard deviation over seeds, if their bins are
    the same; else those of the first alone, with their standard errors."""
    first = found[0]
    if len(found) == 1 or any((one.low, one.high) != (first.low, first.high) for one in found):
        return first.metrics[metric], first.errors[metric]
    points = list(zip(*(one.metrics[metric] for one in found), strict=True))
    spread = [statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan for values in points]
    return [statistics.fmean(values) for values in points], spread


def middles(kind: str, found: Breakdown) -> list[float]:
    """The place of each bin on a logarithmic axis: its geometric mean, with positions counted from 1. Token frequencies
    of a bin that begins at 0 are taken for the largest one."""
    shift = 1 if kind == "position" else 0
    ends = ((low + shift, high + shift) for low, high in zip(found.low, found.high, strict=True))
    return [math.sqrt(low * high) if low > 0 else high or math.nan for low, high in ends]
