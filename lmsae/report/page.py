"""The report as one HTML page that needs no other file and no network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lmsae.metrics.definitions import METRICS, definition
from lmsae.report.health import CHECKS
from lmsae.report.main_metrics import MAIN_METRICS, in_order
from lmsae.report.results import SPARSITY_SETTINGS, Result, names_of
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


def page(results: Sequence[Result], illustrations: Sequence[Illustration], missing: Mapping[str, str]) -> str:
    """The page's HTML; `missing` are the rows without results, each with what it lacks. Whatever a setting or a name
    holds is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, share=format_share)
    template = environment.from_string((files("lmsae.report") / "report.html.jinja").read_text("utf-8"))
    shared, varied = _settings(results)
    by_sparsity = [name for name in varied if name in SPARSITY_SETTINGS]
    return template.render(
        results=results,
        missing=missing,
        shared=shared,
        varied=[name for name in varied if name not in SPARSITY_SETTINGS],
        sparsity=[_sparsity(result, by_sparsity) for result in results] if by_sparsity else [],
        main=MAIN_METRICS,
        definitions=METRICS,
        definition=definition,
        checks=[(check, _failures(results, check.metric)) for check in CHECKS],
        healthy=sum(result.verdict.ok for result in results),
        in_order=in_order,
        figures={
            kind: [figure for figure in illustrations if figure.kind == kind]
            for kind in ("pareto", "density", "curves")
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


def _settings(results: Sequence[Result]) -> tuple[dict[str, str], list[str]]:
    """The settings that all rows share, and the names of those that tell them apart."""
    names = names_of([result.settings for result in results])
    values = {name: [r.settings.get(name, "") for r in results] for name in names}
    shared = {name: found[0] for name, found in values.items() if len(set(found)) == 1 and len(results) > 1}
    return shared, [name for name in names if name not in shared]


def _sparsity(result: Result, names: Sequence[str]) -> str:
    """The settings that make a dictionary sparse, in one cell: an architecture has one or two of them."""
    given = {name: value for name in names if (value := result.settings.get(name))}
    return ", ".join(f"{_shorten(name)} {value}" for name, value in given.items())


def _shorten(setting: str) -> str:
    return setting.partition(".")[2].removesuffix("_coefficient") or setting


def _failures(results: Sequence[Result], metric: str) -> int:
    return sum(metric in result.verdict.outside for result in results)
