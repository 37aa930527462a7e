"""Names that files hold: of files in an artifact, of other artifacts. None of them leads out of its folder."""

import re
from pathlib import Path, PurePosixPath

from lmsae.errors import DamagedArtifact

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_PLAIN = re.compile(r"[^/\\\0.][^/\\\0]*")
_REFERENCE = re.compile(f"{_PART}/{_PART}")


def require_inside(name: object, file: Path) -> str:
    """A relative path with forward slashes that a file names, after a check that it stays inside of its folder.

    Raises DamagedArtifact, naming the `file`, for anything else: a path of the whole disk, or one that goes up.
    """
    if isinstance(name, str) and name not in ("", ".") and "\0" not in name:
        path = PurePosixPath(name)
        if path.as_posix() == name and not path.is_absolute() and ".." not in path.parts:
            return name
    raise DamagedArtifact(
        f"{file}: names {name!r}; wanted the path of a file inside of a folder, such as plots/pareto.svg. Nothing was "
        "done with it. The file was changed or damaged: delete it, or the artifact that it belongs to, and run again."
    )


def is_plain(name: object) -> bool:
    """True for a text that can be the name of one file or folder, and not of a hidden one."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def is_reference(name: object) -> bool:
    """True for a text that has the form of a reference, `<stage>/<key>`."""
    return isinstance(name, str) and _REFERENCE.fullmatch(name) is not None


def require_reference(name: object, file: Path) -> str:
    """A reference `<stage>/<key>` that a file names. Raises DamagedArtifact, naming the `file`, for anything else."""
    if isinstance(name, str) and is_reference(name):
        return name
    raise DamagedArtifact(
        f"{file}: names {name!r}; wanted a reference <stage>/<key>. The file was changed or damaged: delete it, or the "
        "artifact that it belongs to, and plan again (`lmsae plan`)."
    )
