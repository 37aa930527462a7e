"""Comparison at matched L0: what each line of dictionaries reaches at the same sparsity, by interpolation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lmsae.report.results import MAIN_SETTINGS, Result, settings_of
from lmsae.report.seeds import group_seeds
from lmsae.report.tables import Cell, number_or_null, write_table

COMPARED = ("fvu", "ce_difference")
"""The numbers that are compared, of which less is better: the unexplained share of variance (1 - explained_variance)
and the CE difference."""


@dataclass(frozen=True, slots=True)
class Line:
    """Dictionaries that differ in sparsity and seeds only: the settings that tell them from other lines, and the points
    (L0, number) of what is compared, by L0, each the mean over seeds."""

    hook_points: str
    label: str
    points: dict[str, list[tuple[float, float]]]

    def at(self, name: str, l0: float) -> float:
        """The number at an L0, linear in log L0 between the two points around it; nan where none are around it."""
        points = self.points[name]
        for (x, y), (next_x, next_y) in pairwise(points):
            if x <= l0 <= next_x:
                share = (math.log(l0) - math.log(x)) / (math.log(next_x) - math.log(x)) if next_x > x else 0.0
                return y + share * (next_y - y)
        return math.nan


@dataclass(frozen=True, slots=True)
class Match:
    """The numbers of a line at an L0, and their ratios to the least of all lines there."""

    hook_points: str
    l0: float
    label: str
    numbers: dict[str, float]
    ratios: dict[str, float]


def match_l0(results: Sequence[Result], given: Sequence[str]) -> list[Match]:
    """The numbers of lines at the same hook points at each power of two that at least two of them have
    between their points. Nothing is extrapolated."""
    found: list[Match] = []
    for where in dict.fromkeys(result.hook_points for result in results):
        lines = lines_of([result for result in results if result.hook_points == where], given)
        for l0 in (2.0**exponent for exponent in range(-3, 17)):
            there = {line.label: {name: line.at(name, l0) for name in COMPARED} for line in lines}
            there = {label: numbers for label, numbers in there.items() if math.isfinite(numbers["fvu"])}
            if len(there) < 2:
                continue
            least = {name: min(numbers[name] for numbers in there.values()) for name in COMPARED}
            for label, numbers in sorted(there.items(), key=lambda item: item[1]["fvu"]):
                ratios = {name: _divide(numbers[name], least[name]) for name in COMPARED}
                found.append(Match(where, l0, label, numbers, ratios))
    return found


def lines_of(results: Sequence[Result], given: Sequence[str]) -> list[Line]:
    """The lines of results at the same hook points that have an L0 above 0, each with a label of its own."""
    by_line: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for result in results:
        by_line.setdefault(result.line, []).append(result)
    told = [name for name in settings_of(results) if name in given or name in MAIN_SETTINGS]
    apart = [name for name in told if len({dict(line).get(name) for line in by_line}) > 1]
    lines = []
    for line, members in by_line.items():
        settings = {name: value for name in apart if (value := dict(line).get(name)) and name != "sae.architecture"}
        rest = ", ".join(f"{name.partition('.')[2] or name} {value}" for name, value in settings.items())
        label = f"{members[0].architecture}, {rest}" if rest else members[0].architecture
        lines.append(Line(members[0].hook_points, label, _points(members)))
    return lines


def _points(members: Sequence[Result]) -> dict[str, list[tuple[float, float]]]:
    groups = [(group.mean("l0"), group) for group in group_seeds(members)]
    groups = sorted(((l0, group) for l0, group in groups if l0 > 0), key=lambda pair: pair[0])
    return {
        "fvu": [(l0, 1 - group.mean("explained_variance")) for l0, group in groups],
        "ce_difference": [(l0, group.mean("ce_difference")) for l0, group in groups],
    }


def _divide(number: float, least: float) -> float:
    """A ratio; nan where the least is no cost, so that nothing is a multiple of it."""
    return number / least if least > 0 else math.nan


def write_matches(matches: Sequence[Match], out: Path) -> None:
    """Write matched.csv and matched.parquet."""
    columns: dict[str, Sequence[Cell]] = {
        "hook_points": [match.hook_points for match in matches],
        "l0": [match.l0 for match in matches],
        "line": [match.label for match in matches],
    }
    for name in COMPARED:
        columns[name] = [number_or_null(match.numbers[name]) for match in matches]
        columns[f"ratio.{name}"] = [number_or_null(match.ratios[name]) for match in matches]
    write_table(columns, out / "matched")
