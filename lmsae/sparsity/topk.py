"""TopK and BatchTopK: the k largest of ReLU(pre) a token, or k*B over a batch, in each group of latents."""

from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.entries import Entries, KnownValues
from lmsae.sparsity.selection import LearnsThreshold, SelectsByToken, choose_largest

SAMPLE = 65_536
FEW = 4 * SAMPLE
"""Of so few values torch chooses the largest at once."""
LARGE_ON_GPU = 1 << 27
"""With so many values or more a GPU is faster if it finds candidates first, though it must wait for their number."""


@final
class TopK(LearnsThreshold, SelectsByToken):
    """The k largest of each token. It does not use its threshold, which is there for conversion to jumprelu."""

    def choose_latents(self, pre: Float[Tensor, "*batch latents"], k: int) -> Int[Tensor, "*batch kept"]:
        return choose_largest(pre, k, self.groups)

    def select_entries(self, pre: Float[Tensor, "tokens latents"], k: int) -> Entries:
        if self.groups > 1 or not cpu_kernels.can_choose(pre):
            return super().select_entries(pre, k)
        latents, values = cpu_kernels.find_largest_of_rows(pre, k)
        return Entries.from_latents(latents, pre.shape[1], KnownValues(pre, values.flatten()))


@final
class BatchTopK(LearnsThreshold):
    """The k*B largest of a batch of B tokens; at inference, those above the learned threshold."""

    each_alone: ClassVar[bool] = True

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        if self.training:
            return self.select(pre, self.k)
        return pre * (pre > self.threshold)

    def activate_latents(
        self, pre: Float[Tensor, "*batch chosen"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        return pre * (pre > self.threshold[latents])

    def select(self, pre: Float[Tensor, "*batch latents"], k: int) -> Float[Tensor, "*batch latents"]:
        """The codes with another k (TakesAnyK)."""
        positive = pre.relu()
        chosen = self._choose_places(positive.detach(), k)
        return torch.zeros_like(positive).flatten().scatter(0, chosen, positive.flatten()[chosen]).view_as(pre)

    def select_entries(self, pre: Float[Tensor, "tokens latents"], k: int) -> Entries:
        count = k * len(pre)
        candidates = find_candidates(pre, count) if self.groups == 1 and cpu_kernels.can_choose(pre) else None
        if candidates is None:
            return Entries.from_flat(self._choose_places(pre, k).sort().values, *pre.shape)
        values = candidates.gather(pre)
        places = cpu_kernels.find_largest(values, count)
        return candidates.select(places, KnownValues(pre, values[places]))

    def _choose_places(self, pre: Float[Tensor, "*batch latents"], k: int) -> Int[Tensor, " kept"]:
        """The entries that a batch keeps, as indices into the flattened (tokens, latents), in no particular order."""
        parts = pre.reshape(-1, self.groups, self.width)
        count = min(k, self.width) * len(parts)
        return torch.cat([self._to_place(find_largest(parts[:, g].flatten(), count), g) for g in range(self.groups)])

    def _to_place(self, indices: Tensor, group: int) -> Tensor:
        """Indices into a group's flattened (tokens, width) as indices into the flattened (tokens, latents)."""
        return indices + (indices // self.width * (self.groups - 1) + group) * self.width


def find_candidates(pre: Float[Tensor, "tokens latents"], count: int) -> Entries | None:
    """Entries among which the `count` largest are, and not many others; None where a sample does not tell."""
    floor = estimate_floor(pre.flatten(), count)
    entries = None if floor is None else Entries.find_above(pre, floor.float().expand(pre.shape[1]))
    return entries if entries and len(entries.latents) >= count else None


def find_largest(values: Float[Tensor, " n"], count: int) -> Tensor:
    """Indices of the `count` largest of `values`, exactly, in no particular order.

    A selection among tens of millions of values is slow. Where it can, it looks only at those above a likely floor.
    """
    if (floor := estimate_floor(values, count)) is not None:
        candidates = (values > floor).nonzero().squeeze(1)
        if candidates.numel() >= count:
            return candidates[values[candidates].topk(count, sorted=False).indices]
    return values.topk(count, sorted=False).indices


def estimate_floor(values: Float[Tensor, " n"], count: int) -> Tensor | None:
    """A value a little below the `count` largest, most likely, as a sample tells; None where none is needed."""
    if values.numel() <= (LARGE_ON_GPU if values.is_cuda else FEW):
        return None
    stride = values.numel() // SAMPLE | 1  # odd: latents are mostly even in number, and the sample must meet all
    sample = values[::stride]
    rank = min(int(1.2 * count / stride) + 64, sample.numel())
    return sample.topk(rank, sorted=True).values[-1]
