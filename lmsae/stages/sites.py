"""Sites: the stores of activations that a dictionary reads and writes, where there may be several."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pydantic import Field

from lmsae.config import Frozen


class Reading(Frozen):
    """The filter of stored tokens. It applies at read time, so that nothing is captured anew."""

    skip_first_positions: int = Field(
        default=0,
        ge=0,
        description="Number of positions at the start of every context that statistics, training and evaluation leave "
        "out. They are captured all the same.",
    )
    skip_last_positions: int = Field(default=0, ge=0, description="The same at the end of every context.")
    max_norm_factor: float | None = Field(
        default=None,
        gt=1,
        description="Largest norm of a token's activation, as a multiple of the mean norm in the calibration split. "
        "Statistics, training and evaluation leave out tokens above it. If a dictionary has several hook points, they "
        "leave out a token that is above the limit at any of them. Empty: no token is left out.",
    )


class Sites(Frozen):
    """The stores that a dictionary reads and those that it writes, by their numbers among its inputs."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]


class Place(Frozen):
    """A hook point of one of the models."""

    model: int
    hook_point: str


@dataclass(frozen=True)
class Places:
    """The hook points that a dictionary reads and those that it writes."""

    reads: tuple[Place, ...]
    writes: tuple[Place, ...]

    @cached_property
    def all(self) -> list[Place]:
        """Each place once, those read first: the stores in the order of their numbers."""
        return list(dict.fromkeys((*self.reads, *self.writes)))

    @cached_property
    def sites(self) -> Sites:
        """The numbers of the stores read and written."""
        number = {place: n for n, place in enumerate(self.all)}
        return Sites(reads=tuple(number[p] for p in self.reads), writes=tuple(number[p] for p in self.writes))


def name_input(stage: str, number: int) -> str:
    """The name of a spec's input number `number` from a stage: `norm`, `norm.1`, `norm.2` ..."""
    return f"{stage}.{number}" if number else stage


Input = TypeVar("Input")


def inputs_from(stage: str, inputs: Mapping[str, Input]) -> list[Input]:
    """The inputs from a stage, in the order of their numbers."""
    names = sorted((name for name in inputs if name.partition(".")[0] == stage), key=_number)
    return [inputs[name] for name in names]


def _number(name: str) -> int:
    return int(name.partition(".")[2] or 0)
