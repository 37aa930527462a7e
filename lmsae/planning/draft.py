"""A draft: a row that is being resolved, and the one way to refuse it."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from lmsae.errors import Fault
from lmsae.planning.cells import Row
from lmsae.planning.remembering import Memory


class Refusal(NamedTuple):
    """A reason why a row cannot be made: the dotted column at fault, or None for the whole row, and the message."""

    column: str | None
    message: str
    only_if_own: bool = False
    """Values that all rows share, and `null`, may mean nothing to some rows: those are not refused."""
    depends_on_row: bool = False
    """The message names the row, wherever the column's value stands."""


Check = Callable[..., Iterator[Refusal]]
"""A check of a row. It names what it reads by its parameters, as a test names its fixtures: sections by their names
(`train`, `tokenize` ...), and what `Resolver` has found (`parts`, `dictionary`, `objective`, `places`, `model_configs`,
`own_columns`, `token_counts`). It is run where all of that is known, and yields refusals."""

Value = TypeVar("Value")


@dataclass
class Draft:
    """A row on its way to a resolved one."""

    row: Row
    faults: list[Fault]
    """Of all rows so far."""
    known: dict[str, object] = field(default_factory=dict)
    """All that is known of the row by now: its valid sections, and what has been found."""
    is_refused: bool = False
    checked: set[Check] = field(default_factory=set)
    """The checks that have been run."""

    def refuse(self, column: str | None, message: str, only_if_own: bool = False, depends_on_row: bool = False) -> None:
        """Add a fault of the row, at the place where the column's value stands."""
        cell = self.row.cells.get(column or "")
        if only_if_own and (cell is None or cell.row is None or cell.value is None):
            return
        self.is_refused = True
        self.faults.append(self.row.fault(column, message, names_row=depends_on_row))

    def learn(self, name: str, value: Value | None) -> Value | None:
        """Remember a value by its name, unless it is None. Returns it."""
        if value is not None:
            self.known[name] = value
        return value

    def run(self, checks: Iterable[Check], memory: Memory) -> None:
        """Run every check that has not been run and of which all is known that it reads, unless it has passed a row
        that is the same in that."""
        for check in checks:
            names = _READS.get(check) or _READS.setdefault(check, dict.fromkeys(inspect.signature(check).parameters))
            if check not in self.checked and names.keys() <= self.known.keys():
                self.checked.add(check)
                values = tuple([self.known[name] for name in names])
                memory.of_objects(check, values, lambda check=check, values=values: self._passes(check, values))

    def _passes(self, check: Check, values: tuple[object, ...]) -> bool | None:
        """True if a check passes the row; None after the refusals."""
        refusals = [*check(*values)]
        for refusal in refusals:
            self.refuse(*refusal)
        return None if refusals else True


_READS: dict[Check, dict[str, None]] = {}
"""The names of a check's parameters, looked up once."""
