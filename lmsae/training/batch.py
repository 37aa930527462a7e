"""The batch of activations that a step learns from, and its way to the device."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Raw activations of all hook points, side by side.

    x (tokens, d_in) and target (tokens, d_out), which are one and the same tensor where a dictionary writes what it
    reads. For dictionaries that read whole contexts both have a dimension more, (contexts, context_size, ·), and
    `usable` (contexts, context_size) says which tokens count; `ids` of the same shape are the tokens themselves.
    """

    x: Tensor
    target: Tensor
    usable: Tensor | None = None
    ids: Tensor | None = None

    @cached_property
    def tokens(self) -> int:
        """The number of tokens that count."""
        return self.x.shape[0] if self.usable is None else int(self.usable.sum())

    def to(self, device: str) -> "Batch":
        """The batch on a device."""
        return self.change_each(lambda part: part.to(device))

    def change_each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor changed. As many tokens count as before, so they are not counted again."""
        x = change(self.x)
        changed = Batch(
            x,
            x if self.target is self.x else change(self.target),
            None if self.usable is None else change(self.usable),
            None if self.ids is None else change(self.ids),
        )
        changed.__dict__["tokens"] = self.tokens
        return changed

    def split(self, count: int) -> Iterator["Batch"]:
        """The batch in at most `count` parts, cut between tokens or whole contexts; none is without a usable token."""
        rows = len(self.x)
        size = -(-rows // count)
        for start in range(0, rows, size):
            part = self._take(slice(start, start + size))
            if count == 1 or part.tokens:
                yield part

    def _take(self, rows: slice) -> "Batch":
        if rows.stop >= len(self.x) and rows.start == 0:
            return self
        x = self.x[rows]
        return Batch(
            x,
            x if self.target is self.x else self.target[rows],
            None if self.usable is None else self.usable[rows],
            None if self.ids is None else self.ids[rows],
        )


def move_to_device(batches: Iterable[Batch], device: str) -> Iterator[Batch]:
    """The batches on a device. A GPU copies each from pinned memory on a stream of its own while it still computes the
    step before, and nothing here waits for that step."""
    if torch.device(device).type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copying, computing = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def move(part: Tensor) -> Tensor:
        there = part.pin_memory().to(device, non_blocking=True)
        there.record_stream(computing)
        return there

    for batch in batches:
        with torch.cuda.stream(copying):
            there = batch.change_each(move)
        computing.wait_stream(copying)
        yield there
