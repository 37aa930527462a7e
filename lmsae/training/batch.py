"""What a step is given."""

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
        """How many tokens count."""
        return self.x.shape[0] if self.usable is None else int(self.usable.sum())

    def to(self, device: str) -> "Batch":
        """The batch on a device."""
        return self.each(lambda part: part.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor changed; as many tokens count as before, which need not be counted again."""
        x = change(self.x)
        changed = Batch(
            x,
            x if self.target is self.x else change(self.target),
            None if self.usable is None else change(self.usable),
            None if self.ids is None else change(self.ids),
        )
        changed.__dict__["tokens"] = self.tokens
        return changed

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in at most `count` parts, cut between tokens or whole contexts; none is without a usable token."""
        rows = len(self.x)
        size = -(-rows // count)
        for start in range(0, rows, size):
            part = self._between(slice(start, start + size))
            if count == 1 or part.tokens:
                yield part

    def _between(self, rows: slice) -> "Batch":
        if rows.stop >= len(self.x) and rows.start == 0:
            return self
        x = self.x[rows]
        return Batch(
            x,
            x if self.target is self.x else self.target[rows],
            None if self.usable is None else self.usable[rows],
            None if self.ids is None else self.ids[rows],
        )


def fed(batches: Iterable[Batch], device: str) -> Iterator[Batch]:
    """The batches on a device. A GPU takes each in on a stream of its own, from pinned memory, while it still computes
    the step before: nothing here waits for that."""
    if torch.device(device).type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copying, computing = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def moved(part: Tensor) -> Tensor:
        there = part.pin_memory().to(device, non_blocking=True)
        there.record_stream(computing)
        return there

    for batch in batches:
        with torch.cuda.stream(copying):
            there = batch.each(moved)
        computing.wait_stream(copying)
        yield there
