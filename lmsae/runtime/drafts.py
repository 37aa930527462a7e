"""Drafts: files and folders that get their name when they are whole, under a hidden name that nobody else takes
meanwhile."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from lmsae.errors import ArtifactError

DRAFT = ".draft"
"""The end of every draft's name."""


def name_draft(path: Path) -> Path:
    """A hidden name beside `path` for a file or folder that is to take its place. No other call gives this name.

    The number of a process would not do: two containers may both have a process 1.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{DRAFT}")


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """The path of a draft to write within the block. It takes the name of `path` at the end; after an error it goes."""
    draft = name_draft(path)
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def require_empty(folder: Path) -> None:
    """Raise ArtifactError if there is something at a path that is to be a new folder, other than an empty one."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise ArtifactError(f"{folder} is not empty; name a new folder, or empty it.")


@contextlib.contextmanager
def draft_of_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill within the block. It takes the name of `folder` at the end; after an error it goes.

    Raises ArtifactError if something is in `folder`, or comes into it meanwhile.
    """
    require_empty(folder)
    target = folder.resolve()
    draft = name_draft(target)
    try:
        draft.mkdir(parents=True)
        yield draft
        require_empty(target)
        _rename(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _rename(draft: Path, folder: Path) -> None:
    try:
        draft.replace(folder)
    except OSError as error:  # the root of a disk that is mounted there, above all
        raise ArtifactError(f"{folder} cannot be replaced ({error.strerror}); name a new folder in it.") from error
