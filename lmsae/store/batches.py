"""Shuffled training batches from one or several aligned stores, read one window ahead in the background."""

import itertools
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from lmsae.errors import NotEnoughTokens, ShapeError
from lmsae.store.order import WINDOW_TOKENS, Visit, WindowOrder
from lmsae.store.reader import StoreReader

Window = tuple[list[Tensor], Tensor]
"""Of each array the rows of a window, (rows, ·), and which of them to take in turn."""


class ShuffledBatches:
    """The batches of a training run: step s takes positions s x batch_size onward of the endless order.

    Steps are computed, never replayed: beginning at step k reads nothing of what lies before. A batch may cross the
    border of a window or of an epoch. All stores are read at the same tokens.
    """

    waited_s: float
    """Seconds for which the consumer has waited for data."""

    def __init__(
        self,
        readers: Sequence[StoreReader],
        usable: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        first: int = 0,
        last: int | None = None,
        window_tokens: int = WINDOW_TOKENS,
        whole_contexts: bool = False,
    ) -> None:
        """Prepare the batches; nothing is read yet.

        Args:
            readers: stores of the same tokens, one a hook point.
            usable: (contexts, context_size) bool: which tokens may be used; may be memory-mapped.
            batch_size: tokens in a batch.
            seed: of the order.
            first: the first context to use.
            last: behind the last context to use; all of them by default.
            window_tokens: tokens shuffled together; two windows of each store are held in memory.
            whole_contexts: shuffle contexts instead of tokens; a batch is then as many whole contexts, with any usable
                token, as batch_size holds.

        Raises:
            ShapeError: if the stores and `usable` are not of the same tokens.
            NotEnoughTokens: if no token is usable.
        """
        for reader in readers:
            if (reader.contexts, reader.context_size) != usable.shape:
                raise ShapeError(
                    f"{reader.path}: {reader.contexts:,} contexts of {reader.context_size} tokens do not go with a "
                    f"mask of {usable.shape[0]:,} contexts of {usable.shape[1]}: they come from different tokens."
                )
        chunk_contexts = {reader.layout.chunk_contexts for reader in readers}
        if len(chunk_contexts) != 1:
            raise ShapeError(f"the stores are cut differently, into chunks of {sorted(chunk_contexts)} contexts.")
        if whole_contexts and batch_size < usable.shape[1]:
            raise NotEnoughTokens(
                f"a batch of {batch_size:,} tokens holds no whole context of {usable.shape[1]:,}; raise "
                "train.batch_size or lower tokenize.context_size"
            )
        self._readers = tuple(readers)
        self._row_tokens = usable.shape[1] if whole_contexts else 1
        self._batch_rows = batch_size // self._row_tokens
        self._chunk_contexts = chunk_contexts.pop()
        self._order = WindowOrder(
            np.asarray(usable.any(axis=1, keepdims=True)) if whole_contexts else usable,
            chunk_contexts=self._chunk_contexts,
            seed=seed,
            first=first,
            last=last,
            window_tokens=window_tokens // self._row_tokens,
        )
        self.waited_s = 0.0

    @property
    def tokens_per_epoch(self) -> int:
        """How many tokens may be used; after so many, all of them come again in another order. Of whole contexts all
        tokens count."""
        return self._order.tokens_per_epoch * self._row_tokens

    def batches(self, start_step: int, stop_step: int) -> Generator[tuple[Tensor, ...], None, None]:
        """The batches of steps start_step to stop_step: of each store a float32 tensor (batch_size, width).

        Of whole contexts (contexts, context_size, width), and last the numbers of the contexts (contexts,).
        Closing the iterator ends the background reading.

        Raises:
            DamagedArtifact: naming the damaged file and chunk.
        """
        batch, filled = self._buffers(self._batch_rows), 0
        with closing(self._windows(start_step * self._batch_rows, stop_step * self._batch_rows)) as windows:
            for window, rows in windows:
                while len(rows):
                    taken, rows = rows.split([n := min(len(rows), self._batch_rows - filled), len(rows) - n])
                    for source, part in zip(window, batch, strict=True):
                        torch.index_select(source, 0, taken, out=part[filled : filled + n])
                    filled += n
                    if filled == self._batch_rows:
                        yield self._handed_over(batch)
                        filled = 0

    def _handed_over(self, batch: list[Tensor]) -> tuple[Tensor, ...]:
        """Copies that outlive the buffers."""
        if self._row_tokens == 1:
            return tuple(part.to(torch.float32, copy=True) for part in batch)
        *activations, numbers = batch
        contexts = (part.to(torch.float32, copy=True).view(len(part), self._row_tokens, -1) for part in activations)
        return (*contexts, numbers[:, 0].clone())

    def _buffers(self, rows: int) -> list[Tensor]:
        """Memory for so many rows of each store, and for the numbers of whole contexts."""
        buffers = [reader.buffer(rows * self._row_tokens).view(rows, -1) for reader in self._readers]
        return buffers if self._row_tokens == 1 else [*buffers, torch.empty((rows, 1), dtype=torch.int64)]

    def _windows(self, begin: int, end: int) -> Generator[Window, None, None]:
        """The windows of positions `begin` to `end`. Each is overwritten by the next but one."""
        memory = itertools.cycle([self._buffers(self._order.window_tokens) for _ in range(2)])
        with ThreadPoolExecutor(1, "lmsae-window") as background:
            loads = (background.submit(self._load, visit, next(memory)) for visit in self._order.visits(begin, end))
            coming = next(loads, None)
            while coming:
                window = self._wait(coming)
                coming = next(loads, None)
                yield window

    def _load(self, visit: Visit, buffers: list[Tensor]) -> Window:
        chunks = self._order.chunks(visit.epoch, visit.window)
        for reader, buffer in zip(self._readers, buffers, strict=False):
            reader.read_chunks(chunks, buffer.view(-1, reader.width))
        if self._row_tokens > 1:
            numbers = torch.from_numpy(chunks)[:, None] * self._chunk_contexts + torch.arange(self._chunk_contexts)
            buffers[-1][: numbers.numel(), 0] = numbers.flatten()
        rows = self._order.rows(visit.epoch, visit.window)[visit.start : visit.stop]
        return buffers, torch.from_numpy(rows)

    def _wait(self, coming: Future[Window]) -> Window:
        began = time.perf_counter()
        window = coming.result()
        self.waited_s += time.perf_counter() - began
        return window
