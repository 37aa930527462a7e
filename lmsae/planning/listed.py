"""Rows that Python lists: dicts over shared settings, which mean what the same cells of a sheet mean."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmsae.errors import ConfigError, Fault
from lmsae.planning.cells import Row
from lmsae.planning.sheet import read, require_one

LIST = "rows"
"""The name that stands in the place of a file's in the faults of such rows."""


def read_list(rows: Sequence[Mapping[str, Any]], shared: Path | Mapping[str, Any], faults: list[Fault]) -> list[Row]:
    """The rows of a list over the shared settings, a file or the dict that such a file holds.

    A row has settings by dotted name, by section, or both, and its `name`; without one it is called after its place,
    `row-1` on. Lists make it several rows, as in a file of one experiment. None stands for an empty value, over a
    shared one. Faults are added to `faults`. Raises ConfigError for an empty list, and where the file cannot be read
    at all.
    """
    if not rows:
        raise ConfigError([Fault(LIST, None, None, "the list is empty; wanted a dict for each dictionary")])
    beneath = require_one(read(shared, None, (), faults, name=LIST), faults, "they are what all rows of a list share")
    found, seen = [], dict[str, int]()
    for number, row in enumerate(rows, 1):
        name = str(row.get("name", f"row-{number}"))
        own: list[Fault] = []
        nested = _nest(row, name, own)
        made = read(nested, None, (), own, name=name)
        faults += [replace(fault, file=LIST, row=name) for fault in own]
        if name in seen:
            faults.append(Fault(LIST, str(number), "name", f"{name!r} is the name of row {seen[name]} too"))
        seen.setdefault(name, number)
        for one in made:
            cells = {column: replace(cell, file=LIST, row=name) for column, cell in one.cells.items()}
            found.append(Row(one.name, LIST, {**beneath.cells, **cells}, one.rule))
    return found


def _nest(row: Mapping[str, Any], name: str, faults: list[Fault]) -> dict[str, Any]:
    """The settings of a row by section. Adds a fault for a setting that stands there twice."""
    nested: dict[str, Any] = {}
    for key, value in row.items():
        section, dot, field = str(key).partition(".")
        if section == "name":
            continue
        if section == "runtime":
            faults.append(Fault(LIST, name, str(key), "is the same for all rows: say it beside the list"))
            continue
        if not dot and not isinstance(value, Mapping):
            nested[section] = value  # which `read` refuses, or passes over if it is None
            continue
        settings = {field: value} if dot else value
        known = nested.setdefault(section, {})
        if twice := [one for one in settings if one in known]:
            faults.append(Fault(LIST, name, f"{section}.{twice[0]}", "stands twice in the row"))
        known |= {one: _plain(setting) for one, setting in settings.items()}
    return nested


def _plain(value: object) -> object:
    """The same number as Python has it, if it is one of NumPy's: those come out of `np.arange` and the like."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value
