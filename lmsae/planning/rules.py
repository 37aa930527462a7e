"""The syntax of a rule: lists of values in a cell, in braces.

{16, 32, 64}                     three values
blocks.{0..3}.hook_resid_post    four, as in a shell; {0..12..4} is 0, 4, 8, 12
{layer: 0..3}                    a list with a name; lists of one name move together
{layer}                          the value that the list of this name has in the row
{{                               a brace that is meant
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 10_000
"""Rows that one rule may make, and a whole sheet by rules; to plan them takes some ten seconds."""
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?")
_NAMED = re.compile(r"([A-Za-z]\w*):(?:\s+|$|(?=-?\d+\.\.))(.*)", re.DOTALL)
_REFERENCE = re.compile(r"[A-Za-z][\w.]*")
_BRACES = {"{{": "{", "}}": "}"}


@dataclass(frozen=True, slots=True)
class Values:
    """A list of values in a cell, with a name if others are to move with it."""

    items: Sequence[Any]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of a list or, in the name of a row, of a column."""

    name: str


Piece = str | Values | Reference


def parse_rule(text: str) -> list[Piece]:
    """The pieces of a text: what stands in it as it is, lists and references. Raises ValueError with what is wrong."""
    pieces: list[Piece] = []
    position = 0
    while position < len(text):
        rest = text[position:]
        if rest[:2] in _BRACES:
            pieces.append(_BRACES[rest[:2]])
            position += 2
        elif rest[0] == "{":
            body, closed, _ = rest[1:].partition("}")
            if not closed:
                raise ValueError("a { without its }; write {{ for a brace that is meant")
            pieces.append(_parse_braces(body))
            position += len(body) + 2
        elif rest[0] == "}":
            raise ValueError("a } without its {; write }} for a brace that is meant")
        else:
            plain = re.split("[{}]", rest, maxsplit=1)[0]
            pieces.append(plain)
            position += len(plain)
    return pieces


def _parse_braces(body: str) -> Values | Reference:
    """The list or reference between two braces."""
    if "{" in body:
        raise ValueError(f"found {{{body}: braces in braces; a list has values only")
    named = _NAMED.fullmatch(body.strip())
    name, content = named.groups() if named else (None, body)
    words = [word.strip() for word in content.split(",")]
    if not all(words):
        raise ValueError(f"found {{{body}}}: a value of the list is missing; write null for no value")
    if name is None and len(words) == 1 and _REFERENCE.fullmatch(words[0]):
        return Reference(words[0])
    return Values([*_parse_words(words)], name)


def _parse_words(words: Sequence[str]) -> Iterator[str]:
    """The values of a list whose items are values or ranges."""
    for word in words:
        found = _RANGE.fullmatch(word)
        yield from _parse_range(found) if found else (word,)


def _parse_range(found: re.Match[str]) -> list[str]:
    """All whole numbers of a range, with its end. Raises ValueError for a step of 0 and for more than there may be."""
    first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
    if step == 0:
        raise ValueError(f"found {found[0]}: a step of 0 leads nowhere")
    if abs(last - first) // step >= MOST_ROWS:
        raise ValueError(f"found {found[0]}: a range has {MOST_ROWS:,} values at most")
    way = 1 if first <= last else -1
    return [*map(str, range(first, last + way, way * step))]
