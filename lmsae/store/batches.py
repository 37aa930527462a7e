"""Shuffled training batches of one or several hook points, read one window ahead in the background."""

import itertools
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsae.errors import NotEnoughTokens, ShapeError
from lmsae.store.order import WINDOW_TOKENS, Mask, Visit, WindowOrder, blocks_of
from lmsae.store.stores import Source

PATIENCE_S = 0.2
"""How often somebody is told that the consumer still waits."""


class Window(NamedTuple):
    """What batches come from for a while."""

    chunks: np.ndarray
    parts: list[Tensor]
    """Of each hook point those chunks, (tokens, items), as `Source.decode` takes them."""
    rows: Tensor
    """Which tokens to take in turn, or which contexts: counted through the chunks."""


class ShuffledBatches:
    """The batches of a training run: step s takes positions s x batch_size onward of the endless order.

    Steps are computed, never replayed: beginning at step k reads nothing of what lies before. A batch may cross the
    border of a window or of an epoch. All hook points are read at the same tokens.
    """

    waited_s: float
    """Seconds for which the consumer has waited for data."""
    while_waiting: Callable[[], None]
    """Called now and then while the consumer waits. What it raises ends the batches."""

    def __init__(
        self,
        source: Source,
        usable: Mask,
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
            source: of the activations, at one or several hook points.
            usable: (contexts, context_size) bool: which tokens may be used.
            batch_size: tokens in a batch.
            seed: of the order.
            first: the first context to use.
            last: behind the last context to use; all of them by default.
            window_tokens: tokens shuffled together; two windows of each hook point are held in memory.
            whole_contexts: shuffle contexts instead of tokens; a batch is then as many whole contexts, with any usable
                token, as batch_size holds.

        Raises:
            ShapeError: if the source and `usable` are not of the same tokens.
            NotEnoughTokens: if no token is usable.
        """
        if (source.contexts, source.context_size) != usable.shape:
            raise ShapeError(
                f"activations of {source.contexts:,} contexts of {source.context_size} tokens do not go with a mask of "
                f"{usable.shape[0]:,} contexts of {usable.shape[1]}: they come from different tokens."
            )
        if whole_contexts and batch_size < usable.shape[1]:
            raise NotEnoughTokens(
                f"a batch of {batch_size:,} tokens holds no whole context of {usable.shape[1]:,}; raise "
                "train.batch_size or lower tokenize.context_size"
            )
        self._source = source
        self._row_tokens = usable.shape[1] if whole_contexts else 1
        self._batch_rows = batch_size // self._row_tokens
        self._order = WindowOrder(
            np.concatenate([block.any(axis=1, keepdims=True) for block in blocks_of(usable)])
            if whole_contexts
            else usable,
            chunk_contexts=source.chunk_contexts,
            seed=seed,
            first=first,
            last=last,
            window_tokens=window_tokens // self._row_tokens,
        )
        self.waited_s = 0.0
        self.while_waiting = lambda: None

    @property
    def tokens_per_epoch(self) -> int:
        """How many tokens may be used; after so many, all of them come again in another order. Of whole contexts all
        tokens count."""
        return self._order.tokens_per_epoch * self._row_tokens

    def batches(self, start_step: int, stop_step: int) -> Generator[tuple[Tensor, ...], None, None]:
        """The batches of steps start_step to stop_step: of each hook point a float32 tensor (batch_size, width).

        Of whole contexts (contexts, context_size, width), and last the numbers of the contexts (contexts,).
        Closing the iterator ends the background reading.

        Raises:
            DamagedArtifact: naming the damaged file and chunk.
        """
        pieces: list[tuple[Tensor, ...]] = []
        filled = 0
        with closing(self._windows(start_step * self._batch_rows, stop_step * self._batch_rows)) as windows:
            for window in windows:
                rows = window.rows
                while len(rows):
                    taken, rows = rows.split([n := min(len(rows), self._batch_rows - filled), len(rows) - n])
                    pieces.append(self._piece(window, taken))
                    filled += n
                    if filled == self._batch_rows:
                        if len(pieces) > 1:
                            pieces = [tuple(map(torch.cat, zip(*pieces, strict=True)))]
                        filled = 0
                        yield pieces.pop()

    def _piece(self, window: Window, taken: Tensor) -> tuple[Tensor, ...]:
        """The activations of rows of a window; of whole contexts also their numbers."""
        if self._row_tokens == 1:
            return tuple(self._source.decode(window.parts, taken))
        tokens = taken[:, None] * self._row_tokens + torch.arange(self._row_tokens)
        activations = self._source.decode(window.parts, tokens.flatten())
        size = self._source.chunk_contexts
        numbers = torch.from_numpy(window.chunks)[taken // size] * size + taken % size
        return (*(part.view(*tokens.shape, -1) for part in activations), numbers)

    def _windows(self, begin: int, end: int) -> Generator[Window, None, None]:
        """The windows of positions `begin` to `end`. Each is overwritten by the next but one."""
        tokens = self._order.window_tokens * self._row_tokens
        memory = itertools.cycle([self._source.buffers(tokens) for _ in range(2)])
        closed = threading.Event()
        with (
            ThreadPoolExecutor(1, "lmsae-window-asking") as asking,
            ThreadPoolExecutor(2, "lmsae-window") as background,
        ):
            asked, visits = itertools.tee(self._order.visits(begin, end))
            asking.submit(self._announce, next(asked, None), closed)

            def begun(visit: Visit) -> tuple[Future[Any], Future[Any]]:
                """While the disk hands out a window it is asked for the next, and the permutation is sorted."""
                asking.submit(self._announce, next(asked, None), closed)
                load = background.submit(self._load, visit, next(memory), closed)
                return load, background.submit(self._rows, visit)

            loads = map(begun, visits)
            coming = next(loads, None)
            try:
                while coming:
                    window = self._wait(*coming)
                    coming = next(loads, None)
                    yield window
            finally:
                closed.set()

    def _load(self, visit: Visit, parts: list[Tensor], closed: threading.Event) -> tuple[np.ndarray, list[Tensor]]:
        chunks = self._order.chunks(visit.epoch, visit.window)
        self._source.load(chunks, parts, lambda: not closed.is_set())
        return chunks, parts

    def _rows(self, visit: Visit) -> Tensor:
        return torch.from_numpy(self._order.rows(visit.epoch, visit.window)[visit.start : visit.stop])

    def _announce(self, visit: Visit | None, closed: threading.Event) -> None:
        if visit and not closed.is_set():
            self._source.announce(self._order.chunks(visit.epoch, visit.window))

    def _wait(self, loaded: Future[tuple[np.ndarray, list[Tensor]]], rows: Future[Tensor]) -> Window:
        began = time.perf_counter()
        coming: list[Future[Any]] = [loaded, rows]
        while wait(coming, PATIENCE_S).not_done:
            self.while_waiting()
        window = Window(*loaded.result(), rows.result())
        self.waited_s += time.perf_counter() - began
        return window
