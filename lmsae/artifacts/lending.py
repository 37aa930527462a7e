"""Lent artifacts: those of the folders in `runtime.also_look_in`. They are read where they lie, and never written.

artifacts/<stage>/<key>/refused.json   the lent copy that a job found damaged; it is not taken any more
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from lmsae.artifacts.manifest import MANIFEST, SPEC, TWIN, read_manifest
from lmsae.config import key_of
from lmsae.errors import ArtifactError

REFUSED = "refused.json"


def is_whole(path: Path) -> bool:
    """True if a lent artifact can be taken: it has a manifest that is as it was written, its spec is true, and every
    file has its size. Its bytes are checked by the job that reads it."""
    with suppress(OSError, ValueError, ArtifactError):
        text = (path / MANIFEST).read_text("utf-8")
        if (path / TWIN).exists() and (path / TWIN).read_text("utf-8") != text:
            return False
        files = read_manifest(text, path / MANIFEST)["files"]
        return key_of((path / SPEC).read_text("utf-8")) == path.name and all(
            os.stat(path / entry["path"]).st_size == entry["bytes"] for entry in files
        )
    return False


def refuse(own: Path, lent: Path) -> None:
    """Note beside the spec of an artifact, in its `own` folder, that a lent copy is damaged. A copy that its owner has
    made again since is another one."""
    with suppress(OSError):  # a folder that cannot be written to has no memory
        (own / REFUSED).write_text(json.dumps(_told(lent)) + "\n", "utf-8")


def is_refused(own: Path, lent: Path) -> bool:
    """True if a lent copy of the artifact with this `own` folder was found damaged."""
    try:
        return json.loads((own / REFUSED).read_text("utf-8")) == _told(lent)
    except (OSError, ValueError):
        return False


def _told(lent: Path) -> list[object]:
    return [os.path.abspath(lent), *(_state(lent) or ())]


def _state(path: Path) -> tuple[int, int, int] | None:
    """Numbers that change whenever an artifact is published anew; None where there is no manifest."""
    with suppress(OSError):
        found = os.stat(path / MANIFEST)
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None
