"""The shuffled order of tokens, as a pure function of (seed, position).

Chunks of the store are drawn at random into windows, and the usable tokens of a window are permuted. With windows of
262,144 tokens drawn as chunks of 1,024, the variance of batch means is 1.4 times that of an ideal shuffle (document
order: 83 times; measured at batch 4,096 on the activations of a small transformer).

Every epoch visits each usable token once, in an order of its own. Permutations sort raw 64-bit words of NumPy's Philox
generator: NumPy promises that bit streams and SeedSequence never change, and promises no such thing of its shuffles.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from lmsae.errors import NotEnoughTokens
from lmsae.kernels.cpu import order_of

WINDOW_TOKENS = 262_144
BLOCK_TOKENS = 2**20
CHUNKS, ROWS = 0, 1
"""What a random stream permutes: the chunks of an epoch, or the tokens of a window."""


class Contexts(Protocol):
    """Something of every token, (contexts, context_size), that is had some contexts at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, contexts: slice, /) -> np.ndarray: ...


class Mask(Contexts, Protocol):
    """Which tokens may be used, bool (contexts, context_size): in memory, or on disk as `spilled.Spilled`."""

    def __getitem__(self, contexts: slice | np.ndarray, /) -> np.ndarray: ...


def blocks_of(array: Contexts, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
    """Contexts `first` to `last`, some at a time; at least one block, be it empty."""
    last, step = array.shape[0] if last is None else last, max(1, BLOCK_TOKENS // array.shape[1])
    return (array[start : min(start + step, last)] for start in range(first, max(last, first + 1), step))


@dataclass(frozen=True, slots=True)
class Visit:
    """A stretch of the order that lies in one window: its usable tokens start to stop, as permuted."""

    epoch: int
    window: int
    start: int
    stop: int


class WindowOrder:
    """The endless order of the usable tokens of contexts `first` to `last`, epoch after epoch."""

    def __init__(
        self,
        usable: Mask,
        *,
        chunk_contexts: int,
        seed: int,
        first: int = 0,
        last: int | None = None,
        window_tokens: int = WINDOW_TOKENS,
    ) -> None:
        """Define the order; only the counts of usable tokens are computed.

        Args:
            usable: (contexts, context_size) bool: which tokens may be used.
            chunk_contexts: contexts in a chunk, the unit that is drawn.
            seed: not negative; another seed, another order.
            first: the first context to use.
            last: behind the last context to use; all of them by default.
            window_tokens: how many tokens a window holds, usable or not, rounded down to chunks.

        Raises:
            NotEnoughTokens: if no token is usable.
        """
        self._usable = usable
        self._first, self._last = first, usable.shape[0] if last is None else last
        self._chunk_contexts = chunk_contexts
        self._seed = seed
        chunk_tokens = chunk_contexts * usable.shape[1]
        self._window_chunks = max(1, window_tokens // chunk_tokens)
        self.window_tokens = self._window_chunks * chunk_tokens
        if not self.tokens_per_epoch:
            raise NotEnoughTokens(f"contexts {self._first:,} to {self._last:,} hold no token that may be used.")

    @cached_property
    def tokens_per_epoch(self) -> int:
        """How many tokens may be used."""
        return int(self._chunk_counts.sum())

    def visits(self, begin: int, end: int) -> Iterator[Visit]:
        """The windows that hold positions `begin` to `end` of the endless order, and which part of each."""
        while begin < end:
            epoch, offset = divmod(begin, self.tokens_per_epoch)
            bounds = self._window_bounds(epoch)
            window = int(np.searchsorted(bounds, offset, side="right")) - 1
            start, after = int(bounds[window]), int(bounds[window + 1])
            stop = min(after, offset + end - begin)
            yield Visit(epoch, window, offset - start, stop - start)
            begin += stop - offset

    def chunks(self, epoch: int, window: int) -> np.ndarray:
        """The chunks of a window, ascending, so that reading them goes forward through the files."""
        drawn = self._drawn_chunks(epoch)[window * self._window_chunks : (window + 1) * self._window_chunks]
        return np.sort(drawn)

    def rows(self, epoch: int, window: int) -> np.ndarray:
        """The usable tokens of a window, permuted: token numbers counted through the window's `chunks`."""
        contexts = self.chunks(epoch, window)[:, None] * self._chunk_contexts + np.arange(self._chunk_contexts)
        contexts = contexts.reshape(-1)
        used = (contexts >= self._first) & (contexts < self._last)
        usable = self._usable[np.minimum(contexts, self._usable.shape[0] - 1)] & used[:, None]
        rows = np.flatnonzero(usable)
        return rows[_permutation(len(rows), self._seed, (ROWS, epoch, window))]

    @cached_property
    def _chunk_counts(self) -> np.ndarray:
        """Usable tokens of each chunk that holds contexts `first` to `last`; the rest of the store is not looked at."""
        blocks = blocks_of(self._usable, self._first, self._last)
        counts = np.concatenate([block.sum(axis=1, dtype=np.int64) for block in blocks])
        before = self._first % self._chunk_contexts
        behind = -(before + len(counts)) % self._chunk_contexts
        return np.pad(counts, (before, behind)).reshape(-1, self._chunk_contexts).sum(axis=1)

    def _drawn_chunks(self, epoch: int) -> np.ndarray:
        drawn = _chunk_permutation(len(self._chunk_counts), self._seed, epoch)
        return self._first // self._chunk_contexts + drawn

    def _window_bounds(self, epoch: int) -> np.ndarray:
        """The position in the epoch at which each window begins, and the epoch's end."""
        counts = self._chunk_counts[_chunk_permutation(len(self._chunk_counts), self._seed, epoch)]
        windows = np.add.reduceat(counts, np.arange(0, len(counts), self._window_chunks))
        return np.concatenate([[0], np.cumsum(windows)])


@lru_cache(maxsize=4)
def _chunk_permutation(chunks: int, seed: int, epoch: int) -> np.ndarray:
    return _permutation(chunks, seed, (CHUNKS, epoch))


def _permutation(count: int, seed: int, stream: tuple[int, ...]) -> np.ndarray:
    return order_of(np.random.Philox(np.random.SeedSequence(seed, spawn_key=stream)).random_raw(count))
