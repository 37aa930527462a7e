"""TopK and BatchTopK over the latents of all processes: exactly the codes that one process would keep.

Each process sends k + 1 numbers a token, and not what it has of (tokens, latents). See choosing_across.py.
"""

from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.entries import Entries, KnownValues
from lmsae.sparsity.config import SelectsK
from lmsae.sparsity.selection import LearnsThreshold
from lmsae.sparsity.topk import FEW, find_candidates, find_largest
from lmsae.training.sharded.choosing_across import Found, choose_across
from lmsae.training.sharded.processes import Processes


class ShardedSelection(LearnsThreshold):
    """Keeps k codes among the latents of all processes. `pre`, entries and codes are of this process's own."""

    def __init__(self, config: SelectsK, latents: int, processes: Processes) -> None:
        """`latents` are those of all processes."""
        self._own = processes.latents(latents)
        super().__init__(config, self._own.stop - self._own.start, 1)
        self.k = min(config.k, latents)
        self._latents, self._processes = latents, processes

    @abstractmethod
    def select_entries(self, pre: Float[Tensor, "tokens latents"], k: int) -> Entries: ...

    def choose_entries(self, pre: Float[Tensor, "tokens latents"], k: int | None = None) -> Entries:
        return self.select_entries(pre, self.k if k is None else k)

    def forward(
        self, pre: Float[Tensor, "tokens latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "tokens latents"]:
        return self.select(pre, self.k)

    def select(self, pre: Float[Tensor, "tokens latents"], k: int) -> Float[Tensor, "tokens latents"]:
        """The codes with another k (TakesAnyK)."""
        entries = self.select_entries(pre.detach(), k)
        return entries.to_dense(pre[entries.token_index, entries.latents].relu())

    @torch.no_grad()
    def observe(self, codes: Tensor, latents: Int[Tensor, " entries"] | None = None) -> None:
        """The smallest code of all processes stands for theirs."""
        del latents
        nothing = codes.new_full((1,), torch.inf)
        smallest = torch.cat([torch.where(codes > 0, codes, torch.inf).flatten(), nothing]).amin()
        super().observe(self._processes.least(smallest).view(1))


@final
class ShardedTopK(ShardedSelection):
    """The k largest of each token."""

    def select_entries(self, pre: Float[Tensor, "tokens latents"], k: int) -> Entries:
        def order(columns: Tensor) -> Tensor:
            latents = columns + self._own.start
            if not cpu_kernels.can_choose(pre):
                return latents  # torch does not say which of equal values it takes
            return cpu_kernels.order_of_equals(latents, self._latents, min(k, self._latents))

        latents, values, chosen = choose_across(self._processes, pre, min(k, self._latents), order)
        starts = torch.nn.functional.pad(chosen.sum(1).cumsum(0), (1, 0))
        return Entries(starts, latents[chosen], pre.shape[1], KnownValues(pre, values[chosen]))


@final
class ShardedBatchTopK(ShardedSelection):
    """The k*B largest of a batch of B tokens."""

    def select_entries(self, pre: Float[Tensor, "tokens latents"], k: int) -> Entries:
        tokens, width = pre.shape
        count = min(k, self._latents) * tokens
        if tokens * self._latents <= FEW and not pre.is_cuda:
            return self._select_among_few(pre, count)

        def find(row: Tensor, count: int) -> Found:
            candidates = find_candidates(pre, count) if cpu_kernels.can_choose(pre) else None
            if candidates is None:
                places = find_largest(row[0], count)
                return places[None], row[:, places]
            values = candidates.gather(pre)
            largest = cpu_kernels.find_largest(values, count)
            return candidates.flat_index[None, largest], values[None, largest]

        def order(places: Tensor) -> Tensor:
            token = places.div(width, rounding_mode="floor")
            return token * self._latents + self._own.start + (places - token * width)

        places, values, chosen = choose_across(self._processes, pre.reshape(1, -1), count, order, find)
        places, ascending = places[chosen].sort()
        entries = Entries.from_flat(places, tokens, width)
        return Entries(entries.starts, entries.latents, width, KnownValues(pre, values[chosen][ascending]))

    def _select_among_few(self, pre: Float[Tensor, "tokens latents"], count: int) -> Entries:
        """As `select_entries`, where torch chooses in one process, and does not say which of equal values it takes: all
        values are sent, and each process chooses among them as one would."""
        widest = -(-self._latents // self._processes.count)
        filled = torch.nn.functional.pad(pre, (0, widest - pre.shape[1]), value=-torch.inf)
        stretches = [self._processes.latents(self._latents, rank) for rank in range(self._processes.count)]
        parts = zip(self._processes.gather(filled), stretches, strict=True)
        everyone = torch.cat([part[:, : own.stop - own.start] for part, own in parts], dim=1).flatten()
        chosen = torch.zeros_like(everyone, dtype=torch.bool)
        chosen[find_largest(everyone, count)] = True
        return Entries.from_mask(chosen.view(len(pre), -1)[:, self._own])
