"""Rows by rule: a row whose cells hold lists becomes a row for each combination of their values.

The cells of what comes out are those of rows written one by one, and so are the keys.
"""

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmsae.errors import Fault, suggest
from lmsae.planning.cells import Row
from lmsae.planning.rules import MOST_ROWS, Piece, Reference, Values, parse_rule

NAME = "name"


@dataclass(frozen=True, slots=True)
class _List:
    """A list by which a row is expanded: the column where it stands first, its values, and what these are called in the
    names of rows."""

    column: str
    items: Sequence[Any]
    label: str
    name: str | None


@dataclass(frozen=True, slots=True)
class _Rule:
    """A row with what its cells and its name are made of."""

    row: Row
    pieces: Mapping[str, Sequence[Piece]]
    """Of the cells that are not plain."""
    template: Sequence[Piece]
    lists: Mapping[str, _List]
    """By name; one without a name, by its place."""

    @property
    def is_plain(self) -> bool:
        return not self.pieces and all(isinstance(piece, str) for piece in self.template)


class _Faulty(Exception):
    """A rule with faults, which have been told; nobody outside this file meets it."""


def expand(row: Row, takes_words: Collection[str], faults: list[Fault], *, of_sheet: bool) -> list[Row]:
    """The rows that a row means: itself if it has no list and no template for a name; none after adding to `faults`.

    A list in a config file is one value of the columns in `takes_words`, and several values of another. In a row
    `of_sheet` what all rows share may have no lists: some rows take no notice of it, and would come out twice.
    """
    if not {*"{}"} & {*row.name} and all(_is_plain(cell.value) for cell in row.cells.values()):
        return [row]
    try:
        rule = _read(row, takes_words, faults, of_sheet)
    except _Faulty:
        return []
    if rule.is_plain:
        return [row]
    counts = [len(one.items) for one in rule.lists.values()]
    if math.prod(counts) > MOST_ROWS:
        product = " x ".join(map(str, counts))
        message = f"its lists make {math.prod(counts):,} rows ({product}); a rule makes {MOST_ROWS:,} at most"
        faults.append(row.fault(None, message))
        return []
    chosen = itertools.product(*map(range, counts))
    made = [_make(rule, dict(zip(rule.lists, numbers, strict=True)), faults) for numbers in chosen]
    return [one for one in made if one is not None]


def _is_plain(value: Any) -> bool:
    """True for a value that is certainly neither a list nor a text with braces."""
    return (
        "{" not in value and "}" not in value if isinstance(value, str) else not isinstance(value, list | tuple | dict)
    )


def _read(row: Row, takes_words: Collection[str], faults: list[Fault], of_sheet: bool) -> _Rule:
    before, pieces, lists = len(faults), dict[str, list[Piece]](), dict[str, _List]()
    own_first = sorted(row.cells.items(), key=lambda item: item[1].row is None)
    for column, cell in own_first:
        try:
            parts = _parse(cell.value, column in takes_words)
            _add_lists(lists, column, parts, may=not of_sheet or cell.row is not None)
        except ValueError as error:
            faults.append(row.fault(column, str(error)))
        else:
            pieces |= {} if len(parts) == 1 and parts[0] is cell.value else {column: parts}
    names = [one.name for one in lists.values() if one.name]
    for column, parts in pieces.items():
        unknown = [piece.name for piece in parts if isinstance(piece, Reference) and piece.name not in names]
        faults += [row.fault(column, _describe_unknown(name, names)) for name in unknown]
    template = _read_name(row, faults)
    if len(faults) > before:
        raise _Faulty
    return _Rule(row, pieces, template, lists)


def _read_name(row: Row, faults: list[Fault]) -> list[Piece]:
    """The pieces of a row's name."""
    try:
        template = parse_rule(row.name)
        if any(isinstance(piece, Values) for piece in template):
            raise ValueError(f"found {row.name!r}: lists stand in other columns; {{sae.k}} takes the value of one")
        return template
    except ValueError as error:
        faults.append(Fault(row.file, row.name, NAME, str(error)))
        return []


def _parse(value: Any, takes_words: bool) -> list[Any]:
    """The pieces of a value; a plain value is its only piece. Raises ValueError with what is wrong."""
    if isinstance(value, dict) and value and not any(value.values()):
        raise ValueError(f"found {value!r}: braces without quotes are a mapping here; write [...], or quote the text")
    if not isinstance(value, list | tuple):
        return parse_rule(value) if isinstance(value, str) and {*"{}"} & {*value} else [value]
    texts = [item for item in value if isinstance(item, str)]
    has_braces = any({*"{}"} & {*text} for text in texts)
    if takes_words and not any(isinstance(item, list | tuple) for item in value):
        return parse_rule(_text(value)) if has_braces else [value]
    if has_braces:
        raise ValueError(f"found {value!r}: braces in a list; write all values out, or one text with braces")
    if not value:
        raise ValueError("found a list without a value")
    return [Values(value)]


