"""The report's figures. The same results give the same bytes: no dates, no ids drawn by chance."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from lmsae.report.main_metrics import MAIN_METRICS
from lmsae.report.results import Result
from lmsae.report.tables import bin_centers

# The page replaces these two by the colors of the reader's theme.
INK, FAINT = "#24292f", "#d0d7de"
# Legible on white and on black, and apart for most color-blind readers; the markers are apart for all.
COLORS = ("#3d7ee0", "#e8793b", "#2ba581", "#c659a8", "#8d74d9", "#b9942a", "#3ea3c7", "#d8505f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", "--", ":", "-.")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.dpi": 150,
}
WIDTH = 10.5
PARETO_PANELS = tuple((metric.name, metric.plot) for metric in MAIN_METRICS if metric.plot)
CURVE_PANELS = (
    ("loss", "Loss"),
    ("explained_variance", "Explained variance"),
    ("l0", "L0"),
    ("dead", "Dead latents"),
)
# Where training begins says nothing; showing it would flatten everything else.
LOWEST_EXPLAINED_VARIANCE = -0.1
DENSITIES_A_PAGE, DENSITY_COLUMNS = 24, 6
# Beyond these, a line has no style and no legend entry of its own.
MOST_LINES_NAMED = 8
MOST_POINTS = 24_000


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure, the name of its files, and its title on the page."""

    name: str
    kind: str
    title: str
    figure: Figure

    def save(self, folder: Path) -> str:
        """Write `<name>.svg` and `<name>.png` and return the SVG's text."""
        svg = folder / f"{self.name}.svg"
        # Ids are made of the salt: figures on one page must not share any.
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(svg, metadata={"Date": None, "Creator": None})
            self.figure.savefig(svg.with_suffix(".png"), metadata={"Software": None}, facecolor="white")
        return svg.read_text()


def plots(results: Sequence[Result]) -> Iterator[Plot]:
    """Every figure of the report, one at a time: they are large."""
    styles = _Styles(results)
    comparable: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        comparable[result.hook_points].append(result)
    with matplotlib.rc_context(STYLE):
        for number, (where, group) in enumerate(comparable.items(), start=1):
            yield Plot(f"pareto-{number}", "pareto", where, _pareto(group, styles))
        pages = [results[i : i + DENSITIES_A_PAGE] for i in range(0, len(results), DENSITIES_A_PAGE)]
        for number, page in enumerate(pages, start=1):
            yield Plot(f"density-{number}", "density", f"{page[0].name} … {page[-1].name}", _densities(page, styles))
        for number, (where, group) in enumerate(comparable.items(), start=1):
            yield Plot(f"curves-{number}", "curves", where, _curves(group, styles))


