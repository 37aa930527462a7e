"""A resolved row -> its specs: each stage's share of it, and what it is made from."""

from collections.abc import Callable, Mapping, Sequence

from lmsae.artifacts.artifact import Spec
from lmsae.planning.remembering import RowMemory
from lmsae.stages import STAGES, stand_ins_among
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import name_input
from lmsae.stages.stage import Stage

Texts = Callable[[Stage, ResolvedRow], Sequence[str]]
"""The configs that a stage makes of a row, each as canonical JSON."""


class Remembered:
    """The configs of rows by stage. Rows that are alike in what a stage reads share theirs."""

    def __init__(self) -> None:
        self._memories: dict[str, RowMemory[Sequence[str]]] = {}

    def __call__(self, stage: Stage, row: ResolvedRow) -> Sequence[str]:
        if stage.name not in self._memories:
            self._memories[stage.name] = RowMemory(stage.texts)
        return self._memories[stage.name](row)


def specs_of(row: ResolvedRow, texts: Texts = Stage.texts) -> Mapping[str, Spec]:
    """The row's specs by stage. Where it has several of a stage, the second is called `activations.1`, and so on."""
    by_stage: dict[str, Sequence[Spec]] = {}
    for name, stage in STAGES.items():
        if stage.configs:
            by_stage[name] = stage.specs(
                texts(stage, row), {place: _fill(place, by_stage) for place in stage.inputs.values()}
            )
    return {name_input(name, n): spec for name, specs in by_stage.items() for n, spec in enumerate(specs)}


def _fill(place: str, by_stage: Mapping[str, Sequence[Spec]]) -> Sequence[Spec]:
    """The row's specs of a stage or, if it has none, those of the stage that stands for it."""
    if by_stage[place]:
        return by_stage[place]
    return next(filter(None, (by_stage[name] for name in stand_ins_among(STAGES, [place]))), ())
