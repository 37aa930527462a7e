"""Controls: dictionaries of which a part has learned nothing, beside those that they are a control of.

What a dictionary is worth is what it is better by than one whose decoder, encoder or both stayed as they were drawn.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lmsae.report.results import Result

FREEZING = frozenset(f"train.{part}_lr_factor" for part in ("encoder", "decoder", "bias", "threshold"))
"""The settings that make a control: a dictionary differs from its controls in these alone."""
COMPARED = ("explained_variance", "ce_loss_score_mean")
"""The scores that are read beside a control's."""


@dataclass(frozen=True, slots=True)
class Control:
    """A dictionary, a control of it, and what kind of control that is."""

    result: Result
    control: Result
    kind: str


def kind_of_control(result: Result) -> str | None:
    """The part of a dictionary that is frozen; None if it is no control."""
    frozen = {part for part in ("encoder", "decoder") if result.settings.get(f"train.{part}_lr_factor", 1) == 0}
    if len(frozen) == 2:
        return "random"
    return f"frozen {frozen.pop()}" if frozen else None


def find_controls(results: Sequence[Result]) -> list[Control]:
    """Every dictionary with each of its controls: the rows that differ from it in what is frozen, and in nothing
    else."""
    kinds = {result.name: kind_of_control(result) for result in results}
    by_rest: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for result in results:
        by_rest.setdefault(_rest(result), []).append(result)
    return list(_pairs(by_rest.values(), kinds))


def best_control(controls: Sequence[Control], name: str) -> Result | None:
    """The control of a dictionary that explains most, which is the hardest to beat; None if it has none."""
    own = [one.control for one in controls if one.result.name == name]
    return max(own, key=lambda one: one.case.metric(COMPARED[0]), default=None)


def _pairs(groups: Iterable[list[Result]], kinds: dict[str, str | None]) -> Iterator[Control]:
    for group in groups:
        for result in (one for one in group if kinds[one.name] is None):
            for control in group:
                if kind := kinds[control.name]:
                    yield Control(result, control, kind)


def _rest(result: Result) -> tuple[tuple[str, str], ...]:
    return tuple((name, result.say(name)) for name in sorted(result.settings) if name not in FREEZING)