class _Styles:
    """One color and one marker for each architecture, the same in every figure."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.order = list(dict.fromkeys(result.architecture for result in results))

    def color(self, architecture: str) -> str:
        return COLORS[self.order.index(architecture) % len(COLORS)]

    def marker(self, architecture: str) -> str:
        # One further with each round of the colors, so that no two have both in common.
        number = self.order.index(architecture)
        return MARKERS[(number + number // len(COLORS)) % len(MARKERS)]

    def legend(self, figure: Figure, group: Sequence[Result], handles: Sequence[Line2D] | None = None) -> None:
        present = {result.architecture for result in group}
        shown = handles or [
            Line2D([], [], color=self.color(name), marker=self.marker(name), label=name)
            for name in self.order
            if name in present
        ]
        columns = min(len(shown), 6)
        figure.legend(handles=shown, loc="outside upper left", ncols=columns, handlelength=2.2, columnspacing=1.6)


def _pareto(group: Sequence[Result], styles: _Styles) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    lines: dict[tuple[tuple[str, str], ...], list[Result]] = defaultdict(list)
    for result in group:
        lines[result.line].append(result)
    for axes, (metric, title) in zip(figure.subplots(1, len(PARETO_PANELS)), PARETO_PANELS, strict=True):
        for line in lines.values():
            _pareto_line(axes, line, metric, styles)
        axes.set(title=title, xlabel="L0: active latents a token")
        _look_at_healthy(axes, group, metric)
        _log_if_wide(axes, [result.metrics["l0"] for result in group])
    styles.legend(figure, group)
    return figure


def _pareto_line(axes: Axes, line: Sequence[Result], metric: str, styles: _Styles) -> None:
    ordered = sorted(line, key=lambda result: result.metrics["l0"])
    x = [result.metrics["l0"] for result in ordered]
    y = [result.metrics.get(metric, math.nan) for result in ordered]
    color, marker = styles.color(ordered[0].architecture), styles.marker(ordered[0].architecture)
    axes.plot(x, y, color=color, linewidth=1.3, alpha=0.7)
    for healthy, face in ((True, color), (False, "none")):
        chosen = [i for i, result in enumerate(ordered) if result.verdict.ok == healthy]
        points = [x[i] for i in chosen], [y[i] for i in chosen]
        axes.scatter(*points, s=30, marker=marker, facecolors=face, edgecolors=color, linewidths=1.3, zorder=3)


def _look_at_healthy(axes: Axes, group: Sequence[Result], metric: str) -> None:
    """Show the range of healthy dictionaries and as much again around it; say how many lie outside."""
    healthy = [result.metrics[metric] for result in group if result.verdict.ok]
    if len(healthy) < 2:
        return
    room = max(healthy) - min(healthy) or abs(healthy[0]) or 1.0
    low, high = min(healthy) - room, max(healthy) + room
    values = [result.metrics.get(metric, math.nan) for result in group]
    outside = sum(not low <= value <= high for value in values)
    if outside:
        axes.set_ylim(low, high)
        axes.text(0.98, 0.04, f"{outside} outside", transform=axes.transAxes, ha="right", fontsize=8)


def _log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(positive) > 4 * min(positive):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _densities(page: Sequence[Result], styles: _Styles) -> Figure:
    columns = min(DENSITY_COLUMNS, max(4, len(page)))
    rows = math.ceil(len(page) / columns)
    figure = Figure(figsize=(WIDTH, 0.55 + 1.35 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    for axes, result in zip(grid, page, strict=False):
        color = styles.color(result.architecture)
        axes.fill_between(bin_centers(), result.histogram, step="mid", color=color, alpha=0.85, linewidth=0)
        axes.set_title(_shorten(result.name), fontsize=8)
        axes.set_yticks([])
        axes.set_ylim(bottom=0)
        axes.set_xticks([-6, -4, -2, 0], ["1e-6", "1e-4", "1 %", "1"])
        dead = int(result.metrics.get("dead", 0))
        if dead:
            axes.text(0.02, 0.9, f"{dead:,} dead", transform=axes.transAxes, va="top", fontsize=7.5)
    for axes in list(figure.axes)[len(page) :]:
        axes.set_axis_off()
    figure.supxlabel("firing rate of a latent", fontsize=9)
    styles.legend(figure, page)
    return figure


def _curves(group: Sequence[Result], styles: _Styles) -> Figure:
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    named = len(group) <= MOST_LINES_NAMED
    panels = [panel for panel in CURVE_PANELS if any(panel[0] in result.curves for result in group)]
    seen: dict[str, int] = defaultdict(int)
    handles = []
    grid = list(figure.subplots(2, 2, sharex=True).flat)
    for result in group:
        dash = DASHES[seen[result.architecture] % len(DASHES)] if named else "-"
        seen[result.architecture] += 1
        style = {"color": styles.color(result.architecture), "linestyle": dash, "linewidth": 1.3 if named else 0.8}
        handles.append(Line2D([], [], label=_shorten(result.name), **style))
        for axes, (column, _) in zip(grid, panels, strict=False):
            axes.plot(*_thin(result, column, MOST_POINTS // len(group)), alpha=0.9 if named else 0.45, **style)
    for axes, (column, title) in zip(grid, panels, strict=False):
        axes.set_title(title)
        axes.xaxis.set_major_formatter(lambda value, _: _millions(value))
        if column == "explained_variance":
            axes.set_ylim(bottom=max(LOWEST_EXPLAINED_VARIANCE, axes.get_ylim()[0]), top=1.02)
        elif column == "loss":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(bottom=0)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("training tokens", fontsize=9)
    styles.legend(figure, group, handles if named else None)
    return figure


def _thin(result: Result, column: str, most: int) -> tuple[list[float], list[float]]:
    """A curve's points, every n-th of them if there are too many, the last one always."""
    x, y = result.curves.get("tokens", ()), result.curves.get(column, ())
    step = max(1, math.ceil(len(x) / max(20, min(most, 400))))
    return [*x[::step], *x[-1:]], [*y[::step], *y[-1:]]


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:g}M" if tokens >= 1e5 else f"{tokens:g}"


def _shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
