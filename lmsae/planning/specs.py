"""A resolved row -> its specs: each stage's share of it, and what it is made from."""

from collections.abc import Mapping, Sequence

from lmsae.artifacts.artifact import Spec
from lmsae.stages import STAGES
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import name_input


def specs_of(row: ResolvedRow) -> Mapping[str, Spec]:
    """The row's specs by stage. Where it has several of a stage, the second is called `activations.1`, and so on."""
    by_stage: dict[str, Sequence[Spec]] = {}
    for name, stage in STAGES.items():
        if stage.configs:
            by_stage[name] = stage.specs(row, by_stage)
    return {name_input(name, n): spec for name, specs in by_stage.items() for n, spec in enumerate(specs)}
