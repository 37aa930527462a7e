"""How often an artifact's making was resumed, and from where: a note beside what an interrupted run left."""

import json
import shutil
from pathlib import Path

from lmsae.artifacts.artifact import write_atomically

NOTE = "resumed.json"


def resumed_from(folder: Path, position: int) -> list[int]:
    """Note that work in `folder` goes on from a position, if that is not the start; all such positions so far."""
    note = folder / NOTE
    positions = json.loads(note.read_text()) if note.exists() else []
    if position:
        positions.append(position)
        write_atomically(note, json.dumps(positions))
    return positions


def discard(path: Path) -> None:
    """Remove a file or folder that only served to go on from, before its artifact is published."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
