"""A dictionary at its hook points, and the hook points of several models."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.metrics.definitions import GROUPS


class HookPoint(NamedTuple):
    """A hook point of one of the models, by the model's number."""

    model: int
    name: str


@dataclass(frozen=True, slots=True)
class HookedDictionary:
    """A dictionary to evaluate, the hook points that it reads and writes, and at each of those that it writes the mean
    activation and the mean norm of calibration text.

    `groups` are the metric groups to measure. `conversion` is what conversion to jumprelu has cost it, by metric; empty
    if it was not converted. `text` is what is known of the text without any model, by metric.
    """

    dictionary: Dictionary
    reads: Sequence[HookPoint]
    writes: Sequence[HookPoint]
    means: Sequence[Tensor]
    mean_norms: Sequence[float]
    groups: Collection[str] = tuple(GROUPS)
    conversion: dict[str, float] = field(default_factory=dict)
    text: dict[str, float] = field(default_factory=dict)

    @property
    def models(self) -> list[int]:
        """The models that it writes into."""
        return list(dict.fromkeys(model for model, _ in self.writes))
