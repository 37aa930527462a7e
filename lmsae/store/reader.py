"""Reads an activation store: whole contexts in token order, or chunks anywhere. Every byte read is checked."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsae.store.array import layout_at, shard_path, unreadable
from lmsae.store.codec import CODECS, Codec
from lmsae.store.layout import StoreDtype
from lmsae.store.shard import read_chunk, read_index


class _Place(NamedTuple):
    """Where a chunk lies: the open shard, its path, the chunk's number and offset in it, and its row in the request."""

    file: int
    path: Path
    chunk: int
    offset: int
    row: int


class StoreReader:
    """One store, opened for reading. Holds no open files, so it may be copied to other threads and processes."""

    def __init__(self, path: Path) -> None:
        """Open the store at `path`.

        Raises:
            MissingArtifact: if there is none.
            DamagedArtifact: if its metadata is not that of a store.
        """
        self.path = path
        self.layout, attributes = layout_at(path)
        try:
            self.codec: Codec = CODECS[self.dtype].of(self.layout, attributes)
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error) from error
        self._indexes: dict[int, np.ndarray] = {}

    @property
    def contexts(self) -> int:
        """How many contexts there are."""
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
        """The dtype in which activations are stored."""
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
        """Memory for so many tokens as they are stored, uninitialized: (tokens, items), for `codec.decode`."""
        return torch.empty((tokens, self.layout.stored_shape[2]), dtype=getattr(torch, self.dtype))

    def read_chunks(self, chunks: np.ndarray, out: Tensor) -> None:
        """Read chunks, best in ascending order and announced, one behind the other into the front of `out`, a `buffer`.

        The last chunk of the store may end in padding: what lies behind the last context is not meant to be used.

        Raises:
            DamagedArtifact: naming the damaged file and chunk.
        """
        rows = out.view(torch.uint8).view(-1, self.layout.chunk_bytes).numpy()[: len(chunks)]
        for place in self._places(chunks):
            read_chunk(place.file, place.path, place.chunk, place.offset, rows[place.row])

    def announce(self, chunks: np.ndarray) -> None:
        """Ask the disk for chunks that will be read: cold ones then come at 1.5 times the speed, and more threads would
        add nothing."""
        if hasattr(os, "posix_fadvise"):
            for place in self._places(chunks):
                os.posix_fadvise(place.file, place.offset, self.layout.chunk_bytes, os.POSIX_FADV_WILLNEED)

    def _places(self, chunks: np.ndarray) -> Iterator[_Place]:
        """Where each chunk lies, shard by shard."""
        shards = chunks // self.layout.shard_chunks
        for shard in np.unique(shards).tolist():
            path, index = shard_path(self.path, shard), self._index(shard)
            with path.open("rb", buffering=0) as file:
                for row in np.flatnonzero(shards == shard).tolist():
                    chunk = int(chunks[row]) % self.layout.shard_chunks
                    yield _Place(file.fileno(), path, chunk, int(index[chunk, 0]), row)

    def _index(self, shard: int) -> np.ndarray:
        """Where the chunks of a shard lie, read once."""
        if shard not in self._indexes:
            self._indexes[shard] = read_index(shard_path(self.path, shard), self.layout, shard)
        return self._indexes[shard]
