"""Every error that a user can meet. All of them end the command with exit code 2 and a message instead of a traceback.

LmsaeError
 ├── ConfigError          the sweep, a config file or a flag asks for something that is not allowed (all faults at once)
 ├── SourceError          a model or dataset cannot be found, reached or used
 │    └── ChangedSource    its files are not those that were planned
 ├── HookPointError       the model has no such hook point, or nothing to learn there
 ├── NotEnoughTokens      more tokens were asked for than there are
 ├── ShapeError           two things that must have the same width do not
 ├── NoSpaceError         the disk cannot hold what is about to be written
 ├── NoMemoryError        the memory cannot hold what is about to be computed
 ├── TrainingError        training broke down (a loss that is no longer a number)
 ├── MissingPackage       a package that is asked for is not installed
 ├── Unmade               some artifacts cannot be made, and all others are
 ├── ExportError          a dictionary has no exact counterpart in the wanted format
 ├── FolderError          a folder is not that of a dictionary, is damaged, or has no exact counterpart in lmsae
 ├── HubError             the hub refuses something, or cannot be reached
 ├── DepotError           a folder of artifacts at a URL refuses something, or cannot be reached
 ├── EndpointError        the endpoint of a language model refuses something, or cannot be reached
 └── ArtifactError        something under artifacts/ is not as it should be
      ├── MissingArtifact  it is not there, or not finished
      ├── DamagedArtifact  its bytes are not those that were written
      └── BusyArtifact     another process is making it
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pydantic_core import ErrorDetails


class LmsaeError(Exception):
    """An error that the user can mend. The message says what was found, what was wanted, and how to mend it."""


MOST_NAMES = 3
"""Names of rows that one fault tells."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a config: its file, row and column, and a message that says what is wrong."""

    file: str
    row: str | None
    column: str | None
    message: str
    made: tuple[str, ...] = ()
    """The names of the rows that it is a fault of, if they are made by a rule that stands at its place."""

    def __str__(self) -> str:
        made = ", ".join(self.made[:MOST_NAMES])
        made += f" and {len(self.made) - MOST_NAMES} more" if len(self.made) > MOST_NAMES else ""
        row = f"row {made}" if made else None
        if self.row is not None:
            row = f"row {self.row} ({made})" if made else f"row {self.row}"
        column = f"column {self.column}" if self.column is not None else None
        return f"{', '.join(part for part in (self.file, row, column) if part)}: {self.message}"


def gather_faults(faults: Iterable[Fault]) -> list[Fault]:
    """Every fault once; those that rows of one rule have in common are one, with the names of these rows."""
    gathered: dict[Fault, list[tuple[str, ...]]] = {}
    for fault in faults:
        gathered.setdefault(replace(fault, made=()), []).append(fault.made)
    return [
        replace(fault, made=tuple(dict.fromkeys(name for names in made for name in names)) if all(made) else ())
        for fault, made in gathered.items()
    ]


class ConfigError(LmsaeError):
    """One or more faults of a config; the message lists them all."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n".join([f"{count} found; nothing was run.", *(f"  {fault}" for fault in self.faults)]))


class SourceError(LmsaeError):
    """A model or dataset cannot be found, reached or used."""


class ChangedSource(SourceError):
    """The files of a model or dataset are not those that were planned, or were taken for others when planned."""


class HookPointError(LmsaeError):
    """The model has no such hook point, or nothing to learn there."""


class NotEnoughTokens(LmsaeError):
    """More tokens were asked for than there are."""


class ShapeError(LmsaeError):
    """Two things that must have the same width do not."""


class NoSpaceError(LmsaeError):
    """The disk cannot hold what is about to be written."""


class NoMemoryError(LmsaeError):
    """The memory cannot hold what is about to be computed, or could not."""


class TrainingError(LmsaeError):
    """Training broke down; the dictionary that it would have written is of no use."""


class MissingPackage(LmsaeError):
    """A package that is asked for, and that lmsae itself does not need, is not installed."""


class Unmade(LmsaeError):
    """Some artifacts cannot be made. All others that were wanted are."""

    def __init__(self, message: str, failures: Mapping[str, Exception]) -> None:
        """`failures` has the error of every artifact that failed, by reference."""
        self.failures = dict(failures)
        super().__init__(message)


class ExportError(LmsaeError):
    """A dictionary has no exact counterpart in the wanted format."""


class FolderError(LmsaeError):
    """A folder is not that of a dictionary, is damaged, or has no exact counterpart in lmsae."""


class HubError(LmsaeError):
    """The hub refuses something, or cannot be reached."""


class DepotError(LmsaeError):
    """A folder of artifacts at a URL refuses something, or cannot be reached."""


class EndpointError(LmsaeError):
    """The endpoint of a language model refuses something, or cannot be reached."""


class ArtifactError(LmsaeError):
    """Something under artifacts/ is not as it should be."""


class MissingArtifact(ArtifactError):
    """An artifact is not there, or not finished."""


class DamagedArtifact(ArtifactError):
    """An artifact's bytes are not those that were written."""


class BusyArtifact(ArtifactError):
    """Another process is making this artifact."""


def suggest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The known names most like `name`, as the end of an error message: `; did you mean a, b?`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


def describe_problem(problem: ErrorDetails) -> str:
    """One of pydantic's errors as a message: the value that was found, and the value that was wanted."""
    found = problem["input"]
    shown = " ".join(map(str, found)) if isinstance(found, tuple) else found
    return f"found {shown!r}; {describe_wanted(problem)}"


def describe_wanted(problem: ErrorDetails) -> str:
    """The value that was wanted, by one of pydantic's errors."""
    context = problem.get("ctx", {})
    if problem["type"] == "literal_error":
        expected = context["expected"]
        options = re.findall(r"'([^']*)'", expected)
        return f"allowed are {expected}{suggest(str(problem['input']), options)}"
    if problem["type"] == "value_error":
        return str(context["error"])
    return f"wanted: {problem['msg'].removeprefix('Input should be ')}"
