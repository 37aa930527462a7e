"""The report's figures. The same results give the same bytes: no dates, no ids drawn by chance."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from lmsae.metrics.definitions import bin_centers
from lmsae.report.breakdowns import Line, draw_breakdowns
from lmsae.report.main_metrics import MAIN_METRICS
from lmsae.report.panels import STYLE, WIDTH, Cell, Panels, describe_axes, draw_line
from lmsae.report.results import Result
from lmsae.report.seeds import SeedGroup, group_seeds
from lmsae.runtime.numbers import format_count

# Legible on white and on black, and apart for most color-blind readers; the markers are apart for all.
COLORS = ("#3d7ee0", "#e8793b", "#2ba581", "#c659a8", "#8d74d9", "#b9942a", "#3ea3c7", "#d8505f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", "--", ":", "-.")
PARETO_PANELS = tuple((metric.name, metric.plot) for metric in MAIN_METRICS if metric.plot)
CURVE_PANELS = (
    ("loss", "Loss"),
    ("explained_variance", "Explained variance"),
    ("l0", "L0"),
    ("dead", "Dead latents"),
)
ALONG_PANELS = (
    ("explained_variance", "Explained variance"),
    ("l0", "L0"),
    ("ce_loss_score_mean", "CE loss score"),
    ("ce_difference", "CE difference"),
)
# Where training begins says nothing; showing it would flatten everything else.
LOWEST_EXPLAINED_VARIANCE = -0.1
DENSITIES_A_PAGE, DENSITY_COLUMNS = 24, 6
# Ticks are these apart, times a power of ten.
ROUND = (1, 2, 2.5, 5, 10)
# Beyond these, a line has no style and no legend entry of its own.
MOST_LINES_NAMED = 8
MOST_POINTS = 24_000


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure, the name of its files, and its title on the page."""

    name: str
    kind: str
    title: str
    panels: Panels

    def save(self, folder: Path) -> str:
        """Write `<name>.svg` and `<name>.png` and return the SVG's text."""
        with matplotlib.rc_context(STYLE):
            return self.panels.save(folder / self.name)


def plots(results: Sequence[Result]) -> Iterator[Plot]:
    """Every figure of the report, one at a time: they are large."""
    styles = _Styles(results)
    comparable: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        comparable[result.hook_points].append(result)
    pages = [results[i : i + DENSITIES_A_PAGE] for i in range(0, len(results), DENSITIES_A_PAGE)]
    with matplotlib.rc_context(STYLE):
        for number, (where, group) in enumerate(comparable.items(), start=1):
            yield Plot(f"pareto-{number}", "pareto", where, _pareto(group, styles))
        for number, page in enumerate(pages, start=1):
            yield Plot(f"density-{number}", "density", f"{page[0].name} … {page[-1].name}", _densities(page, styles))
        for number, (where, group) in enumerate(comparable.items(), start=1):
            yield Plot(f"curves-{number}", "curves", where, _curves(group, styles))
        for number, (where, group) in enumerate(comparable.items(), start=1):
            if evaluated := [result for result in group if result.along]:
                yield Plot(f"along-{number}", "along", where, _along(evaluated, styles))
        for number, (where, group) in enumerate(comparable.items(), start=1):
            if any(result.breakdowns for result in group):
                panels = draw_breakdowns(*_named_lines(group, styles))
                yield Plot(f"breakdown-{number}", "breakdown", where, panels)


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

    def legend(self, group: Sequence[Result]) -> list[Line2D]:
        """A line for each architecture of a group."""
        present = {result.architecture for result in group}
        names = [name for name in self.order if name in present]
        return [Line2D([], [], color=self.color(name), marker=self.marker(name), label=name) for name in names]


def pareto_panels(results: Sequence[Result]) -> list[tuple[str, str]]:
    """The panels of metrics that any of the results has: of own activations there are none of a model's loss."""
    return [(name, title) for name, title in PARETO_PANELS if any(name in result.metrics for result in results)]


