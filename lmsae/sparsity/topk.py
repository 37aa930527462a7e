"""TopK and BatchTopK: the k largest of ReLU(pre) a token, or k*B over a batch, in each group of latents."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.entries import Entries, KnownValues
from lmsae.sparsity.selection import LearnsThreshold, SelectsByToken, largest_of_each

SAMPLE = 65_536
LARGE_ON_GPU = 1 << 27
"""From so many values on, a GPU sooner finds candidates, and waits to hear how many, than it selects among all."""


@final
class TopK(LearnsThreshold, SelectsByToken):
    """The k largest of each token. It does not use its threshold, which is there for conversion to jumprelu."""

    def places(self, pre: Float[Tensor, "*batch latents"], k: int) -> Int[Tensor, "*batch kept"]:
        return largest_of_each(pre, k, self.groups)

    def chosen(self, pre: Float[Tensor, "tokens latents"]) -> Entries:
        if self.groups > 1 or not cpu_kernels.can_choose(pre):
            return super().chosen(pre)
        latents, values = cpu_kernels.find_largest_of_rows(pre, self.k_now)
        return Entries.from_latents(latents, pre.shape[1], KnownValues(pre, values.flatten()))


@final
class BatchTopK(LearnsThreshold):
    """The k*B largest of a batch of B tokens; at inference, those above the learned threshold."""

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        if self.training:
            return self.at(pre, self.k_now)
        return pre * (pre > self.threshold)

    def at(self, pre: Float[Tensor, "*batch latents"], k: int) -> Float[Tensor, "*batch latents"]:
        positive = pre.relu()
        chosen = self._chosen(positive.detach(), k)
        return torch.zeros_like(positive).flatten().scatter(0, chosen, positive.flatten()[chosen]).view_as(pre)

    def chosen(self, pre: Float[Tensor, "tokens latents"]) -> Entries:
        candidates = self._candidates(pre) if self.groups == 1 and cpu_kernels.can_choose(pre) else None
        if candidates is None:
            return Entries.from_flat(self._chosen(pre, self.k_now).sort().values, *pre.shape)
        values = candidates.gather(pre)
        places = cpu_kernels.find_largest(values, self.k_now * len(pre))
        return candidates.select(places, KnownValues(pre, values[places]))

    def _candidates(self, pre: Float[Tensor, "tokens latents"]) -> Entries | None:
        """Entries among which the k*B largest are, and not many others; None where a sample does not tell."""
        floor = likely_floor(pre.flatten(), self.k_now * len(pre))
        entries = None if floor is None else Entries.find_above(pre, floor.float().expand(pre.shape[1]))
        return entries if entries and len(entries.latents) >= self.k_now * len(pre) else None

    def _chosen(self, pre: Float[Tensor, "*batch latents"], k: int) -> Int[Tensor, " kept"]:
        """Which entries a batch keeps, as indices into the flattened (tokens, latents), in no particular order."""
        parts = pre.reshape(-1, self.groups, self.width)
        count = min(k, self.width) * len(parts)
        return torch.cat([self._place(largest(parts[:, g].flatten(), count), g) for g in range(self.groups)])

    def _place(self, indices: Tensor, group: int) -> Tensor:
        """Indices into a group's flattened (tokens, width) as indices into the flattened (tokens, latents)."""
        return indices + (indices // self.width * (self.groups - 1) + group) * self.width


def largest(values: Float[Tensor, " n"], count: int) -> Tensor:
    """Indices of the `count` largest of `values`, exactly, in no particular order.

    A full selection over tens of millions of values is slow: where it can, it is made among those above a likely floor.
    """
    if (floor := likely_floor(values, count)) is not None:
        candidates = (values > floor).nonzero().squeeze(1)
        if candidates.numel() >= count:
            return candidates[values[candidates].topk(count, sorted=False).indices]
    return values.topk(count, sorted=False).indices


def likely_floor(values: Float[Tensor, " n"], count: int) -> Tensor | None:
    """A value a little below the `count` largest, most likely, as a sample tells; None where none is needed."""
    if values.numel() <= (LARGE_ON_GPU if values.is_cuda else 4 * SAMPLE):
        return None
    stride = values.numel() // SAMPLE | 1  # odd, to meet all latents: their number is mostly even
    sample = values[::stride]
    rank = min(int(1.2 * count / stride) + 64, sample.numel())
    return sample.topk(rank, sorted=True).values[-1]
