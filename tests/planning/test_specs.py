"""A row's specs are connected with what it has: an input that it lacks is left out, or another stage's is taken."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from lmsae.config import Frozen
from lmsae.planning import specs
from lmsae.planning.specs import specs_of
from lmsae.stages import DICTIONARIES, STAGES, stand_ins_among
from lmsae.stages.stage import Done, Job, Stage


class Named(Frozen):
    by: str


def stage(name: str, inputs: dict[str, str], stands_for: str | None = None) -> Stage:
    """A stage of which a row, here a list of names, has an artifact if it names it."""

    def make(jobs: Sequence[Job], runtime: object) -> Done:
        raise AssertionError("nothing is made here")

    def configs(row: Any) -> list[Frozen]:
        return [Named(by=name)] if name in row else []

    return Stage(name, 1, name, Named, inputs, make, configs, stands_for=stands_for)


PIPELINE = {
    one.name: one
    for one in (
        stage("found", {}, stands_for="learned"),
        stage("start", {"dictionary": "found"}),
        stage("learned", {"start": "start"}),
        stage("looked_at", {"dictionary": "learned"}),
    )
}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (["start", "learned"], {"start": {}, "learned": {"start": "start"}, "looked_at": {"dictionary": "learned"}}),
        (["found"], {"found": {}, "looked_at": {"dictionary": "found"}}),
        (
            ["found", "start", "learned"],
            {
                "found": {},
                "start": {"dictionary": "found"},
                "learned": {"start": "start"},
                "looked_at": {"dictionary": "learned"},
            },
        ),
    ],
)
def test_what_a_row_lacks_is_left_out_unless_another_stage_stands_for_it(
    row: list[str], wanted: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specs, "STAGES", PIPELINE)
    made = specs_of(cast(Any, [*row, "looked_at"]))
    assert {
        name: {one: reference.partition("/")[0] for one, reference in spec.inputs.items()}
        for name, spec in made.items()
    } == wanted
    by_name = {spec.reference for spec in made.values()}
    assert all(reference in by_name for spec in made.values() for reference in spec.inputs.values())


def test_a_stage_comes_before_those_that_take_what_it_stands_for() -> None:
    order = list(STAGES)
    for name, one in STAGES.items():
        before = {*one.inputs.values(), *stand_ins_among(STAGES, one.inputs.values())}
        assert all(order.index(other) < order.index(name) for other in before)


def test_a_row_has_one_dictionary_whichever_stage_makes_it() -> None:
    assert DICTIONARIES[0] == "train"
    assert {STAGES[name].stands_for for name in DICTIONARIES[1:]} <= {"train"}
