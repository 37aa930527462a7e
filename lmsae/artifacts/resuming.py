"""The positions from which the making of an artifact was resumed, in a note beside what an interrupted run left."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

from lmsae.artifacts.artifact import write_atomically

NOTE = "resumed.json"


def note_resumption(folder: Path, position: int) -> list[int]:
    """Note that work in `folder` continues from a position, unless that is the start. Returns all such positions."""
    note = folder / NOTE
    positions: list[int] = []
    with suppress(FileNotFoundError, ValueError):
        found = json.loads(note.read_text())
        positions = found if isinstance(found, list) else []
    if position:
        positions.append(position)
        write_atomically(note, json.dumps(positions))
    return positions


def discard(path: Path) -> None:
    """Remove a file or folder that only an interrupted run needed, before its artifact is published."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
