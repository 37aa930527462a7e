"""Results: each row's settings, and the numbers and curves that its artifacts hold."""

import csv
import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from lmsae.artifacts.artifact import Artifact
from lmsae.report.health import Verdict, dense_share, verdict

# Settings by which dictionaries trade reconstruction for sparsity: rows that differ in nothing else form one line.
SPARSITY_SETTINGS = frozenset(
    {"sae.k", "sae.target_l0"}
    | {f"sae.{loss}_coefficient" for loss in ("l0", "l1", "lp", "p_anneal", "tanh", "tanh_quad")}
)


class Row(Protocol):
    """A row as the report knows it: its name, the references of its artifacts, and the settings to show."""

    @property
    def name(self) -> str: ...
    @property
    def artifacts(self) -> Mapping[str, str]: ...
    @property
    def settings(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Result:
    """One dictionary, and what training and evaluation found of it. `metrics` has those that the report derives too,
    `curves` maps a column to its values."""

    name: str
    settings: Mapping[str, str]
    artifacts: Mapping[str, str]
    metrics: Mapping[str, float]
    histogram: Sequence[int]
    curves: Mapping[str, Sequence[float]]

    @cached_property
    def verdict(self) -> Verdict:
        return verdict(self.metrics)

    @property
    def architecture(self) -> str:
        return self.settings.get("sae.architecture") or self.settings.get("sae.act_fn") or "custom"

    @property
    def hook_points(self) -> str:
        """The model and the hook points that are reconstructed: results at the same ones can be compared."""
        return " · ".join(self.settings[name] for name in ("model.name", "sae.hook_point") if self.settings.get(name))

    @cached_property
    def aux_k_begins(self) -> tuple[float, float] | None:
        """The tokens and the loss at which the loss on dead latents sets in, after steps without any; else None."""
        sizes = self.curves.get("aux_k_loss", ())
        first = next((i for i, size in enumerate(sizes) if size > 0), 0)
        return (self.curves["tokens"][first], self.curves["loss"][first]) if first else None

    @property
    def line(self) -> tuple[tuple[str, str], ...]:
        """The settings that this result shares with those that differ from it in sparsity only."""
        return tuple(sorted(item for item in self.settings.items() if item[0] not in SPARSITY_SETTINGS))


def read_results(rows: Sequence[Row], inputs: Mapping[str, Artifact]) -> list[Result]:
    """The results of every row that has any: of `inputs`, `eval/<row>` has its metrics and `train/<row>` its curves."""
    missing = find_missing(rows, inputs)
    there = [row for row in rows if row.name not in missing]
    return [_read(row, inputs[f"eval/{row.name}"], inputs[f"train/{row.name}"]) for row in there]


def find_missing(rows: Sequence[Row], inputs: Container[str]) -> dict[str, str]:
    """The names of the rows that have no results among inputs of these names, each with what it lacks."""
    missing: dict[str, str] = {}
    for row in rows:
        for stage, lack in (("train", "not trained"), ("eval", "not evaluated")):
            if f"{stage}/{row.name}" not in inputs:
                missing.setdefault(row.name, lack)
    return missing


def names_of(mappings: Sequence[Mapping[str, object]]) -> list[str]:
    """Every key of the mappings, in the order of first appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def text_of(setting: object) -> str:
    """A setting as tables show it: empty for None, words as they are, JSON for the rest."""
    if setting is None:
        return ""
    return setting if isinstance(setting, str) else json.dumps(setting)


def _read(row: Row, evaluation: Artifact, train: Artifact) -> Result:
    measured = json.loads((evaluation.path / "metrics.json").read_text())
    histogram = measured.pop("density_histogram")
    metrics = {name: math.nan if value is None else value for name, value in measured.items()}
    return Result(
        name=row.name,
        settings={name: text_of(value) for name, value in row.settings.items()},
        artifacts=dict(row.artifacts),
        metrics={**metrics, "dense_share": dense_share(metrics)},
        histogram=histogram,
        curves=_read_curves(train.path / "curves.csv"),
    )


def _read_curves(path: Path) -> dict[str, list[float]]:
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name] or "nan") for line in lines] for name in (lines[0] if lines else ())}