def _pareto(group: Sequence[Result], styles: _Styles) -> Panels:
    shown = pareto_panels(group)
    count = len(shown)
    panels = Panels(count, count, Cell(WIDTH / count, 3.2), styles.legend(group))
    lines: dict[tuple[tuple[str, str], ...], list[Result]] = defaultdict(list)
    for result in group:
        lines[result.line].append(result)
    for axes, (metric, title) in zip(panels.axes, shown, strict=True):
        for line in lines.values():
            _pareto_line(axes, line, metric, styles)
        describe_axes(axes, title, "L0: active latents a token")
        _set_ticks(axes, count_y=False)
        _look_at_healthy(axes, group, metric)
        _log_if_wide(axes, [result.metrics["l0"] for result in group])
    return panels


def _pareto_line(axes: Axes, line: Sequence[Result], metric: str, styles: _Styles) -> None:
    """The points of a line, and the line through the means of seeds with a band of one standard deviation."""
    groups = sorted(group_seeds(line), key=lambda group: group.mean("l0"))
    ordered = [result for group in groups for result in group.results]
    color, marker = styles.color(ordered[0].architecture), styles.marker(ordered[0].architecture)
    means = [group.mean(metric) for group in groups], [group.spread(metric) for group in groups]
    draw_line(axes, [group.mean("l0") for group in groups], *means, {"color": color, "linewidth": 1.3}, alpha=0.7)
    x = [result.metrics["l0"] for result in ordered]
    y = [result.metrics.get(metric, math.nan) for result in ordered]
    style = {"marker": marker, "markersize": 5.5, "markeredgewidth": 1.3, "linestyle": "", "zorder": 3}
    for healthy, face in ((True, color), (False, "none")):
        chosen = [i for i, result in enumerate(ordered) if result.verdict.ok == healthy]
        if chosen:
            axes.plot([x[i] for i in chosen], [y[i] for i in chosen], color=color, markerfacecolor=face, **style)


def _look_at_healthy(axes: Axes, group: Sequence[Result], metric: str) -> None:
    """Show the range of healthy dictionaries and as much again around it; say how many lie outside."""
    healthy = [result.metrics[metric] for result in group if result.verdict.ok and metric in result.metrics]
    if len(healthy) < 2:
        return
    room = max(healthy) - min(healthy) or abs(healthy[0]) or 1.0
    low, high = min(healthy) - room, max(healthy) + room
    values = [result.metrics.get(metric, math.nan) for result in group]
    outside = sum(not low <= value <= high for value in values)
    if outside:
        axes.set_ylim(low, high)
        axes.text(0.98, 0.04, f"{outside} outside", transform=axes.transAxes, ha="right", fontsize=8)


def _set_ticks(axes: Axes, *, count_y: bool) -> None:
    """Few ticks, so that they fit into a narrow panel: counts on the x axis, and on the y axis where it has some."""
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=ROUND))
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    axes.yaxis.set_major_formatter(lambda value, _: format_count(value) if count_y else _plain(value))


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(positive) > 4 * min(positive):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _densities(page: Sequence[Result], styles: _Styles) -> Panels:
    columns = min(DENSITY_COLUMNS, max(3, len(page)))
    cell = Cell(WIDTH / DENSITY_COLUMNS, 1.35, left=0.16, right=0.16, top=0.24, bottom=0.26)
    panels = Panels(len(page), columns, cell, styles.legend(page), footer="firing rate of a latent")
    for axes, result in zip(panels.axes, page, strict=True):
        color = styles.color(result.architecture)
        axes.fill_between(bin_centers(), result.histogram, step="mid", color=color, alpha=0.85, linewidth=0)
        describe_axes(axes, _shorten(result.name), fontsize=8)
        axes.set_yticks([])
        axes.set_ylim(bottom=0)
        axes.set_xlim(-6.3, 0.3)
        axes.set_xticks([-6, -4, -2, 0], ["1e-6", "1e-4", "1 %", "1"], fontsize=8)
        dead = int(result.metrics.get("dead", 0))
        if dead:
            axes.text(0.02, 0.95, f"{dead:,} dead", transform=axes.transAxes, va="top", fontsize=7.5)
    return panels


