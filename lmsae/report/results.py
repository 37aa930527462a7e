"""Results: each row's settings, and the numbers and curves that its artifacts hold."""

import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

from lmsae.artifacts.artifact import Artifact
from lmsae.health.case import Case, read_case, read_curves
from lmsae.health.config import Thresholds, thresholds_of
from lmsae.health.knobs import SPARSITY_SETTINGS
from lmsae.health.verdict import Verdict, examine

# What people ask for first: which model, text and place, how large, how long. The page shows them whoever set them.
MAIN_SETTINGS = (
    "model.name",
    "dataset.name",
    "sae.hook_point",
    "sae.architecture",
    "sae.d_sae",
    "train.tokens",
    "train.batch_size",
    "train.lr",
    "tokenize.context_size",
    "train.seed",
    "init.seed",
    "tokenize.seed",
)


class Row(Protocol):
    """A row as the report knows it: its name, the references of its artifacts, and its settings that are not every
    row's."""

    @property
    def name(self) -> str: ...
    @property
    def artifacts(self) -> Mapping[str, str]: ...
    @property
    def settings(self) -> Mapping[str, object]: ...


class Sweep(Protocol):
    """A sweep as the report knows it: its rows, the settings that they share, and the names of those that the user
    wrote."""

    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def shared(self) -> Mapping[str, object]: ...
    @property
    def given(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Metrics and their standard errors by bins of tokens: the ends of each bin, and numbers in the same order."""

    low: Sequence[float]
    high: Sequence[float]
    metrics: Mapping[str, Sequence[float]]
    errors: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Result:
    """One dictionary, and what training and evaluation found of it. `settings` has those that all rows share too,
    `errors` the standard errors of some metrics, and `breakdowns` metrics by kind of bin."""

    name: str
    settings: Mapping[str, object]
    artifacts: Mapping[str, str]
    case: Case
    errors: Mapping[str, float] = field(default_factory=dict)
    breakdowns: Mapping[str, Breakdown] = field(default_factory=dict)
    along: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The metrics on held-out text in the course of training, by column; empty if none were wanted."""
    has_page: bool = False
    """There is a page of its latents."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics, with those that are derived from others."""
        return self.case.metrics

    @property
    def histogram(self) -> Sequence[int]:
        return self.case.histogram

    @property
    def curves(self) -> Mapping[str, Sequence[float]]:
        """The values of each column of the training curves."""
        return self.case.curves

    @property
    def thresholds(self) -> Thresholds:
        """The ends of what is healthy for this row."""
        return thresholds_of(self.settings)

    @cached_property
    def verdict(self) -> Verdict:
        return examine(self.case, self.thresholds)

    @property
    def architecture(self) -> str:
        return self.say("sae.architecture") or self.say("sae.act_fn") or "custom"

    @property
    def hook_points(self) -> str:
        """The model and the hook points that are reconstructed: results at the same ones can be compared."""
        return " · ".join(filter(None, (self.say("model.name"), self.say("sae.hook_point"))))

    @cached_property
    def aux_k_begins(self) -> tuple[float, float] | None:
        """The tokens and the loss at which the loss on dead latents sets in, after steps without any; else None."""
        sizes = self.curves.get("aux_k_loss", ())
        first = next((i for i, size in enumerate(sizes) if size > 0), 0)
        return (self.curves["tokens"][first], self.curves["loss"][first]) if first else None

    @property
    def line(self) -> tuple[tuple[str, str], ...]:
        """The settings that this result shares with those that differ from it in sparsity and seeds only."""
        return tuple(pair for pair in self.but_for_seeds if pair[0] not in SPARSITY_SETTINGS)

    @cached_property
    def but_for_seeds(self) -> tuple[tuple[str, str], ...]:
        """The settings that this result shares with those that differ from it in seeds only."""
        return tuple((name, self.say(name)) for name in sorted(self.settings) if not is_seed(name))

    def say(self, name: str) -> str:
        """A setting as text; empty if it has no value."""
        return text_of(self.settings.get(name))


def read_results(sweep: Sweep, inputs: Mapping[str, Artifact]) -> list[Result]:
    """The results of every row that has any: of `inputs`, `eval/<row>` has its metrics, and `train/<row>` is
    its dictionary, which has its curves if it was trained here."""
    missing = find_missing(sweep.rows, inputs)
    there = [row for row in sweep.rows if row.name not in missing]
    return [
        replace(
            _read(row, sweep.shared, inputs[f"eval/{row.name}"], inputs[f"train/{row.name}"]),
            has_page=f"page/{row.name}" in inputs,
        )
        for row in there
    ]


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


def settings_of(results: Sequence[Result]) -> list[str]:
    """The names of all settings: the main ones, then the others by name."""
    present = set(chain.from_iterable(result.settings for result in results))
    return [name for name in MAIN_SETTINGS if name in present] + sorted(present - set(MAIN_SETTINGS))


def is_seed(setting: str) -> bool:
    """True of the name of a setting that draws by chance and means nothing else, such as train.seed."""
    return setting.endswith(".seed")


def text_of(setting: object) -> str:
    """A setting as a sheet has it: empty for None, words as they are, a list with spaces, true, false."""
    if setting is None:
        return ""
    if isinstance(setting, list | tuple) and not any(isinstance(part, dict | list) for part in setting):
        return " ".join(map(text_of, setting))
    return setting if isinstance(setting, str) else json.dumps(setting)


def _read(row: Row, shared: Mapping[str, object], evaluation: Artifact, train: Artifact) -> Result:
    errors, breakdowns = (
        json.loads((evaluation.path / name).read_text()) for name in ("standard_errors.json", "breakdown.json")
    )
    return Result(
        name=row.name,
        settings={**shared, **row.settings},
        artifacts=dict(row.artifacts),
        case=read_case(train, evaluation),
        errors=_without_nulls(errors),
        breakdowns={kind: _read_breakdown(written) for kind, written in breakdowns.items()},
        along=read_curves(train.path / "along.csv"),
    )


def _without_nulls(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in numbers.items()}


def _read_breakdown(written: Mapping[str, Any]) -> Breakdown:
    sides = [
        {name: [math.nan if value is None else value for value in values] for name, values in written[side].items()}
        for side in ("metrics", "standard_errors")
    ]
    return Breakdown(written["from"], written["to"], *sides)
