"""Storing activations of any origin, and token ids beside them, as a folder that `activations.source: file` reads."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmsae.errors import NotEnoughTokens, ShapeError, SourceError
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.drafts import name_draft
from lmsae.runtime.tensors import save_tensors
from lmsae.vectors.headers import DTYPES, ID_DTYPES, SAFETENSORS, TOKEN_IDS, VECTORS
from lmsae.vectors.token_ids import MOST_IDS

FILE_BYTES = 256 << 20
IDS_FOLDER = TOKEN_IDS.default


def store_activations(
    folder: Path | str, batches: Iterable[Any], *, dtype: str | None = None, file_bytes: int = FILE_BYTES
) -> Path:
    """Write activations as they come to a new folder of safetensors files, and return it.

    A batch is a tensor or array (vectors, width), or (contexts, positions, width) where contexts belong together. It
    may be of torch, NumPy or whatever NumPy's `asarray` takes. A batch may also be a pair of those vectors and their
    token ids, whole numbers in the same shape without the width, which go to `token_ids` in the folder: a path for
    `activations.token_ids`. The files of vectors are the same with and without them. Memory holds about one file. The
    folder gets its name when all is written: of an interrupted call nothing is left that looks whole.

    Args:
        folder: must not be there yet.
        batches: read once.
        dtype: float16, bfloat16, float32 or float64; without it that of the first batch.
        file_bytes: the size from which a new file begins.

    Raises:
        SourceError: if the folder is there, a value is not finite or no float, or a token id is no whole number from 0
            up to 1,048,575.
        ShapeError: if batches are of several shapes, or only some of them have token ids.
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
    waiting, waiting_ids = list[Tensor](), list[Tensor]()
    files, first, has_ids = 0, None, False
    for number, batch in enumerate(batches):
        vectors, ids = _pair_of(batch)
        tensor = _tensor_of(vectors, number)
        if first is None:
            first, has_ids = tensor, ids is not None
        _require_like(tensor, first, number)
        if has_ids != (ids is not None):
            raise ShapeError(f"batch {number:,}: {_tell_ids(not has_ids)}, but batch 0 {_tell_ids(has_ids)}")
        stored = tensor.to(getattr(torch, dtype) if dtype else first.dtype)
        if not stored.isfinite().all():
            raise SourceError(f"batch {number:,}: a value is not finite as {str(stored.dtype).removeprefix('torch.')}")
        if has_ids:
            waiting_ids.append(_ids_of(ids, tensor, number))
        if len(stored):
            waiting.append(stored.clone())  # whoever fills the same memory anew must not change what waits
        if sum(one.nbytes for one in waiting) >= file_bytes:
            _save(waiting, waiting_ids, draft, files)
            waiting, waiting_ids, files = [], [], files + 1
    if waiting:
        _save(waiting, waiting_ids, draft, files)
    elif not files:
        raise NotEnoughTokens("there was no vector to store")


def _pair_of(batch: Any) -> tuple[Any, Any]:
    """The vectors of a batch and their token ids, or None. A tuple of two vectors, or of two contexts of one shape, is
    vectors alone."""
    if not (isinstance(batch, tuple) and len(batch) == 2):
        return batch, None
    vectors, ids = (tuple(one.shape) if hasattr(one, "shape") else np.shape(one) for one in batch)
    return (batch, None) if vectors == ids else batch


def _tensor_of(batch: Any, number: int) -> Tensor:
    tensor = _as_tensor(batch, number)
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES.values():
        raise SourceError(f"batch {number:,}: is of {tensor.dtype}; wanted: floats")
    return tensor


def _ids_of(ids: Any, vectors: Tensor, number: int) -> Tensor:
    """Token ids as int32 in memory of their own, one for each vector."""
    tensor = _as_tensor(ids, number)
    if str(tensor.dtype).removeprefix("torch.") not in ID_DTYPES.values():
        raise SourceError(f"batch {number:,}: its token ids are of {tensor.dtype}; wanted: {TOKEN_IDS.dtypes_wanted}")
    if tensor.shape != vectors.shape[:-1]:
        shapes = f"{(*tensor.shape,)}; wanted: {(*vectors.shape[:-1],)}"
        raise ShapeError(f"batch {number:,}: its token ids are {shapes}, one for each vector")
    wide = tensor.to(torch.int64)
    if (odd := wide[(wide < 0) | (wide >= MOST_IDS)]).numel():
        raise SourceError(f"batch {number:,}: {odd[0]} is among its token ids; wanted: 0 to {MOST_IDS - 1:,}")
    return wide.to(torch.int32, copy=True)


def _as_tensor(array: Any, number: int) -> Tensor:
    try:
        return array.detach().cpu() if isinstance(array, Tensor) else torch.from_numpy(np.asarray(array))
    except (TypeError, ValueError) as error:
        raise SourceError(f"batch {number:,}: is no array of numbers ({error})") from None


def _require_like(tensor: Tensor, first: Tensor, number: int) -> None:
    if tensor.ndim not in (2, 3) or tensor.shape[1:] != first.shape[1:] or 0 in tensor.shape[1:]:
        wanted = "(vectors, width) or (contexts, positions, width)" if tensor is first else f"like {(*first.shape,)}"
        raise ShapeError(f"batch {number:,}: is {(*tensor.shape,)}; wanted: {wanted}")


def _tell_ids(has_ids: bool) -> str:
    return "has token ids" if has_ids else "has no token ids"


def _save(vectors: list[Tensor], ids: list[Tensor], draft: Path, number: int) -> None:
    name = f"{number:06}{SAFETENSORS}"
    save_tensors({VECTORS.default: torch.cat(vectors).contiguous()}, draft / name)
    if ids:
        (draft / IDS_FOLDER).mkdir(exist_ok=True)
        save_tensors({TOKEN_IDS.default: torch.cat(ids).contiguous()}, draft / IDS_FOLDER / name)
