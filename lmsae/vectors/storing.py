"""Storing activations of any origin as a folder that `activations.source: file` reads."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsae.errors import NotEnoughTokens, ShapeError, SourceError
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.drafts import name_draft
from lmsae.runtime.tensors import save_tensors
from lmsae.vectors.headers import DEFAULT, DTYPES, SAFETENSORS

FILE_BYTES = 256 << 20


def store_activations(
    folder: Path | str, batches: Iterable[Any], *, dtype: str | None = None, file_bytes: int = FILE_BYTES
) -> Path:
    """Write activations as they come to a new folder of safetensors files, and return it.

    A batch is a tensor or array (vectors, width), or (contexts, positions, width) where contexts belong together. It
    may be of torch, NumPy or whatever NumPy's `asarray` takes. Memory holds about one file. The folder gets its name
    when all is written: of an interrupted call nothing is left that looks whole.

    Args:
        folder: must not be there yet.
        batches: read once.
        dtype: float16, bfloat16, float32 or float64; without it that of the first batch.
        file_bytes: the size from which a new file begins.

    Raises:
        SourceError: if the folder is there, or a value is not finite or no float.
        ShapeError: if batches are of several shapes.
        NotEnoughTokens: if there is no vector.
        NoSpaceError: if the disk is full.
    """
    folder = Path(folder)
    if folder.exists():
        raise SourceError(f"{folder} is there already: name a new folder, or delete it")
    if dtype is not None and dtype not in DTYPES.values():
        raise SourceError(f"dtype {dtype!r} cannot be stored; wanted: {', '.join(DTYPES.values())}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = name_draft(folder)
    draft.mkdir()
    try:
        with explain_full_disk(draft):
            _write(draft, batches, dtype, file_bytes)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder


def _write(draft: Path, batches: Iterable[Any], dtype: str | None, file_bytes: int) -> None:
    waiting: list[Tensor] = []
    files, first = 0, None
    for number, batch in enumerate(batches):
        tensor = _tensor_of(batch, number)
        first = tensor if first is None else first
        _require_like(tensor, first, number)
        stored = tensor.to(getattr(torch, dtype) if dtype else first.dtype)
        if not stored.isfinite().all():
            raise SourceError(f"batch {number:,}: a value is not finite as {str(stored.dtype).removeprefix('torch.')}")
        if len(stored):
            waiting.append(stored.clone())  # whoever fills the same memory anew must not change what waits
        if sum(one.nbytes for one in waiting) >= file_bytes:
            _save(waiting, draft, files)
            waiting, files = [], files + 1
    if waiting:
        _save(waiting, draft, files)
    elif not files:
        raise NotEnoughTokens("there was no vector to store")


def _tensor_of(batch: Any, number: int) -> Tensor:
    import numpy as np

    try:
        tensor = batch.detach().cpu() if isinstance(batch, Tensor) else torch.from_numpy(np.asarray(batch))
    except TypeError as error:
        raise SourceError(f"batch {number:,}: is no array of numbers ({error})") from None
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES.values():
        raise SourceError(f"batch {number:,}: is of {tensor.dtype}; wanted: floats")
    return tensor


def _require_like(tensor: Tensor, first: Tensor, number: int) -> None:
    if tensor.ndim not in (2, 3) or tensor.shape[1:] != first.shape[1:] or 0 in tensor.shape[1:]:
        wanted = "(vectors, width) or (contexts, positions, width)" if tensor is first else f"like {(*first.shape,)}"
        raise ShapeError(f"batch {number:,}: is {(*tensor.shape,)}; wanted: {wanted}")


def _save(waiting: list[Tensor], draft: Path, number: int) -> None:
    save_tensors({DEFAULT: torch.cat(waiting).contiguous()}, draft / f"{number:06}{SAFETENSORS}")
