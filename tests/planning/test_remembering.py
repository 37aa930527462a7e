"""What rows share is computed once, and what they do not share is not taken from one for the other."""

from dataclasses import replace
from typing import Any, cast

from lmsae.config import Frozen
from lmsae.planning import remembering
from lmsae.planning.remembering import Memory, RowMemory
from lmsae.stages.row import ResolvedRow


class First(Frozen):
    value: int


class Second(Frozen):
    value: int


def row(first: First, second: Second, **fields: Any) -> ResolvedRow:
    empty = dict.fromkeys(ResolvedRow.__dataclass_fields__)
    return ResolvedRow(**cast(Any, {**empty, "sections": {"first": first, "second": second}, **fields}))


def test_a_function_of_rows_is_computed_once_for_all_rows_in_which_it_reads_the_same() -> None:
    seen = []

    def read(one: ResolvedRow) -> int:
        seen.append(one)
        first = one.section(First).value
        return first + one.section(Second).value if one.is_trained else first

    one, two, three, four = First(value=1), First(value=2), Second(value=3), Second(value=4)
    remembered = RowMemory(read)
    rows = [row(a, b, is_trained=trained) for a in (one, two) for b in (three, four) for trained in (True, False)]
    assert [remembered(each) for each in rows * 2] == [read(each) for each in rows * 2]
    seen.clear()
    assert [remembered(each) for each in rows] == [4, 1, 5, 1, 5, 2, 6, 2]
    assert seen == []
    assert remembered(replace(rows[0], sections={"second": three, "first": two})) == 5


def test_cells_that_only_python_takes_for_equal_are_read_apart() -> None:
    memory = Memory()
    values = [1, 1.0, True, "1", None, "None", [1], [True]]
    assert [memory.of_values("section", {"k": value}, lambda value=value: repr(value)) for value in values * 2] == [
        repr(value) for value in values * 2
    ]


def test_what_is_none_is_computed_again_and_a_full_memory_forgets(monkeypatch) -> None:
    monkeypatch.setattr(remembering, "MOST", 2)
    memory, asked, objects = Memory(), [], [object() for _ in range(5)]

    def compute(number: int) -> int | None:
        asked.append(number)
        return number or None

    for _ in range(2):
        found = [memory.of_objects("kind", (one,), lambda n=n: compute(n)) for n, one in enumerate(objects)]
        assert found == [None, 1, 2, 3, 4]
    assert asked.count(0) == 2
    assert len(memory._known["kind"]) <= 2
