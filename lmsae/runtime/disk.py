"""The disk: the room that a file needs before it is written, and one message for a disk that fills up."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lmsae.errors import NoSpaceError
from lmsae.runtime.numbers import format_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOO_LARGE = errno.EFBIG
_MAKE_ROOM = "Make room (`lmsae gc` lists artifacts that no row wants)"


def require_space(
    path: Path, nbytes: int, instead: str, elsewhere: str = "set runtime.artifacts to another disk"
) -> None:
    """Raise NoSpaceError if the disk of `path`, which need not exist yet, has fewer than `nbytes` bytes free.

    `instead` tells the user in the message what to change so that fewer bytes are written, and `elsewhere` how to write
    to another disk.
    """
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if nbytes > free:
        raise NoSpaceError(
            f"{path} needs {_exactly(nbytes)} and its disk has {_exactly(free)} free. {_MAKE_ROOM}, {instead}, or "
            f"{elsewhere}."
        )


@contextlib.contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """While this is entered, a disk that fills up raises NoSpaceError, whichever library meets it.

    The errors of safetensors are no OSErrors: only their text says that the disk is full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, NoSpaceError):
            raise
        if _says(error, _TOO_LARGE):
            raise NoSpaceError(
                f"{path}: a file became larger than its disk, or `ulimit -f`, allows. Raise that limit, or choose "
                "another disk, and run again: what is finished is kept."
            ) from error
        if not _says(error, *_FULL):
            raise
        raise NoSpaceError(
            f"{path}: the disk became full while writing. {_MAKE_ROOM} and run again: what is finished is kept."
        ) from error


def explained(error: Exception, path: Path) -> Exception:
    """The error that `explain_full_disk` would raise for one that was met."""
    try:
        with explain_full_disk(path):
            raise error
    except Exception as said:
        return said


def _says(error: Exception, *numbers: int) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in numbers
    return any(os.strerror(number) in str(error) for number in numbers)


def _exactly(nbytes: int) -> str:
    """Bytes for people, and to the last one: the free and the needed ones may be nearly as many."""
    return f"{format_bytes(nbytes)} ({nbytes:,} bytes)" if nbytes >= 1000 else format_bytes(nbytes)
