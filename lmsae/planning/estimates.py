"""Estimates of a plan's time, from finished artifacts of the nearest kind. A rate that was never measured is unknown.

An artifact's work is counted in a unit that its time is in proportion to (FLOPs, tokens, or itself), and a finished
one's `run.json` says how much of it a second did. Of several finished ones those count that are alike in what matters
most: the machine first.
"""

import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lmsae.artifacts.artifact import RUN, Artifacts, Spec
from lmsae.errors import ArtifactError
from lmsae.planning.plan import Plan
from lmsae.runtime.numbers import format_duration
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES
from lmsae.stages.effort import Kind
from lmsae.stages.tokenize import token_counts


@dataclass
class Estimator:
    """Foresees the time of passes on this machine."""

    artifacts: Artifacts
    device: str
    """`runtime.device`, as it is written."""
    specs: dict[str, Spec] = field(default_factory=dict)
    """Those that are known already, by reference; others are read from their artifacts."""
    _counts: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    _measured: dict[str, dict[Kind, list[float]]] = field(default_factory=dict)
    _rates: dict[tuple[str, Kind], float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, runtime: Runtime, *, measures: bool = True) -> "Estimator":
        """The estimator of a plan; with `measures` off it looks at no finished artifact, and knows no time."""
        specs = {spec.reference: spec for stage in STAGES for spec in plan.specs(stage)}
        measured = {} if measures else {stage: {} for stage in STAGES}
        return cls(Artifacts.of(runtime), runtime.device, specs, _measured=measured)

    def seconds(self, stage: str, todo: Sequence[Spec]) -> float | None:
        """The time of a pass that makes these artifacts; None while nobody knows it."""
        effort = STAGES[stage].effort
        if not self._measured_of(stage):
            return None
        works = [effort.work(spec, self) for spec in todo]
        rates = [self._rate(stage, effort.kind(spec, self)) for spec in todo]
        parts = [work / rate for work, rate in zip(works, rates, strict=True) if work is not None and rate]
        return effort.combine(parts) if len(parts) == len(todo) else None

    def spec(self, reference: str) -> Spec:
        """The spec of a reference, read once."""
        if reference not in self.specs:
            self.specs[reference] = self.artifacts[reference].spec()
        return self.specs[reference]

    def token_counts(self, tokens: Spec) -> Mapping[str, Any] | None:
        """The counts of a tokenize artifact, read once; None while it is not finished."""
        if tokens.key not in self._counts:
            self._counts[tokens.key] = token_counts(tokens, self.artifacts)
        return self._counts[tokens.key]

    def _rate(self, stage: str, kind: Kind) -> float | None:
        """Work a second, as the finished artifacts of the nearest kind did it: their median."""
        here = (platform.node(), self.device, *kind)
        if (stage, here) not in self._rates:
            measured = self._measured_of(stage)
            nearness = {found: [a == b for a, b in zip(found, here, strict=True)] for found in measured}
            nearest = max(nearness.values(), default=None)
            rates = [r for found, all_ in measured.items() if nearness[found] == nearest for r in all_]
            self._rates[stage, here] = statistics.median(rates) if rates else None
        return self._rates[stage, here]

    def _measured_of(self, stage: str) -> Mapping[Kind, list[float]]:
        if stage not in self._measured:
            self._measured[stage] = self._measure(stage)
        return self._measured[stage]

    def _measure(self, stage: str) -> dict[Kind, list[float]]:
        """The rates of a stage's finished artifacts, by where and what they are."""
        effort, rates = STAGES[stage].effort, defaultdict[Kind, list[float]](list)
        folders = (self.artifacts.root, *self.artifacts.lenders)
        for path in (path for folder in folders for path in (folder / stage).glob(f"*/{RUN}")):
            # An artifact that cannot be read has no rate. The job that needs it will say what is wrong with it.
            with suppress(ArtifactError, OSError, ValueError, KeyError):
                run = json.loads(path.read_text())
                kind = effort.kind(self.spec(f"{stage}/{path.parent.name}"), self)
                if rate := effort.rate(run["facts"]):
                    rates[(run["host"], run["runtime"]["device"], *kind)].append(rate)
        return rates


def format_estimate(seconds: float | None) -> str:
    """A duration that is only estimated: `~40 s`, `~3.4 h`; empty for one that is not known."""
    return "" if seconds is None else f"~{format_duration(max(seconds, 1), digits=2)}"
