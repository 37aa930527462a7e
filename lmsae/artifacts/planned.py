"""Planned specs: those of all that a sweep wants, in one file, in the place of a folder for each.

artifacts/specs/<sweep>.tsv   a line for each spec: its reference, a tab, its canonical JSON; in the order of the bytes

A plan of 100,000 rows has 400,000 specs. Work on an artifact begins with its folder, where its spec is copied.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, Protocol

from lmsae.config import key_of
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.drafts import draft_of

FOLDER = "specs"
SUFFIX = ".tsv"


class Text(Protocol):
    """A spec, as far as it is written here."""

    @property
    def canonical(self) -> str:
        """Its canonical JSON."""
        ...


def read_planned(root: Path, reference: str) -> str | None:
    """The canonical JSON of the spec of a reference, as any plan in the folder of artifacts `root` wrote it; None if no
    plan did."""
    for path in _files(root):
        for found, text in _lines_from(path, reference):
            if found == reference:
                return text
            break
    return None


def references_beginning(root: Path, start: str) -> set[str]:
    """The references in the plans of a folder of artifacts that begin with a text."""
    found: set[str] = set()
    for path in _files(root):
        for reference, _ in _lines_from(path, start):
            if not reference.startswith(start):
                break
            found.add(reference)
    return found


def write_planned(root: Path, name: str, specs: Mapping[str, Text], *, forget: bool = False) -> None:
    """Write the specs of a plan, by reference, to the file of a name. What was written of earlier plans stays, for jobs
    that were submitted then, unless the call is to `forget` it. Raises NoSpaceError.

    A reader sees the whole file or the one before. A power cut may leave damaged lines; the next plan mends them.
    """
    path = root / FOLDER / f"{name}{SUFFIX}"
    known = {reference for reference, _ in _whole_lines(path)}
    if specs.keys() == known if forget else specs.keys() <= known:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = ((reference, specs[reference].canonical) for reference in sorted(specs))
    old = () if forget else (line for line in _whole_lines(path) if line[0] not in specs)
    with explain_full_disk(path), draft_of(path) as draft, open(draft, "w", encoding="utf-8", newline="\n") as file:
        for reference, text in merge(old, new, key=itemgetter(0)):
            file.write(f"{reference}\t{text}\n")


def forget_planned(root: Path, name: str) -> None:
    """Remove the file of a name."""
    (root / FOLDER / f"{name}{SUFFIX}").unlink(missing_ok=True)


def _files(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob(f"*{SUFFIX}"))


def _whole_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The references and texts of a file, but for damaged ones; none where there is no file."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            reference, text = _parse(line)
            if reference.endswith(f"/{key_of(text)}"):
                yield reference, text


def _lines_from(path: Path, reference: str) -> Iterator[tuple[str, str]]:
    """The lines of a file from the first whose reference is not before one, found by halving."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        first, end = 0, os.fstat(file.fileno()).st_size
        while first < end:  # a line that is not before it begins at `end` or earlier; all that begin before `first` are
            middle = (first + end) // 2
            begins = _next_line(file, middle)
            line = file.readline() if begins < end else b""
            if line and _parse(line)[0] < reference:
                first = file.tell()
            else:
                end = middle
        file.seek(_next_line(file, first))
        yield from map(_parse, file)


def _next_line(file: BinaryIO, place: int) -> int:
    """The place where the first line begins that begins at a place or behind it."""
    file.seek(max(place - 1, 0))
    if place:
        file.readline()
    return file.tell()


def _parse(line: bytes) -> tuple[str, str]:
    """A line's reference and text. Damage is told by whoever reads the text, whose hash is its key."""
    reference, _, text = line.decode("utf-8", errors="replace").rstrip("\n").partition("\t")
    return reference, text
