"""Shuffled training batches of one or several hook points, read one window ahead in the background."""

import itertools
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsae.errors import NotEnoughTokens, ShapeError
from lmsae.store.order import WINDOW_TOKENS, Mask, WindowOrder, WindowSlice, blocks_of
from lmsae.store.stores import ActivationSource

PATIENCE_S = 0.2
"""Seconds between two calls of `while_waiting`."""


class Loaded(NamedTuple):
    """The chunks of a window in memory."""

    chunks: np.ndarray
    parts: list[Tensor]
    """The chunks of each hook point, (tokens, items), as `ActivationSource.decode` takes them."""


class Window(NamedTuple):
    """A loaded window and the order of its units."""

    loaded: Loaded
    units: Tensor
    """The numbers of the tokens to take in turn, or of the contexts, within the chunks."""


class ShuffledBatches:
    """The batches of a training run: step s takes positions s x batch_size onward of the endless order.

    A step is computed and never replayed: a run that begins at step k reads nothing before it. A batch may cross the
    border of a window or of an epoch. All hook points are read at the same tokens.

    The unit of the order is a token or, with `whole_contexts`, a context.
    """

    waited_s: float
    """Seconds that the consumer has waited for data."""
    while_waiting: Callable[[], None]
    """Called every PATIENCE_S seconds while the consumer waits. An error that it raises ends the batches."""

    def __init__(
        self,
        source: ActivationSource,
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
            usable: bool (contexts, context_size), the mask of the usable tokens.
            batch_size: tokens in a batch.
            seed: of the order.
            first: the first context to use.
            last: the context behind the last one to use; by default all contexts are used.
            window_tokens: tokens that are shuffled together; memory holds two windows of each hook point.
            whole_contexts: shuffle contexts instead of tokens. A batch is then as many whole contexts as batch_size
                holds, of those with any usable token.

        Raises:
            ShapeError: if the source and `usable` are of different tokens.
            NotEnoughTokens: if no token is usable.
        """
        _require_fit(source, usable, batch_size, whole_contexts)
        self._source = source
        self._unit_tokens = usable.shape[1] if whole_contexts else 1
        self._batch_units = batch_size // self._unit_tokens
        self._order = WindowOrder(
            np.concatenate([block.any(axis=1, keepdims=True) for block in blocks_of(usable)])
            if whole_contexts
            else usable,
            chunk_contexts=source.chunk_contexts,
            seed=seed,
            first=first,
            last=last,
            window_tokens=window_tokens // self._unit_tokens,
        )
        self.waited_s = 0.0
        self.while_waiting = lambda: None

    @property
    def tokens_per_epoch(self) -> int:
        """The number of usable tokens. After them all, they come again in another order.

        With whole contexts all their tokens count.
        """
        return self._order.tokens_per_epoch * self._unit_tokens

    def batches(self, start_step: int, stop_step: int) -> Generator[tuple[Tensor, ...], None, None]:
        """Yield the batches of steps start_step to stop_step: float32 (batch_size, width) of each hook point.

        With whole contexts they are (contexts, context_size, width), and behind them stand the numbers of the contexts,
        (contexts,). Closing the iterator ends the background reading.

        Raises:
            DamagedArtifact: naming the damaged file and chunk.
        """
        pieces: list[tuple[Tensor, ...]] = []
        filled = 0
        with closing(self._windows(start_step * self._batch_units, stop_step * self._batch_units)) as windows:
            for window in windows:
                units = window.units
                while len(units):
                    taken, units = units.split([n := min(len(units), self._batch_units - filled), len(units) - n])
                    pieces.append(self._decode(window.loaded, taken))
                    filled += n
                    if filled == self._batch_units:
                        if len(pieces) > 1:
                            pieces = [tuple(map(torch.cat, zip(*pieces, strict=True)))]
                        filled = 0
                        yield pieces.pop()

    def _decode(self, loaded: Loaded, taken: Tensor) -> tuple[Tensor, ...]:
        """The activations of some units of a window and, if these are contexts, their numbers."""
        if self._unit_tokens == 1:
            return tuple(self._source.decode(loaded.parts, taken))
        tokens = taken[:, None] * self._unit_tokens + torch.arange(self._unit_tokens)
        activations = self._source.decode(loaded.parts, tokens.flatten())
        size = self._source.chunk_contexts
        numbers = torch.from_numpy(loaded.chunks)[taken // size] * size + taken % size
        return (*(part.view(*tokens.shape, -1) for part in activations), numbers)

    def _windows(self, begin: int, end: int) -> Generator[Window, None, None]:
        """Yield the windows of positions `begin` to `end`. The next but one overwrites a window."""
        tokens = self._order.window_tokens * self._unit_tokens
        memory = itertools.cycle([self._source.buffers(tokens) for _ in range(2)])
        closed = threading.Event()
        with (
            ThreadPoolExecutor(1, "lmsae-window-asking") as asking,
            ThreadPoolExecutor(2, "lmsae-window") as background,
        ):
            asked, slices = itertools.tee(self._order.slices(begin, end))
            asking.submit(self._announce, next(asked, None), closed)

            def begin_load(part: WindowSlice) -> tuple[Future[Loaded], Future[Tensor]]:
                """Load a window. Meanwhile the disk is asked for the next one, and the permutation is sorted."""
                asking.submit(self._announce, next(asked, None), closed)
                load = background.submit(self._load, part, next(memory), closed)
                return load, background.submit(self._units, part)

            loads = map(begin_load, slices)
            coming = next(loads, None)
            try:
                while coming:
                    window = self._wait(*coming)
                    coming = next(loads, None)
                    yield window
            finally:
                closed.set()

    def _load(self, part: WindowSlice, parts: list[Tensor], closed: threading.Event) -> Loaded:
        chunks = self._order.chunks(part.epoch, part.window)
        self._source.load(chunks, parts, lambda: not closed.is_set())
        return Loaded(chunks, parts)

    def _units(self, part: WindowSlice) -> Tensor:
        return torch.from_numpy(self._order.tokens(part.epoch, part.window)[part.start : part.stop])

    def _announce(self, part: WindowSlice | None, closed: threading.Event) -> None:
        if part and not closed.is_set():
            self._source.announce(self._order.chunks(part.epoch, part.window))

    def _wait(self, loaded: Future[Loaded], units: Future[Tensor]) -> Window:
        began = time.perf_counter()
        while wait([loaded], PATIENCE_S).not_done or wait([units], PATIENCE_S).not_done:
            self.while_waiting()
        window = Window(loaded.result(), units.result())
        self.waited_s += time.perf_counter() - began
        return window


def _require_fit(source: ActivationSource, usable: Mask, batch_size: int, whole_contexts: bool) -> None:
    """Raise ShapeError unless source and mask are of the same tokens, NotEnoughTokens for batches without a unit."""
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
