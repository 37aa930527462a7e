"""A resolved row -> its specs: each stage's share of it, and what it is made from."""

from collections.abc import Mapping, Sequence

from lmsae.artifacts.artifact import Spec
from lmsae.stages import STAGES, stand_ins_among
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import name_input


def specs_of(row: ResolvedRow) -> Mapping[str, Spec]:
    """The row's specs by stage. Where it has several of a stage, the second is called `activations.1`, and so on."""
    by_stage: dict[str, Sequence[Spec]] = {}
    for name, stage in STAGES.items():
        if stage.configs:
            by_stage[name] = stage.specs(row, {place: _fill(place, by_stage) for place in stage.inputs.values()})
    return {name_input(name, n): spec for name, specs in by_stage.items() for n, spec in enumerate(specs)}


def _fill(place: str, by_stage: Mapping[str, Sequence[Spec]]) -> Sequence[Spec]:
    """The row's specs of a stage or, if it has none, those of the stage that stands for it."""
    stand_ins = (by_stage[name] for name in stand_ins_among(STAGES, [place]))
    return by_stage[place] or next(filter(None, stand_ins), ())
