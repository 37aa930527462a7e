"""What a step is given."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
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

    @property
    def tokens(self) -> int:
        """How many tokens count."""
        return self.x.shape[0] if self.usable is None else int(self.usable.sum())

    def to(self, device: str) -> "Batch":
        """The batch on a device."""
        x = self.x.to(device)
        return Batch(
            x,
            x if self.target is self.x else self.target.to(device),
            None if self.usable is None else self.usable.to(device),
            None if self.ids is None else self.ids.to(device),
        )

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
