"""The tokens of an artifact on disk: a Zarr v3 group that any Zarr library opens.

    tokens.zarr/  train               (contexts, context_size)  uint16 or uint32, the calibration contexts first
                  train_documents     (contexts, context_size)  int32, the document's index in the split's order
                  train_mask          (contexts, context_size)  bool, only if some of the text is masked
                  held_out            the same
                  held_out_documents
                  held_out_mask
    attributes    n_calibration_contexts, bos_token_id, special_token_ids, d_vocab, counts; numbers_vectors and
                  has_positions if the ids are no tokens but the numbers of vectors in files (lmsae/vectors)

A token is usable unless its id is one of `special_token_ids` or its mask is false. With tokenize.mask_special false
there are no `special_token_ids`.

Every chunk carries a crc32c, which reading checks.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lmsae.config import JsonObject
from lmsae.errors import DamagedArtifact, MissingArtifact, NotEnoughTokens

TOKENS = "tokens.zarr"
CHUNK_TOKENS = 2**20
Split = Literal["train", "held_out"]
Index = int | slice | np.ndarray | tuple[int | slice, int | slice]
"""Contexts, or contexts and positions, of an array (contexts, context_size)."""

if TYPE_CHECKING:
    import zarr


def dtype_of(d_vocab: int) -> np.dtype:
    """The smaller of uint16 and uint32 that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if d_vocab <= 2**16 else np.uint32)


class TokenWriter:
    """Writes a new `directory/tokens.zarr`. With `masked`, each split has a mask.

    `require_claim` raises an error if the directory is another process's by now; it is asked before each block.
    """

    def __init__(
        self, directory: Path, d_vocab: int, *, masked: bool = False, require_claim: Callable[[], None] = lambda: None
    ) -> None:
        import zarr

        self.directory, self.dtype, self._require_claim = directory, dtype_of(d_vocab), require_claim
        self._parts = {"": self.dtype, "_documents": np.dtype(np.int32)}
        if masked:
            self._parts["_mask"] = np.dtype(np.bool_)
        self._group = zarr.create_group(directory / TOKENS, overwrite=True)

    @property
    def bytes_per_token(self) -> int:
        """The most bytes of a token, its document's index and its mask: compression may make them fewer."""
        return sum(dtype.itemsize for dtype in self._parts.values())

    def write_split(
        self, split: Split, contexts: int, context_size: int, blocks: Iterable[Sequence[np.ndarray]]
    ) -> None:
        """Write a split from blocks of (ids, document indices) or, with masks, (ids, document indices, mask).

        Each block but the last is a whole number of chunks.
        """
        shape = (contexts, context_size)
        arrays = [self._array(f"{split}{suffix}", shape, dtype) for suffix, dtype in self._parts.items()]
        begin = 0
        for block in blocks:
            end = begin + len(block[0])
            self._require_claim()
            for array, part in zip(arrays, block, strict=True):
                array[begin:end] = part
            begin = end
        assert begin == contexts, (begin, contexts)

    def write_attributes(self, attributes: JsonObject) -> None:
        """Write the attributes of the group."""
        self._require_claim()
        self._group.attrs.update(attributes)

    def _array(self, name: str, shape: tuple[int, int], dtype: np.dtype) -> "zarr.Array":
        from zarr.codecs import Crc32cCodec, ZstdCodec

        return self._group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(min(shape[0], max(1, CHUNK_TOKENS // shape[1])), shape[1]),
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            dimension_names=("context", "position"),
            config={"write_empty_chunks": True},  # a chunk that is all zeros must be there to be checked
        )


class TokenArray:
    """An array (contexts, context_size) on disk. A slice of it, such as `array[10:20]`, is read and is numpy."""

    def __init__(self, array: "zarr.Array") -> None:
        self._array = array
        contexts, context_size = array.shape
        self.shape, self.dtype = (contexts, context_size), array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> np.ndarray:
        """Read a part. Raises DamagedArtifact when the bytes on disk are not those that were written."""
        try:
            return np.asarray(self._array[index])
        except (ValueError, RuntimeError) as error:
            raise DamagedArtifact(
                f"{self._array.store_path}: a chunk cannot be read ({error}). `lmsae verify` names every damaged file; "
                "delete the artifact's directory and make it again."
            ) from error


@dataclass(frozen=True)
class TokenSet:
    """Packed contexts, train and held-out; all arrays are (contexts, context_size) and read lazily.

    The first `calibration_contexts` of `train` are for norm and init, and no dictionary trains on them. Masks are None
    if all text is usable.
    """

    train: TokenArray
    held_out: TokenArray
    train_documents: TokenArray
    held_out_documents: TokenArray
    calibration_contexts: int
    bos_token_id: int | None
    special_token_ids: tuple[int, ...]
    d_vocab: int
    counts: JsonObject
    train_mask: TokenArray | None = None
    held_out_mask: TokenArray | None = None
    numbers_vectors: bool = False
    """True if ids are the numbers of vectors in files, and stand for no text."""
    has_positions: bool = True
    """False if contexts are cut from vectors that stand in none."""

    @property
    def context_size(self) -> int:
        return self.train.shape[1]

    def usable(
        self, split: Split, contexts: slice = slice(None), skip_first: int = 0, skip_last: int = 0
    ) -> np.ndarray:
        """The mask of the usable tokens, bool (contexts, context_size): neither special nor masked ones.

        The first `skip_first` and the last `skip_last` positions of every context are not usable either. Raises
        NotEnoughTokens when that leaves no position.
        """
        if skip_first + skip_last >= self.context_size:
            raise NotEnoughTokens(
                f"the first {skip_first:,} and the last {skip_last:,} positions are left out of contexts of "
                f"{self.context_size:,} tokens, which leaves none. Leave out fewer, or raise tokenize.context_size."
            )
        usable = np.isin(getattr(self, split)[contexts], self.special_token_ids, invert=True)
        mask: TokenArray | None = getattr(self, f"{split}_mask")
        if mask is not None:
            usable &= mask[contexts]
        usable[:, :skip_first] = False
        usable[:, self.context_size - skip_last :] = False
        return usable


def open_tokens(directory: Path) -> TokenSet:
    """Open the tokens in an artifact's directory. Raises MissingArtifact when there are none."""
    import zarr

    try:
        group = zarr.open_group(directory / TOKENS, mode="r")
        arrays = {
            name: _array_of(group, name) for name in ("train", "held_out", "train_documents", "held_out_documents")
        }
        arrays |= {name: _array_of(group, name) for name in ("train_mask", "held_out_mask") if name in group}
        attributes: JsonObject = dict(group.attrs)
        return TokenSet(
            **arrays,
            calibration_contexts=attributes["n_calibration_contexts"],
            bos_token_id=attributes["bos_token_id"],
            special_token_ids=tuple(attributes["special_token_ids"]),
            d_vocab=attributes["d_vocab"],
            counts=attributes["counts"],
            numbers_vectors=attributes.get("numbers_vectors", False),
            has_positions=attributes.get("has_positions", True),
        )
    except (FileNotFoundError, KeyError) as error:
        raise MissingArtifact(f"{directory / TOKENS}: no finished token set there ({error}). Make it again.") from None


def _array_of(group: "zarr.Group", name: str) -> TokenArray:
    """An array of the group. Raises KeyError if there is none of that name."""
    import zarr

    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return TokenArray(array)