def _add_lists(lists: dict[str, _List], column: str, parts: Sequence[Piece], *, may: bool) -> None:
    """Add the lists of a cell. Raises ValueError if it may have none, or for lists of one name and several lengths."""
    for place, piece in enumerate(parts):
        if not isinstance(piece, Values):
            continue
        if not may:
            message = "a list makes rows, and here stands what rows share: write it into a column of the sheet"
            raise ValueError(f"{message}, as {{{', '.join(map(_text, piece.items[:2]))}, ...}}")
        before = parts[place - 1] if place else ""
        in_block = isinstance(before, str) and before.endswith("blocks.")
        label = piece.name or ("layer" if in_block else column.rpartition(".")[2])
        one = _List(column, piece.items, label, piece.name)
        first = lists.setdefault(piece.name or f"{column}/{place}", one)
        if len(first.items) != len(one.items):
            message = f"list {piece.name} has {len(one.items)} values here and {len(first.items)} in {first.column}"
            raise ValueError(f"{message}; lists of one name move together, so they have one length")


def _describe_unknown(name: str, names: Sequence[str]) -> str:
    listed = f"; there {'are' if len(names) > 1 else 'is'} {', '.join(names)}" if names else ""
    message = f"found {{{name}}}, but no list of the row has this name{listed}"
    return message + (suggest(name, names) or ". One value needs no braces, and {{ is a brace")


def _make(rule: _Rule, at: Mapping[str, int], faults: list[Fault]) -> Row | None:
    """The row of one combination: the number of the value that each list has. None after a fault of its name."""
    cells = dict(rule.row.cells)
    for column, parts in rule.pieces.items():
        found = [_value(piece, f"{column}/{place}", rule, at) for place, piece in enumerate(parts)]
        value = found[0] if len(found) == 1 else "".join(map(_text, found))
        cells[column] = replace(cells[column], value=None if value == "null" else value)
    made = replace(rule.row, cells=cells, rule=rule.row.name)
    try:
        return replace(made, name=_name(rule, made, at))
    except ValueError as error:
        faults.append(Fault(made.file, made.rule, NAME, str(error)))
        return None


def _name(rule: _Rule, made: Row, at: Mapping[str, int]) -> str:
    """The name of a row that a rule has made: by its template or, without references, with a word for each list at its
    end. Raises ValueError if the template names nothing."""
    words = [str(piece) for piece in rule.template if not isinstance(piece, Reference)]
    if len(words) == len(rule.template):
        return "-".join(["".join(words), *(_word(one.items[at[key]], one.label) for key, one in rule.lists.items())])
    words = []
    for piece in rule.template:
        if not isinstance(piece, Reference):
            words.append(str(piece))
        elif piece.name in rule.lists:
            words.append(_slug(_value(piece, "", rule, at)))
        elif (cell := made.cells.get(piece.name)) is not None and cell.value is not None:
            words.append(_slug(cell.value))
        else:
            known = [*made.cells, *(one.name for one in rule.lists.values() if one.name)]
            message = f"found {{{piece.name}}}, but the row has no list of this name, and no value in such a column"
            raise ValueError(message + suggest(piece.name, known))
    return "".join(words)


def _value(piece: Piece, place: str, rule: _Rule, at: Mapping[str, int]) -> Any:
    """A piece of a cell in one combination."""
    if isinstance(piece, Values):
        return piece.items[at[piece.name or place]]
    return rule.lists[piece.name].items[at[piece.name]] if isinstance(piece, Reference) else piece


def _text(value: Any) -> str:
    """A value as a cell of a sheet has it."""
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _slug(value: Any) -> str:
    """A value in the letters that a name may have."""
    return "-".join(filter(None, re.split(r"[^A-Za-z0-9._=+-]+", _text(value))))


def _word(value: Any, label: str) -> str:
    """A value at the end of a name: words stand alone, and numbers behind what they are."""
    slug = _slug(value)
    if slug in ("null", "true", "false"):
        return f"{label}={slug}"
    return slug if slug[:1].isalpha() else f"{label}{slug}"
