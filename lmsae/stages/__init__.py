"""The stages: every module of this room that has a `STAGE`. STAGES holds them in the order of the pipeline."""

from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from importlib import import_module
from pkgutil import iter_modules

from lmsae.stages.stage import Stage


def stand_ins_among(stages: Mapping[str, Stage], places: Iterable[str]) -> list[str]:
    """The names of those stages that stand for one of some stages."""
    wanted = {*places}
    return [name for name, stage in stages.items() if stage.stands_for in wanted]


def _find_stages() -> dict[str, Stage]:
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    stages: dict[str, Stage] = {module.STAGE.name: module.STAGE for module in modules if hasattr(module, "STAGE")}
    order = TopologicalSorter(
        {
            name: sorted({*stage.inputs.values(), *stand_ins_among(stages, stage.inputs.values())})
            for name, stage in sorted(stages.items())
        }
    )
    return {name: stages[name] for name in order.static_order()}


STAGES = _find_stages()
ROW_STAGES = tuple(name for name, stage in STAGES.items() if stage.configs)
"""The stages that make artifacts of rows; the others make one of the whole sweep."""
ENDS_OF_ROWS = tuple(
    stage
    for name, stage in STAGES.items()
    if stage.configs
    and (
        stage.is_wanted or not any({name, stage.stands_for} & {*STAGES[other].inputs.values()} for other in ROW_STAGES)
    )
)
"""The last things that a row wants for itself: what no other stage of rows takes as an input, or users ask for."""
STAND_INS = tuple(name for name, stage in STAGES.items() if stage.stands_for)
"""The stages that make artifacts of some rows only, in the place of another stage's."""
DICTIONARIES = ("train", *stand_ins_among(STAGES, ["train"]))
"""The stages that make dictionaries. A row has one of them."""
