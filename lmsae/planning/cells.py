"""Cells and rows: what stands at one place of a sheet or config file, and what belongs to one dictionary."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lmsae.errors import Fault


@dataclass(frozen=True, slots=True)
class Cell:
    """A value and where it stands."""

    value: Any
    file: str
    row: str | None

    def fault(self, column: str, message: str) -> Fault:
        return Fault(self.file, self.row, column, message)


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment: its name, and its cells by dotted name, the sheet's over config.yaml's."""

    name: str
    file: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    rule: str | None = None
    """The text in the place of its name, if this row is made by a rule (lmsae/planning/expanding.py)."""

    def section(self, name: str) -> dict[str, Any]:
        """The values of one section, by field."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): cell.value for key, cell in self.cells.items() if key.startswith(prefix)}

    def sections(self) -> dict[str, dict[str, Any]]:
        """The values of every section, by field."""
        sections: dict[str, dict[str, Any]] = {}
        for key, cell in self.cells.items():
            name, _, field_ = key.partition(".")
            sections.setdefault(name, {})[field_] = cell.value
        return sections

    @property
    def own_columns(self) -> frozenset[str]:
        """The columns that were written for this row and say something."""
        return frozenset(name for name, cell in self.cells.items() if cell.row is not None and cell.value is not None)

    def fault(self, column: str | None, message: str, names_row: bool = False) -> Fault:
        """A fault at the place where the column's value stands, or at the row if it stands nowhere. With `names_row`,
        it names the row even if the value is one that all rows share."""
        cell = self.cells.get(column or "")
        written = self.rule or self.name
        if cell is not None and column is not None:
            found = cell.fault(column, message)
            found = replace(found, row=written) if names_row else found
        else:
            found = Fault(self.file, written, column, message)
        return found if self.rule is None else replace(found, made=(self.name,))
