"""Division: a long text file becomes several documents. Files are read piece by piece, however long they are."""

import re
from collections.abc import Iterator
from typing import TextIO

from lmsae.errors import suggest

BLANK_LINES = "blank_lines"
BLOCK = 2**20
"""Characters that are read at a time."""

_CHARACTERS = re.compile(r"([0-9][0-9_]*) characters")


def check_division(written: str) -> str:
    """A division as it is written, if it can be one. Raises ValueError."""
    length = _length_of(written)
    if length is not None and length < 2:
        raise ValueError(f"{written!r} leaves no text in a document; wanted 2 characters or more")
    if length is None and not _separator_of(written):
        raise ValueError("an empty separator divides nothing; leave the cell empty")
    if written != BLANK_LINES and (hint := suggest(written, [BLANK_LINES])):
        raise ValueError(f"{written!r} is taken for a separator{hint} A separator must be less like it")
    return written


def divide(file: TextIO, written: str) -> Iterator[str]:
    """Yield the documents of a text file, as `dataset.divide_at` says; some may be blank."""
    if written == BLANK_LINES:
        return _at_blank_lines(file)
    length = _length_of(written)
    return _at_separator(file, _separator_of(written)) if length is None else _by_length(file, length)


def _at_blank_lines(file: TextIO) -> Iterator[str]:
    lines: list[str] = []
    for line in file:
        if line.strip():
            lines.append(line)
        elif lines:
            yield "".join(lines)
            lines = []
    yield "".join(lines)


def _at_separator(file: TextIO, separator: str) -> Iterator[str]:
    """Looks at each character once, though a separator may lie across the border of two blocks."""
    parts: list[str] = []
    overlap = len(separator) - 1
    rest = ""
    while block := file.read(BLOCK):
        *whole, rest = (rest + block).split(separator)
        for text in whole:
            yield "".join([*parts, text])
            parts = []
        settled = max(len(rest) - overlap, 0)
        parts.append(rest[:settled])
        rest = rest[settled:]
    yield "".join([*parts, rest])


def _by_length(file: TextIO, most: int) -> Iterator[str]:
    """Documents of at most so many characters. Each ends behind a line or a word if one ends in its second half."""
    rest = ""
    while block := file.read(max(BLOCK, most)):
        text, begin = rest + block, 0
        while len(text) - begin > most:
            end = _last_break(text, begin + most // 2, begin + most)
            yield text[begin:end]
            begin = end
        rest = text[begin:]
    yield rest


def _last_break(text: str, begin: int, end: int) -> int:
    """The place behind the last end of a line in a span or, without any, behind the last space, or the span's end."""
    for mark in "\n ":
        if (found := text.rfind(mark, begin, end)) >= 0:
            return found + 1
    return end


def _length_of(written: str) -> int | None:
    """The number of characters of a document, or None of a division that names none."""
    found = _CHARACTERS.fullmatch(written)
    return int(found[1]) if found else None


def _separator_of(written: str) -> str:
    r"""A separator, with \n and \t for an end of a line and a tabulator, which a cell of a sheet cannot hold."""
    return written.replace("\\n", "\n").replace("\\t", "\t")
