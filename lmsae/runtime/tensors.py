"""Tensors to a safetensors file that colleagues can read."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lmsae.runtime.drafts import draft_of

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(tensors: "Mapping[str, Tensor]", path: Path) -> None:
    """Write tensors, each contiguous and on the CPU, with the mode that the umask gives. The library's own is 0600."""
    from safetensors.torch import save_file

    with draft_of(path) as draft:
        draft.touch()
        mode = draft.stat().st_mode & 0o7777
        save_file(dict(tensors), draft)
        draft.chmod(mode)
