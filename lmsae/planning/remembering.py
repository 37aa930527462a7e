"""A memory of what rows share: what is the same in many rows of a large plan is computed once."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

from lmsae.config import Frozen
from lmsae.stages.row import ResolvedRow

MOST = 4_000
"""The results of one kind that are remembered. Those of rows that share nothing would fill the memory."""
Result = TypeVar("Result")
Section = TypeVar("Section", bound=Frozen)


class Memory:
    """Results by what they were computed from: values, or the identity of objects, which are kept as long."""

    def __init__(self) -> None:
        self._known: defaultdict[Hashable, dict[Hashable, tuple[object, tuple[object, ...]]]] = defaultdict(dict)

    def of_objects(self, kind: Hashable, read: tuple[object, ...], compute: Callable[[], Result | None]) -> Any:
        """The result of a kind of computation that reads nothing but these objects. None is not remembered."""
        known, key = self._known[kind], tuple(map(id, read))
        found = known.get(key)
        return found[0] if found is not None else self._add(known, key, read, compute())

    def of_values(self, kind: Hashable, values: Mapping[str, Any], compute: Callable[[], Result | None]) -> Any:
        """The result of a kind of computation that reads nothing but these values. None is not remembered."""
        # 1, 1.0 and True are equal to Python, and not to whoever reads a cell.
        key = tuple((name, one if isinstance(one, str) else (type(one), repr(one))) for name, one in values.items())
        known = self._known[kind]
        found = known.get(key)
        return found[0] if found is not None else self._add(known, key, (), compute())

    def _add(
        self,
        known: dict[Hashable, tuple[object, tuple[object, ...]]],
        key: Hashable,
        read: tuple[object, ...],
        result: Result | None,
    ) -> Result | None:
        if result is not None:
            if len(known) >= MOST:
                known.clear()
            known[key] = (result, read)
        return result


class RowMemory(Generic[Result]):
    """A function of resolved rows that is computed once for all rows in which it reads the same objects.

    What it reads of a row is watched. A row is then followed along what was read first, second, and so on, for what is
    read next depends on what was found before and on nothing else.
    """

    def __init__(self, function: Callable[[ResolvedRow], Result]) -> None:
        self._function = function
        self._first = _Step[Result]()
        self._count = 0

    def __call__(self, row: ResolvedRow) -> Result:
        step = self._first
        while step.reads is not None:
            found = row.section(step.reads) if isinstance(step.reads, type) else getattr(row, step.reads)
            if id(found) not in step.after:
                return self._compute(row)
            step = step.after[id(found)][1]
        return step.result[0] if step.result else self._compute(row)

    def _compute(self, row: ResolvedRow) -> Result:
        watched = _Watched(**{name: row.__dict__[name] for name in _FIELDS})
        watched.__dict__["seen"] = []
        result = self._function(watched)
        if self._count >= MOST:
            self._first, self._count = _Step(), 0
        step = self._first
        for reads, found in watched.__dict__["seen"]:
            step.reads = reads
            step = step.after.setdefault(id(found), (found, _Step()))[1]
        step.result = (result,)
        self._count += 1
        return result


class _Step(Generic[Result]):
    """A step along what a function reads: what it reads here and, by the identity of what is found, that and the next
    step; or its result."""

    __slots__ = ("after", "reads", "result")

    def __init__(self) -> None:
        self.reads: str | type[Frozen] | None = None
        self.after: dict[int, tuple[object, _Step[Result]]] = {}
        self.result: tuple[Result] | None = None


class _Watched(ResolvedRow):
    """A resolved row that notes what is read of it, in order."""

    def section(self, kind: type[Section]) -> Section:
        """The row's section of a class, which is noted."""
        found = next(section for section in self.__dict__["sections"].values() if isinstance(section, kind))
        self.__dict__["seen"].append((kind, found))
        return found

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in _FIELDS and "seen" in self.__dict__:
            self.__dict__["seen"].append((name, found))
        return found


_FIELDS = frozenset(ResolvedRow.__dataclass_fields__)
