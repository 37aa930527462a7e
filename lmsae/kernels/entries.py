"""Few entries of a large matrix (tokens, latents): which they are, and the products that touch nothing else.

A dictionary with L0 = 32 of 8,192 latents decodes with 0.4 % of its rows. `products` and `combined` are the two halves
of that: entries out of two dense factors, and dense rows out of entries; the gradient of each is made of both. They are
tested against dense float64 products.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding_bag

from lmsae.kernels import cpu as cpu_kernels

_dots = torch.ops.aten._embedding_bag_per_sample_weights_backward
"""embedding_bag's gradient by its weights is the scalar product of each entry's token and latent, read where they lie:
a tenth of the time of gathering both."""

FEW, FEW_OF_HALVES = 0.15, 0.07
"""Beyond this share of all entries dense products are as fast on a CPU: float32 ones, and those in half precision."""
FEW_ON_GPU, FEW_OF_HALVES_ON_GPU = 0.03, 0.005
"""The same on a GPU, whose dense products are faster still."""


def few(pre: Float[Tensor, "tokens latents"]) -> int:
    """Up to how many entries are worth being singled out, in the precision of `pre` and where it is."""
    shares = (FEW_ON_GPU, FEW_OF_HALVES_ON_GPU) if pre.is_cuda else (FEW, FEW_OF_HALVES)
    return int(shares[pre.itemsize < 4] * pre.numel())


@cache
def _gpu_kernels() -> ModuleType | None:
    """Triton's kernels, where it is installed: it comes with torch's CUDA builds."""
    try:
        from lmsae.kernels import gpu as gpu_kernels
    except ImportError:
        return None
    return gpu_kernels


class Held(NamedTuple):
    """What a whole matrix (tokens, latents) holds at entries."""

    everywhere: Float[Tensor, "tokens latents"]
    values: Float[Tensor, " entries"]


@dataclass(frozen=True)
class Entries:
    """Which entries, token by token (compressed sparse rows).

    starts (tokens + 1,): where each token's entries begin; latents (entries,): the column of each; `width` columns in
    all. No entry is named twice. `held`: the values there of the matrix that they were chosen from, if kept.
    """

    starts: Int[Tensor, " ends"]
    latents: Int[Tensor, " entries"]
    width: int
    held: Held | None = field(default=None, compare=False, repr=False)

    @classmethod
    def where(cls, chosen: Bool[Tensor, "tokens latents"]) -> "Entries":
        """The entries where a mask is true."""
        return cls.numbered(chosen.flatten().nonzero().squeeze(1), *chosen.shape)

    @classmethod
    def numbered(cls, flat: Int[Tensor, " entries"], tokens: int, width: int) -> "Entries":
        """Entries from their ascending places in the flattened matrix."""
        row = flat.div(width, rounding_mode="floor")
        made = cls.of(row, flat - row * width, tokens, width)
        made.__dict__["places"] = flat
        return made

    @classmethod
    def above(cls, pre: Float[Tensor, "tokens latents"], floor: Float[Tensor, " latents"]) -> "Entries | None":
        """The entries above the floor of their latent, unless they are more than `few`."""
        if cpu_kernels.can_choose(pre):
            starts = cpu_kernels.count_above(pre, floor).cumsum(0)
            starts = torch.cat([starts.new_zeros(1), starts])
            if starts[-1] > few(pre):
                return None
            return cls(starts, cpu_kernels.columns_above(pre, floor, starts), pre.shape[1])
        # Counting them on a GPU takes longer than finding them, and waits for it once more.
        made = cls.where(pre > floor)
        return made if len(made.latents) <= few(pre) else None

    @classmethod
    def of(cls, row: Tensor, latents: Tensor, tokens: int, width: int) -> "Entries":
        """Entries from their tokens, in ascending order, and latents."""
        made = cls(_starts(row, tokens), latents, width)
        made.__dict__["row"] = row
        return made

    @classmethod
    def even(cls, latents: Int[Tensor, "tokens k"], width: int, held: Held | None = None) -> "Entries":
        """As many entries of each token."""
        tokens, k = latents.shape
        return cls(torch.arange(0, tokens * k + 1, k, device=latents.device), latents.flatten(), width, held)

    @classmethod
    def sorted(cls, row: Tensor, latents: Tensor, tokens: int, width: int) -> "tuple[Entries, Tensor]":
        """Entries from their tokens, in any order, and latents; and which of those given stands at each place."""
        if cpu_kernels.can_sort(row):
            starts, latents, order = cpu_kernels.sorted_by_column(row, tokens, latents)
            return cls(starts, latents, width), order
        ordered, order = row.sort(stable=True)
        return cls.of(ordered, latents[order], tokens, width), order

    @property
    def tokens(self) -> int:
        """How many tokens there are, with entries or without."""
        return len(self.starts) - 1

    @cached_property
    def row(self) -> Int[Tensor, " entries"]:
        """The token of each entry."""
        numbers = torch.arange(self.tokens, device=self.latents.device)
        return numbers.repeat_interleave(self.starts.diff(), output_size=len(self.latents))

    @cached_property
    def places(self) -> Int[Tensor, " entries"]:
        """Where each entry stands in the flattened matrix."""
        return self.row * self.width + self.latents

    @cached_property
    def by_latent(self) -> "tuple[Entries, Tensor]":
        """The same entries latent by latent (the transposed matrix), and which entry stands at each place there."""
        return Entries.sorted(self.latents, self.row, self.width, self.tokens)

    def kept(self, places: Int[Tensor, " kept"], held: Held | None = None) -> "Entries":
        """Those of the entries at these places, which ascend."""
        return Entries(torch.searchsorted(places, self.starts), self.latents[places], self.width, held)

    def latents_with(self, codes: Float[Tensor, " entries"]) -> Bool[Tensor, " latents"]:
        """Which latents have a code other than 0."""
        if cpu_kernels.can_sum(codes):
            return cpu_kernels.columns_with(codes, self.latents, self.width)
        beyond = self.latents.where(codes != 0, self.width)
        return codes.new_zeros(self.width + 1).index_fill(0, beyond, 1)[:-1] != 0

    def of_all(self, everywhere: Float[Tensor, "tokens latents"]) -> Float[Tensor, " entries"]:
        """What a whole matrix holds at the entries, without a gradient."""
        if self.held and self.held.everywhere is everywhere:
            return self.held.values
        if cpu_kernels.can_choose(everywhere):
            return cpu_kernels.at(everywhere, self.starts, self.latents)
        return everywhere.detach().flatten().index_select(0, self.places)

    def dense(self, values: Float[Tensor, " entries"]) -> Float[Tensor, "tokens latents"]:
        """The whole matrix with these values, and 0 elsewhere."""
        return values.new_zeros(self.tokens, self.width).index_put((self.row, self.latents), values)


def products(
    x: Float[Tensor, "tokens d"],
    weights: Float[Tensor, "latents d"],
    entries: Entries,
    bias: Float[Tensor, " latents"] | None = None,
    known: Float[Tensor, " entries"] | None = None,
) -> Float[Tensor, " entries"]:
    """x @ weights.T + bias at the entries alone; differentiable in all three. Values that are `known` already are not
    computed."""
    return _Products.apply(x, weights, bias, entries, known)  # pyright: ignore[reportReturnType]


def combined(
    values: Float[Tensor, " entries"], weights: Float[Tensor, "latents d"], entries: Entries
) -> Float[Tensor, "tokens d"]:
    """V @ weights, where V holds `values` at the entries and 0 elsewhere; differentiable in both."""
    return _Combined.apply(values, weights, entries)  # pyright: ignore[reportReturnType]


def spread(per_latent: Float[Tensor, " latents"], entries: Entries) -> Float[Tensor, " entries"]:
    """A number of each latent, at its entries."""
    return per_latent.index_select(0, entries.latents)


class _Products(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, bias: Tensor | None, entries: Entries, known: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.entries = entries
        if known is not None:
            return known
        dots = _dot(x, weights, entries)
        return dots if bias is None else dots + spread(bias, entries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (grad,), (x, weights), entries = grads, ctx.saved_tensors, ctx.entries
        needs_x, needs_weights, needs_bias, *_ = ctx.needs_input_grad
        to_x = _sum(grad, weights, entries) if needs_x else None
        to_weights = _sum_by_latent(grad, x, entries) if needs_weights else None
        to_bias = grad.new_zeros(entries.width).index_add(0, entries.latents, grad) if needs_bias else None
        return to_x, to_weights, to_bias, None, None


class _Combined(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(values, weights)
        ctx.entries = entries
        return _sum(values, weights, entries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (values, weights), entries = grads, ctx.saved_tensors, ctx.entries
        grad = grad.contiguous()
        to_values = _dot(grad, weights, entries) if ctx.needs_input_grad[0] else None
        to_weights = _sum_by_latent(values, grad, entries) if ctx.needs_input_grad[1] else None
        return to_values, to_weights, None


def _dot(x: Tensor, weights: Tensor, entries: Entries) -> Tensor:
    """<x of its token, weights of its latent> for each entry."""
    if cpu_kernels.can_sum(x):
        return cpu_kernels.entry_dots(entries.starts, entries.latents, x, weights)
    if (kernels := _gpu_kernels_for(x)) is not None:
        return kernels.entry_dots(entries.row, entries.latents, x.contiguous(), weights.contiguous())
    return _dots(x, weights, entries.latents, entries.starts[:-1], entries.row, 0)


def _sum(values: Tensor, weights: Tensor, entries: Entries) -> Tensor:
    """For each token the sum of its entries' values times the weights of their latents."""
    if cpu_kernels.can_sum(weights):
        return cpu_kernels.bag_sums(entries.starts, entries.latents, values, weights)
    if (kernels := _gpu_kernels_for(weights)) is not None:
        return kernels.bag_sums(entries.starts, entries.latents, values.contiguous(), weights.contiguous())
    return embedding_bag(
        entries.latents, weights, entries.starts, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def _sum_by_latent(values: Tensor, x: Tensor, entries: Entries) -> Tensor:
    """For each latent the sum of its entries' values times x of their tokens."""
    transposed, order = entries.by_latent
    if cpu_kernels.can_sum(x):
        return cpu_kernels.bag_sums(transposed.starts, transposed.latents, values, x, order)
    return _sum(values[order], x, transposed)


def _gpu_kernels_for(x: Tensor) -> ModuleType | None:
    return _gpu_kernels() if x.is_cuda and x.dtype == torch.float32 else None


def _starts(row: Tensor, rows: int) -> Tensor:
    return torch.searchsorted(row, torch.arange(rows + 1, device=row.device))