def _curves(group: Sequence[Result], styles: _Styles) -> Panels:
    shown = [(column, title) for column, title in CURVE_PANELS if _says_something(group, column)]
    lines, legend = _named_lines(group, styles)
    named = len(lines) <= MOST_LINES_NAMED
    count = max(1, len(shown))
    panels = Panels(len(shown), count, Cell(WIDTH / count, 2.7), legend)
    for axes, (column, title) in zip(panels.axes, shown, strict=True):
        for seeds, style in lines:
            for curve in _merge(seeds, column, MOST_POINTS // len(group)):
                draw_line(axes, *curve, style, alpha=0.9 if named else 0.45)
            for result in seeds.results:
                if column == "loss" and result.aux_k_begins is not None:
                    axes.plot(*result.aux_k_begins, marker="|", markersize=9, color=style["color"])
        describe_axes(axes, title, "training tokens")
        _set_ticks(axes, count_y=column in ("l0", "dead"))
        _scale_curves(axes, column)
    return panels


def _along(group: Sequence[Result], styles: _Styles) -> Panels:
    """The metrics on held-out text in the course of training."""
    lines, legend = _named_lines(group, styles)
    shown = [(column, title) for column, title in ALONG_PANELS if any(column in result.along for result in group)]
    count = len(shown)
    panels = Panels(count, count, Cell(WIDTH / count, 2.7), legend)
    for axes, (column, title) in zip(panels.axes, shown, strict=True):
        for result, style in ((result, style) for seeds, style in lines for result in seeds.results):
            axes.plot(result.along["tokens"], result.along[column], marker=".", markersize=4, alpha=0.9, **style)
        describe_axes(axes, title, "training tokens")
        _set_ticks(axes, count_y=column == "l0")
        if column in ("explained_variance", "ce_loss_score_mean"):
            axes.set_ylim(bottom=max(LOWEST_EXPLAINED_VARIANCE, axes.get_ylim()[0]), top=1.02)
    return panels


def _says_something(group: Sequence[Result], column: str) -> bool:
    """True if a curve is worth a panel: dead latents are not, where there are none."""
    return any(any(result.curves.get(column, ())) for result in group)


def _named_lines(group: Sequence[Result], styles: _Styles) -> tuple[list[Line], Sequence[Line2D]]:
    """The lines of a group, one for rows that differ only in seeds, with their looks; and the legend: names of rows if
    lines are few, else architectures."""
    seeds = group_seeds(group)
    named = len(seeds) <= MOST_LINES_NAMED
    lines = _line_styles(seeds, styles, named)
    legend = [Line2D([], [], label=_label(one), **style) for one, style in lines] if named else styles.legend(group)
    return lines, legend


def _label(seeds: SeedGroup) -> str:
    count = len(seeds.results)
    return _shorten(seeds.name) if count == 1 else f"{_shorten(seeds.name, 16)}, {count} seeds"


def _line_styles(groups: Sequence[SeedGroup], styles: _Styles, named: bool) -> list[Line]:
    """The look of each line: the color of its architecture, and its own dashes where it has a name in the legend."""
    seen: dict[str, int] = defaultdict(int)
    lines = []
    for group in groups:
        architecture = group.results[0].architecture
        dash = DASHES[seen[architecture] % len(DASHES)] if named else "-"
        seen[architecture] += 1
        style = {"color": styles.color(architecture), "linestyle": dash, "linewidth": 1.3 if named else 0.8}
        lines.append((group, style))
    return lines


def _merge(seeds: SeedGroup, column: str, most: int) -> Iterator[tuple[list[float], list[float], list[float]]]:
    """The curve of rows that differ only in seeds as one, x, mean and standard deviation, if all were recorded at the
    same tokens; else each by itself."""
    curves = [_thin(result, column, most) for result in seeds.results]
    if any(x != curves[0][0] or len(y) != len(curves[0][1]) for x, y in curves):
        yield from ((x, y, []) for x, y in curves)
        return
    points = list(zip(*(y for _, y in curves), strict=True))
    spread = [statistics.stdev(values) for values in points] if len(curves) > 1 else []
    yield curves[0][0], [statistics.fmean(values) for values in points], spread


def _scale_curves(axes: Axes, column: str) -> None:
    if column == "explained_variance":
        axes.set_ylim(bottom=max(LOWEST_EXPLAINED_VARIANCE, axes.get_ylim()[0]), top=1.02)
    elif column == "loss":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: _plain(value))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)


def _thin(result: Result, column: str, most: int) -> tuple[list[float], list[float]]:
    """A curve's points, every n-th of them if there are too many, the last one always."""
    x, y = result.curves.get("tokens", ()), result.curves.get(column, ())
    step = max(1, math.ceil(len(x) / max(20, min(most, 400))))
    return [*x[::step], *x[-1:]], [*y[::step], *y[-1:]]


def _shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
