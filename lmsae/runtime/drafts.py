"""Drafts: files that get their name when they are whole, under a hidden name that nobody else takes meanwhile."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

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
