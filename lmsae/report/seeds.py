"""Rows that differ only in seeds: their mean and spread, and how many of their latents return."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import Artifact
from lmsae.report.main_metrics import in_order
from lmsae.report.results import MAIN_SETTINGS, Result, is_seed, names_of, settings_of
from lmsae.report.tables import Cell, as_cell, number_or_null, write_table

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

MOST_PRODUCTS = 2e12
"""Products of two decoders' numbers, latents * latents * width, beyond which latents are not matched: some minutes."""


@dataclass(frozen=True, slots=True)
class Returning:
    """Of the latents of two seeds, averaged over pairs of rows: the share that the other has, too, and the mean largest
    cosine to a latent of the other."""

    share: float
    mean_max_cosine: float


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Results that differ in nothing but seeds."""

    results: tuple[Result, ...]
    returning: Returning | None = None

    @property
    def name(self) -> str:
        """The name of its first row."""
        return self.results[0].name

    def mean(self, metric: str) -> float:
        """The mean of a metric; nan unless every row has it."""
        return statistics.fmean(self._values(metric))

    def spread(self, metric: str) -> float:
        """The standard deviation of a metric, of one row as a draw from all seeds (n - 1); nan of one row."""
        values = self._values(metric)
        return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan

    def _values(self, metric: str) -> list[float]:
        return [float(result.metrics.get(metric, math.nan)) for result in self.results]


def group_seeds(results: Sequence[Result]) -> list[SeedGroup]:
    """The results in groups that differ only in seeds, in the order of their first rows."""
    groups: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for result in results:
        groups.setdefault(result.but_for_seeds, []).append(result)
    return [SeedGroup(tuple(group)) for group in groups.values()]


def match_seeds(groups: Sequence[SeedGroup], inputs: Mapping[str, Artifact]) -> list[SeedGroup]:
    """The groups with what returns of their latents: each row is compared with the next one, and the last with the
    first. Nothing is known of single rows, of latents without one decoder row each, and of very large dictionaries."""
    return [SeedGroup(group.results, _match(group, inputs)) if len(group.results) > 1 else group for group in groups]


def _match(group: SeedGroup, inputs: Mapping[str, Artifact]) -> Returning | None:
    from lmsae.metrics.matching import match_latents

    names = [result.name for result in group.results]
    ring = [*names, names[0]] if len(names) > 2 else names
    found, last = [], _living_rows(inputs, ring[0])
    for _, name in pairwise(ring):
        before, last = last, _living_rows(inputs, name)
        if before is None or last is None or len(before) * last.numel() > MOST_PRODUCTS:
            return None
        if not len(before) or not len(last):
            return None
        found.append(match_latents(before, last))
    return Returning(
        statistics.fmean(one.share for one in found), statistics.fmean(one.mean_max_cosine for one in found)
    )


def _living_rows(inputs: Mapping[str, Artifact], row: str) -> "Tensor | None":
    """The decoder rows, in training units, of the latents that fired on held-out text; None if a latent has no single
    one. Dead latents of two seeds may be the same because no training has moved them."""
    decoder = _read_intact(inputs[f"train/{row}"], "dictionary.safetensors", "geometry.W_dec")
    density = _read_intact(inputs[f"eval/{row}"], "latents.safetensors", "density")
    if decoder is None or density is None or decoder.ndim != 2 or len(decoder) != len(density):
        return None
    return decoder[density > 0]


def _read_intact(artifact: Artifact, name: str, tensor: str) -> "Tensor | None":
    """A tensor of a file whose bytes are those that were written; None if the file has no such tensor."""
    from safetensors import safe_open

    file: Path = artifact.require_intact({name}).path / name
    with safe_open(file, "pt") as tensors:
        return tensors.get_tensor(tensor) if tensor in tensors.keys() else None  # noqa: SIM118


def write_seeds(groups: Sequence[SeedGroup], given: Sequence[str], out: "Path") -> None:
    """Write seeds.csv and seeds.parquet: a line for each group, with the mean and the standard deviation of each metric
    and the number of rows."""
    first = [group.results[0] for group in groups]
    settings = [name for name in settings_of(first) if not is_seed(name) and (name in MAIN_SETTINGS or name in given)]
    metrics = in_order(names_of([result.metrics for result in first]))
    columns: dict[str, Sequence[Cell]] = {
        "name": [group.name for group in groups],
        "rows": [" ".join(result.name for result in group.results) for group in groups],
        "n": [len(group.results) for group in groups],
        **{name: [as_cell(result.settings.get(name)) for result in first] for name in settings},
    }
    for name in metrics:
        columns[f"mean.{name}"] = [number_or_null(group.mean(name)) for group in groups]
        columns[f"std.{name}"] = [number_or_null(group.spread(name)) for group in groups]
    for name in ("share", "mean_max_cosine"):
        columns[f"returning.{name}"] = [group.returning and getattr(group.returning, name) for group in groups]
    write_table(columns, out / "seeds")
