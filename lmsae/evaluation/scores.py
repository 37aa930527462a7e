"""Scores: the numbers and vectors that an evaluation found of one dictionary, and their files."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lmsae.metrics.bins import Bins
from lmsae.metrics.definitions import names_in, plain_name
from lmsae.runtime.tensors import save_tensors

METRICS, ERRORS, BREAKDOWN = "metrics.json", "standard_errors.json", "breakdown.json"
LATENTS = "latents.safetensors"

Columns = dict[str, list[float]]
"""A number for each bin, by the name of a metric."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Metrics and their standard errors by bins of tokens of one kind: the least and the largest value in each bin, and
    in the same order the metrics."""

    low: list[float]
    high: list[float]
    metrics: Columns = field(default_factory=dict)
    errors: Columns = field(default_factory=dict)

    @classmethod
    def of_each(cls, kinds: Sequence[Bins], metrics: Columns, errors: Columns) -> "dict[str, Breakdown]":
        """The breakdown of each kind, of numbers for the bins of all kinds one after another."""
        found, start = {}, 0
        for bins in kinds:
            own = slice(start, start := start + len(bins))
            sides = ({name: numbers[own] for name, numbers in side.items()} for side in (metrics, errors))
            found[bins.kind] = cls(list(bins.low), list(bins.high), *sides)
        return found

    def __or__(self, other: "Breakdown") -> "Breakdown":
        """Both together, of the same bins."""
        return Breakdown(self.low, self.high, self.metrics | other.metrics, self.errors | other.errors)

    def select(self, names: Iterable[str]) -> "Breakdown":
        """Some of the metrics, and their standard errors."""
        sides = ({name: side[name] for name in names if name in side} for side in (self.metrics, self.errors))
        return Breakdown(self.low, self.high, *sides)


@dataclass(frozen=True, slots=True)
class Score:
    """Metrics, histograms, vectors over latents, and standard errors of metrics, each by name; and breakdowns by the
    kind of their bins."""

    metrics: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    breakdowns: dict[str, Breakdown] = field(default_factory=dict)

    def __or__(self, other: "Score") -> "Score":
        """Both together."""
        breakdowns = dict(self.breakdowns)
        for kind, breakdown in other.breakdowns.items():
            breakdowns[kind] = breakdowns[kind] | breakdown if kind in breakdowns else breakdown
        return Score(
            self.metrics | other.metrics,
            self.histograms | other.histograms,
            self.latents | other.latents,
            self.errors | other.errors,
            breakdowns,
        )

    def select(self, groups: Iterable[str]) -> "Score":
        """The part of the score that some metric groups have found."""
        names = names_in(groups)
        breakdowns = {kind: breakdown.select(sorted(names)) for kind, breakdown in self.breakdowns.items()}
        return Score(
            {name: value for name, value in self.metrics.items() if plain_name(name) in names},
            {name: counts for name, counts in self.histograms.items() if name in names},
            {name: vector for name, vector in self.latents.items() if name in names},
            {name: value for name, value in self.errors.items() if plain_name(name) in names},
            {kind: breakdown for kind, breakdown in breakdowns.items() if breakdown.metrics},
        )

    def save(self, folder: Path) -> None:
        """Write `metrics.json` (histograms too), `standard_errors.json`, `breakdown.json` (in all of them null for what
        is not finite) and `latents.safetensors` (the vectors over latents: (d_sae,) float32)."""
        breakdowns = {
            kind: {
                "from": found.low,
                "to": found.high,
                "metrics": {name: list(map(_or_null, numbers)) for name, numbers in found.metrics.items()},
                "standard_errors": {name: list(map(_or_null, numbers)) for name, numbers in found.errors.items()},
            }
            for kind, found in self.breakdowns.items()
        }
        _write(folder / METRICS, {**_or_nulls(self.metrics), **self.histograms})
        _write(folder / ERRORS, _or_nulls(self.errors))
        _write(folder / BREAKDOWN, breakdowns)
        save_tensors(self.latents, folder / LATENTS)

    @classmethod
    def load(cls, folder: Path) -> "Score":
        """The score that `save` wrote into a folder; nan for null. One of an earlier lmsae has no standard errors."""
        found = json.loads((folder / METRICS).read_text())
        histograms = {name: value for name, value in found.items() if isinstance(value, list)}
        numbers = {name: value for name, value in found.items() if name not in histograms}
        errors, breakdowns = (
            json.loads((folder / name).read_text()) if (folder / name).exists() else {} for name in (ERRORS, BREAKDOWN)
        )
        return cls(
            _or_nans(numbers),
            histograms,
            load_file(folder / LATENTS),
            _or_nans(errors),
            {kind: Breakdown(one["from"], one["to"], *_read_sides(one)) for kind, one in breakdowns.items()},
        )


def _read_sides(written: Mapping[str, Columns]) -> list[Columns]:
    sides = (written["metrics"], written["standard_errors"])
    return [{name: list(map(_or_nan, numbers)) for name, numbers in side.items()} for side in sides]


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_nulls(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _or_null(value) for name, value in numbers.items()}


def _or_nans(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _or_nan(value) for name, value in numbers.items()}
