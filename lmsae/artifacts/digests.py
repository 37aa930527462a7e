"""A memory for digests: files that have not changed are not read again at every plan."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lmsae.artifacts.artifact import write_atomically
from lmsae.errors import NoSpaceError

NAME = ".digests.json"


class DigestCache:
    """Digests by a key that changes whenever the files change. A lost or broken cache costs time, and nothing else.

    A wrong digit in it is found by the job that reads the files themselves, which drops the cache (`drop`).
    """

    def __init__(self, root: Path) -> None:
        """The cache beside the artifacts of a folder."""
        self._path = path = root / NAME
        self._changed = False
        try:
            known = json.loads(path.read_text())
        except (FileNotFoundError, ValueError, RecursionError):
            known = None
        self._known: dict[str, str] = {}
        if isinstance(known, dict) and all(isinstance(digest, str) for digest in known.values()):
            self._known = known

    def look_up(self, key: str, compute: Callable[[], str]) -> str:
        """The digest that is known under `key`. An unknown one is computed, and remembered."""
        if key not in self._known:
            self._known[key] = compute()
            self._changed = True
        return self._known[key]

    def digest_file(self, path: Path) -> str:
        """The sha256 of a file, in hex, remembered by its path, size and modification time."""
        state = path.stat()
        return self.look_up(f"{path.resolve()}:{state.st_size}:{state.st_mtime_ns}", lambda: _sha256(path))

    @staticmethod
    def drop(root: Path) -> None:
        """Forget all digests of a folder of artifacts: one of them contradicts the files."""
        (root / NAME).unlink(missing_ok=True)

    def save(self) -> None:
        """Write the known digests to the disk, if there are new ones and the disk takes them."""
        if not self._changed:
            return
        with suppress(OSError, NoSpaceError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._known, indent=0, sort_keys=True))


def _sha256(path: Path) -> str:
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
