"""Reads an activation store: whole contexts in token order, or any chunks. Every byte is checked."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsae.store.array import find_store, metadata_error, shard_path
from lmsae.store.codec import CODECS, Codec
from lmsae.store.layout import StoreDtype
from lmsae.store.shard import read_chunk, read_index


class _ChunkLocation(NamedTuple):
    """A chunk's open shard, its path, the chunk's number and offset in it, and the chunk's position in the request."""

    file: int
    path: Path
    chunk: int
    offset: int
    position: int


class StoreReader:
    """One store, opened for reading. It holds no open files, so other threads and processes may have copies of it."""

    def __init__(self, path: Path) -> None:
        """Open the store at `path`.

        Raises:
            MissingArtifact: if there is none.
            DamagedArtifact: if its metadata is not that of a store.
        """
        self.path = path
        self.layout, attributes, self._separator = find_store(path)
        try:
            self.codec: Codec = CODECS[self.dtype].from_attributes(self.layout, attributes)
        except (KeyError, TypeError, ValueError) as error:
            raise metadata_error(path, error) from error
        self._indexes: dict[int, np.ndarray] = {}

    @property
    def contexts(self) -> int:
        """The number of contexts."""
        return self.layout.contexts

    @property
    def context_size(self) -> int:
        """Tokens in a context."""
        return self.layout.context_size

    @property
    def width(self) -> int:
        """Values in an activation, the model's d_model."""
        return self.layout.width

    @property
    def dtype(self) -> StoreDtype:
        """The dtype of the stored activations."""
        return self.layout.dtype

    def read(self, start: int, stop: int) -> Tensor:
        """Contexts start to stop in token order: (contexts, context_size, width), float32.

        Raises:
            DamagedArtifact: naming the damaged file and chunk.
        """
        if not 0 <= start <= stop <= self.contexts:
            raise IndexError(f"{self.path}: contexts {start} to {stop} of {self.contexts}")
        first, last = start // self.layout.chunk_contexts, -(-stop // self.layout.chunk_contexts)
        out = self.buffer((last - first) * self.layout.chunk_tokens)
        self.announce(chunks := np.arange(first, last))
        self.read_chunks(chunks, out)
        skipped, size = first * self.layout.chunk_contexts, self.context_size
        tokens = torch.arange((start - skipped) * size, (stop - skipped) * size)
        return self.codec.decode(out, tokens).view(stop - start, size, self.width)

    def buffer(self, tokens: int) -> Tensor:
        """Uninitialized memory for stored tokens, (tokens, items), which `codec.decode` takes."""
        return torch.empty((tokens, self.layout.stored_shape[2]), dtype=getattr(torch, self.dtype))

    def read_chunks(self, chunks: np.ndarray, out: Tensor) -> None:
        """Read chunks one behind the other into the front of `out`, a `buffer`; fastest if announced and ascending.

        The last chunk of the store may end in padding: nobody may use tokens behind the last context.

        Raises:
            DamagedArtifact: naming the damaged file and chunk.
        """
        parts = out.view(torch.uint8).view(-1, self.layout.chunk_bytes).numpy()[: len(chunks)]
        for at in self._locations(chunks):
            read_chunk(at.file, at.path, at.chunk, at.offset, parts[at.position])

    def announce(self, chunks: np.ndarray) -> None:
        """Ask the disk for chunks that will be read soon.

        Chunks that are not in the page cache then come at 1.5 times the speed. More threads would add nothing.
        """
        if hasattr(os, "posix_fadvise"):
            for at in self._locations(chunks):
                os.posix_fadvise(at.file, at.offset, self.layout.chunk_bytes, os.POSIX_FADV_WILLNEED)

    def _locations(self, chunks: np.ndarray) -> Iterator[_ChunkLocation]:
        """Yield the location of each chunk, shard by shard."""
        shards = chunks // self.layout.shard_chunks
        for shard in np.unique(shards).tolist():
            path, index = self._shard_path(shard), self._index(shard)
            with path.open("rb", buffering=0) as file:
                for position in np.flatnonzero(shards == shard).tolist():
                    chunk = int(chunks[position]) % self.layout.shard_chunks
                    yield _ChunkLocation(file.fileno(), path, chunk, int(index[chunk, 0]), position)

    def _index(self, shard: int) -> np.ndarray:
        """The index of a shard, which is read once."""
        if shard not in self._indexes:
            self._indexes[shard] = read_index(self._shard_path(shard), self.layout, shard)
        return self._indexes[shard]

    def _shard_path(self, shard: int) -> Path:
        return shard_path(self.path, shard, self._separator)
