"""The report as one HTML page that needs no other file and no network."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lmsae.health.ranges import ranges
from lmsae.metrics.definitions import METRICS, SAME, definition, plain_name
from lmsae.report.controls import compared, find_controls
from lmsae.report.explorer import as_json, bundle, explore
from lmsae.report.main_metrics import MAIN_METRICS, MainMetric, in_order
from lmsae.report.matched import Match
from lmsae.report.provenance import BEGIN, END
from lmsae.report.results import MAIN_SETTINGS, SPARSITY_SETTINGS, Result, is_seed, settings_of, text_of
from lmsae.report.seeds import SeedGroup
from lmsae.runtime.numbers import format_share

# Every figure is on the page, but only the first few are open.
OPEN_FIGURES = 4


@dataclass(frozen=True, slots=True)
class Illustration:
    """A figure of the page: the section it belongs to, its title, and the entries of its legend and its panels as SVG,
    with the number of panels side by side and the width of one in pixels, if there is room."""

    kind: str
    title: str
    entries: Sequence[Markup]
    panels: Sequence[Markup]
    columns: int
    width: int


@dataclass(frozen=True, slots=True)
class _Settings:
    """The settings of a sweep, each name in one place: shared by all rows and set by the user or one of the main ones,
    shared and a default, or telling rows apart."""

    shared: Mapping[str, str]
    defaults: Mapping[str, str]
    varied: Sequence[str]


def page(
    results: Sequence[Result],
    groups: Sequence[SeedGroup],
    given: Collection[str],
    illustrations: Sequence[Illustration],
    missing: Mapping[str, str],
    matches: Sequence[Match] = (),
) -> str:
    """The page's HTML. Whatever a setting or a name holds is escaped. `given` are the settings that the user wrote;
    `missing` are the rows without results, each with what it lacks; `matches` compare lines at the same L0."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, setting=_setting, share=format_share, error=_error, spread=_spread)
    template = environment.from_string((files("lmsae.report") / "report.html.jinja").read_text("utf-8"))
    settings = _sort_settings(results, given)
    measured = {plain_name(name) for result in results for name in result.metrics}
    headed = [name for name in settings.varied if name in given or name in MAIN_SETTINGS]
    repeated = [group for group in groups if len(group.results) > 1]
    by_sparsity = [name for name in headed if name in SPARSITY_SETTINGS]
    return template.render(
        results=results,
        missing=missing,
        is_seed=is_seed,
        groups=groups if repeated else [],
        same=SAME,
        provenance=BEGIN + END,
        pages=as_json([result.name for result in results if result.has_page]),
        matches=matches,
        places=len({result.hook_points for result in results}),
        explorer=as_json(explore(results, headed, _number_seeds(results, groups))),
        bundle=bundle(),
        script=Markup((files("lmsae.report") / "explorer.js").read_text("utf-8")),
        settings=settings,
        headed=[name for name in headed if name not in SPARSITY_SETTINGS],
        sparsity=[_sparsity(result, by_sparsity) for result in results] if by_sparsity else [],
        main=[metric for metric in MAIN_METRICS if metric.name in measured],
        definitions={name: text for name, text in METRICS.items() if name in measured},
        definition=definition,
        ranges=_ranges(results),
        has_losses="ce_difference" in measured,
        controls=find_controls(results),
        compared=compared(results),
        diagnoses=Counter(one.name for result in results for one in result.verdict.diagnoses),
        healthy=sum(result.verdict.ok for result in results),
        in_order=in_order,
        figures={
            kind: [figure for figure in illustrations if figure.kind == kind]
            for kind in ("pareto", "density", "curves", "along", "breakdown")
        },
        open_figures=OPEN_FIGURES,
    )


def number(value: float) -> str:
    """A metric for people: counts in full, others with three or four digits."""
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.{3 if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"


def _spread(group: SeedGroup, metric: MainMetric) -> str:
    """The mean of a metric over seeds and its standard deviation, if there are several."""
    show = format_share if metric.is_share else number
    mean, spread = group.mean(metric.name), group.spread(metric.name)
    if not math.isfinite(mean):
        return "—"
    if not math.isfinite(spread):
        return show(mean)
    return f"{show(mean)} ± {show(spread) if metric.is_share else f'{spread:.2g}'}"


def _error(result: Result, metric: str, words: str) -> Markup:
    """The standard error of a metric in these words, if it has one."""
    error = result.errors.get(metric, math.nan)
    return Markup(words % f"{error:.2g}") if math.isfinite(error) else Markup("")


def _number_seeds(results: Sequence[Result], groups: Sequence[SeedGroup]) -> list[int]:
    """Of each result the number of its group."""
    numbers = {result.name: number for number, group in enumerate(groups) for result in group.results}
    return [numbers[result.name] for result in results]


def _sort_settings(results: Sequence[Result], given: Collection[str]) -> _Settings:
    values = {name: [_setting(result.settings.get(name)) for result in results] for name in settings_of(results)}
    # Of a single row, what a sweep would vary is told with the row.
    tells_apart = {"sae.hook_point", "sae.architecture"} | SPARSITY_SETTINGS if len(results) == 1 else set()
    varied = [name for name, found in values.items() if len(set(found)) > 1 or name in tells_apart]
    shared = {name: found[0] for name, found in values.items() if name not in varied}
    shown = {name: value for name, value in shared.items() if name in given or name in MAIN_SETTINGS}
    return _Settings(shown, {name: value for name, value in shared.items() if name not in shown}, varied)


def _setting(value: object) -> str:
    """A setting for people: a large count with commas, others as a sheet has them."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text_of(value)


def _sparsity(result: Result, names: Sequence[str]) -> str:
    """The settings that make a dictionary sparse, in one cell: an architecture has one or two of them."""
    given = {name: value for name in names if (value := result.say(name))}
    return ", ".join(f"{_shorten(name)} {value}" for name, value in given.items())


def _shorten(setting: str) -> str:
    return setting.partition(".")[2].removesuffix("_coefficient") or setting


def _ranges(results: Sequence[Result]) -> list[tuple[str, str, str, int]]:
    """Each metric that a row has with a range: what is healthy in one row or another, what being outside means, and how
    many rows are."""
    by_row = [ranges(result.thresholds) for result in results]
    table = []
    for same in zip(*by_row, strict=True):
        if not any(same[0].metric in result.metrics for result in results):
            continue  # of own activations, those of a model
        outside = sum(same[0].metric in result.verdict.outside for result in results)
        healthy = " or ".join(dict.fromkeys(one.text for one in same))
        table.append((same[0].metric, healthy, same[0].meaning, outside))
    return table
