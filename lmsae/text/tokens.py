"""The tokens of an artifact on disk: a Zarr v3 group that any Zarr reader opens.

    tokens.zarr/  train               (contexts, context_size)  uint16 or uint32, the held-aside contexts first
                  train_documents     (contexts, context_size)  int32, the document's index in the split's order
                  held_out            the same
                  held_out_documents
    attributes    n_aside_contexts, bos_token_id, special_token_ids, d_vocab, counts

Every chunk carries a crc32c, which reading checks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmsae.errors import DamagedArtifact, MissingArtifact

TOKENS = "tokens.zarr"
CHUNK_TOKENS = 2**20
Split = Literal["train", "held_out"]


def dtype_of(d_vocab: int) -> np.dtype:
    """The smaller of uint16 and uint32 that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if d_vocab <= 2**16 else np.uint32)


class TokenWriter:
    """Writes `directory/tokens.zarr`, anew."""

    def __init__(self, directory: Path, d_vocab: int) -> None:
        import zarr

        self.directory, self.dtype = directory, dtype_of(d_vocab)
        self._group = zarr.create_group(directory / TOKENS, overwrite=True)

    @property
    def bytes_per_token(self) -> int:
        """Bytes at most of a token and its document's index."""
        return self.dtype.itemsize + np.dtype(np.int32).itemsize

    def write_split(
        self, split: Split, contexts: int, context_size: int, blocks: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Write a split from blocks of (ids, document indices), each a whole number of chunks but for the last."""
        shape = (contexts, context_size)
        ids = self._array(split, shape, self.dtype)
        documents = self._array(f"{split}_documents", shape, np.dtype(np.int32))
        begin = 0
        for block_ids, block_documents in blocks:
            end = begin + len(block_ids)
            ids[begin:end], documents[begin:end] = block_ids, block_documents
            begin = end
        assert begin == contexts, (begin, contexts)

    def write_attributes(self, attributes: dict[str, Any]) -> None:
        self._group.attrs.update(attributes)

    def _array(self, name: str, shape: tuple[int, int], dtype: np.dtype) -> Any:
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
    """A two-dimensional array on disk, read a slice at a time: `array[10:20]` is numpy."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, int] = array.shape
        self.dtype: np.dtype = array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Raises DamagedArtifact when the bytes on disk are not those that were written."""
        try:
            return np.asarray(self._array[index])
        except (ValueError, RuntimeError) as error:
            raise DamagedArtifact(
                f"{self._array.store_path}: a chunk cannot be read ({error}). `lmsae verify` names every damaged file; "
                "delete the artifact's directory and make it again."
            ) from error


@dataclass(frozen=True)
class TokenSet:
    """Packed contexts, train and held-out; all four arrays are (contexts, context_size) and read lazily.

    The first `aside_contexts` of `train` are for norm and init and never trained on.
    """

    train: TokenArray
    held_out: TokenArray
    train_documents: TokenArray
    held_out_documents: TokenArray
    aside_contexts: int
    bos_token_id: int | None
    special_token_ids: tuple[int, ...]
    d_vocab: int
    counts: dict[str, int]

    @property
    def context_size(self) -> int:
        return self.train.shape[1]

    def usable(self, split: Split, contexts: slice = slice(None)) -> np.ndarray:
        """Which positions hold text, bool (contexts, context_size): not BOS, separators or padding."""
        return np.isin(getattr(self, split)[contexts], self.special_token_ids, invert=True)


def open_tokens(directory: Path) -> TokenSet:
    """Open the tokens in an artifact's directory. Raises MissingArtifact when there are none."""
    import zarr

    try:
        group = zarr.open_group(directory / TOKENS, mode="r")
        arrays = {
            name: TokenArray(group[name]) for name in ("train", "held_out", "train_documents", "held_out_documents")
        }
        attributes: dict[str, Any] = dict(group.attrs)
        return TokenSet(
            **arrays,
            aside_contexts=attributes["n_aside_contexts"],
            bos_token_id=attributes["bos_token_id"],
            special_token_ids=tuple(attributes["special_token_ids"]),
            d_vocab=attributes["d_vocab"],
            counts=attributes["counts"],
        )
    except (FileNotFoundError, KeyError) as error:
        raise MissingArtifact(f"{directory / TOKENS}: no finished token set there ({error}). Make it again.") from None
