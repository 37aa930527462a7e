"""The origin of a sweep: the files that it is written in. With other rows it is still the same sweep."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmsae.artifacts.inside import is_plain
from lmsae.config import canonical_json, key_of
from lmsae.errors import DamagedArtifact


@dataclass(frozen=True, slots=True)
class Origin:
    """A sweep's name and the absolute paths of its files. One that Python was told of has a name only."""

    name: str
    files: tuple[Path, ...] = ()

    @property
    def is_living(self) -> bool:
        """False once a file is gone: then nobody can ask for this sweep again."""
        return all(file.exists() for file in self.files)

    def key(self, folder: Path) -> str:
        """The name with a digest of the paths relative to a folder: a project that is moved or copied keeps it."""
        return f"{self.name}-{key_of(canonical_json(self.describe(folder)))[:8]}"

    def describe(self, folder: Path) -> dict[str, Any]:
        """The origin for a file in `folder`, relative to it."""
        files = [os.path.relpath(file, os.path.abspath(folder)).replace(os.sep, "/") for file in self.files]
        return {"name": self.name, "files": files}

    @classmethod
    def read(cls, described: Mapping[str, Any], file: Path) -> "Origin":
        """The origin that `describe` told of to a file. Raises DamagedArtifact if the file says something else."""
        name, paths = described.get("name"), described.get("files")
        if not is_plain(name) or not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise DamagedArtifact(f"{file}: it does not say which sweep it is of. Delete it, and plan again.")
        return cls(str(name), tuple(Path(os.path.abspath(file.parent / path)) for path in paths))

    def __str__(self) -> str:
        return " + ".join(os.path.relpath(file) for file in self.files) or f"lmsae.run, {self.name}"
