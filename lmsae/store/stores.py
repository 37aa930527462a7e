"""Sources of the activations of a window: stores here, language models in lmsae/stages/inputs/live.py."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from lmsae.errors import ShapeError
from lmsae.store.reader import StoreReader


class ActivationSource(Protocol):
    """The activations of the same tokens at several hook points, loaded by chunks of contexts."""

    contexts: int
    context_size: int
    chunk_contexts: int

    def buffers(self, tokens: int) -> list[Tensor]:
        """Uninitialized memory for stored tokens of each hook point, (tokens, items)."""
        ...

    def decode(self, parts: Sequence[Tensor], taken: Tensor) -> list[Tensor]:
        """The activations of some tokens of each of the `buffers`, (taken, width) float32, in memory of their own."""
        ...

    def announce(self, chunks: np.ndarray) -> None:
        """Announce chunks, which ascend, that will be loaded soon."""
        ...

    def load(self, chunks: np.ndarray, buffers: Sequence[Tensor], is_wanted: Callable[[], bool]) -> None:
        """Load chunks, which ascend, one behind the other into the front of each buffer.

        Behind the last context the buffer may hold anything. Once `is_wanted` is false, loading may stop.
        """
        ...


class Stores:
    """The stores of several hook points, of the same tokens."""

    def __init__(self, readers: Sequence[StoreReader]) -> None:
        """Raises ShapeError unless all stores are of the same tokens and cut into the same chunks."""
        self._readers = tuple(readers)
        first = readers[0]
        self.contexts, self.context_size = first.contexts, first.context_size
        self.chunk_contexts = first.layout.chunk_contexts
        for other in readers[1:]:
            if (other.contexts, other.context_size) != (self.contexts, self.context_size):
                raise ShapeError(
                    f"{other.path}: {other.contexts:,} contexts of {other.context_size} tokens do not go with the "
                    f"{self.contexts:,} of {self.context_size} in {first.path}: they come from different tokens."
                )
            if other.layout.chunk_contexts != self.chunk_contexts:
                raise ShapeError(
                    f"{other.path} is cut into chunks of {other.layout.chunk_contexts} contexts, {first.path} into "
                    f"chunks of {self.chunk_contexts}."
                )

    def buffers(self, tokens: int) -> list[Tensor]:
        """Uninitialized memory for stored tokens of each store, in its dtype."""
        return [reader.buffer(tokens) for reader in self._readers]

    def decode(self, parts: Sequence[Tensor], taken: Tensor) -> list[Tensor]:
        """The activations of some tokens of each store's buffer, (taken, width) float32, in memory of their own."""
        return [reader.codec.decode(part, taken) for reader, part in zip(self._readers, parts, strict=True)]

    def announce(self, chunks: np.ndarray) -> None:
        """Ask the disk for the chunks of all stores."""
        for reader in self._readers:
            reader.announce(chunks)

    def load(self, chunks: np.ndarray, buffers: Sequence[Tensor], is_wanted: Callable[[], bool]) -> None:
        """Read the chunks of all stores. Raises DamagedArtifact, naming the damaged file and chunk."""
        for reader, buffer in zip(self._readers, buffers, strict=True):
            if is_wanted():
                reader.read_chunks(chunks, buffer)
