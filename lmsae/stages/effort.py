"""Effort: how much work an artifact is, so that a plan can say how long it will take, before it is made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lmsae.artifacts.artifact import Spec
from lmsae.stages.footprint import Footprint

HOUR = 3600.0
LEAST_FLOPS = 1e9
"""FLOPs a second, for `Effort.least_rate`. Two cores did 7.4e10 in training and 8.2e10 in forward passes (torch 2.13.0,
float32, passes of 20 to 96 s); passes of a tenth of a second, where starting is all, did a hundredth of that."""
Kind = tuple[object, ...]
"""The traits by which two artifacts of a stage are alike, the weightiest first."""
Facts = Mapping[str, Any]
"""The facts of a finished artifact's run.json."""


class Outlook(Protocol):
    """The plan and the artifacts that are finished, as far as an effort asks about them."""

    def spec(self, reference: str) -> Spec:
        """The spec of a reference."""
        ...

    def token_counts(self, tokens: Spec) -> Mapping[str, int] | None:
        """The counts of a tokenize artifact; None while it is not finished."""
        ...


@dataclass(frozen=True, slots=True)
class Effort:
    """The work of an artifact, in a unit that its time is in proportion to, and how a finished one tells its rate.

    `work` is None where it cannot be known yet; `rate`, of the work of a whole pass, where a finished artifact does not
    say it. `combine` makes one work of those of a pass. `size` is a few words on what a plan will make; `memory` that
    of a pass, None where nobody knows it. `lessen` tells how to take less of it.

    A scheduler must be told limits in any case. Where nobody knows the time or the memory of a pass, it is given
    `given_seconds` and `given_bytes`. `least_rate`, if there is one, is below that of any machine in use, so that small
    work is not given the time of large work.
    """

    work: Callable[[Spec, Outlook], float | None]
    rate: Callable[[Facts], float | None]
    kind: Callable[[Spec, Outlook], Kind] = lambda spec, outlook: ()
    combine: Callable[[Sequence[float]], float] = sum
    size: Callable[[Sequence[Spec], Outlook], str] = lambda specs, outlook: ""
    memory: Callable[[Sequence[Spec], Outlook], Footprint | None] = lambda specs, outlook: None
    lessen: str = "lower runtime.threads"
    given_seconds: float = 3600.0
    given_bytes: int = 8 * 10**9
    least_rate: float | None = None


def count_one(spec: Spec, outlook: Outlook) -> float:
    """The work of an artifact of a stage whose artifacts all take about as long."""
    del spec, outlook
    return 1.0


def per_second(facts: Facts) -> float | None:
    """Artifacts a second."""
    return 1 / facts["seconds"] if facts.get("seconds") else None


def fact(name: str) -> Callable[[Facts], float | None]:
    """A rate that stands among the facts by this name."""
    return lambda facts: facts.get(name)


EACH_ALIKE = Effort(count_one, per_second)
