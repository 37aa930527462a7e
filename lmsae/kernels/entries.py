"""The few entries of a large matrix (tokens, latents) that are computed, and products that touch no other entry.

A dictionary with L0 = 32 of 8,192 latents decodes with 0.4 % of its decoder rows. There are two such products:
`dot_factors` computes entries from two dense factors, and `combine` computes dense rows from entries. The gradient of
each is made of both. Tests compare them with dense float64 products.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding_bag

from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.autograd import Context

_dots = torch.ops.aten._embedding_bag_per_sample_weights_backward
"""The gradient of embedding_bag by its per-sample weights is the scalar product of each entry's two rows. It reads them
where they lie, in a tenth of the time that gathering both takes."""

SPARSE_SHARE, SPARSE_SHARE_OF_HALVES = 0.15, 0.07
"""The share of all entries beyond which dense products are as fast on a CPU, in float32 and in half precision."""
SPARSE_SHARE_ON_GPU, SPARSE_SHARE_OF_HALVES_ON_GPU = 0.03, 0.005
"""The same shares on a GPU, whose dense products are faster."""


def sparse_limit(pre: Float[Tensor, "tokens latents"]) -> int:
    """The most entries for which sparse products are faster than dense ones, in the precision and device of `pre`."""
    on_gpu, on_cpu = (SPARSE_SHARE_ON_GPU, SPARSE_SHARE_OF_HALVES_ON_GPU), (SPARSE_SHARE, SPARSE_SHARE_OF_HALVES)
    shares = on_gpu if pre.is_cuda else on_cpu
    return int(shares[pre.itemsize < 4] * pre.numel())


@cache
def _gpu_kernels() -> ModuleType | None:
    """Triton's kernels, or None if Triton is not installed. It comes with torch's CUDA builds."""
    try:
        from lmsae.kernels import gpu as gpu_kernels
    except ImportError:
        return None
    return gpu_kernels


class KnownValues(NamedTuple):
    """A whole matrix (tokens, latents), and its values at the entries."""

    matrix: Float[Tensor, "tokens latents"]
    values: Float[Tensor, " entries"]


@dataclass(frozen=True)
class Entries:
    """Some entries of a matrix (tokens, latents), token by token (compressed sparse rows).

    The entries of token t are those from starts[t] to starts[t + 1]. `latents` holds the latent of each entry, and
    `width` is the number of all latents. No entry occurs twice. `known` are the values of the matrix that the entries
    were chosen from, if somebody kept them.
    """

    starts: Int[Tensor, " ends"]
    latents: Int[Tensor, " entries"]
    width: int
    known: KnownValues | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_mask(cls, chosen: Bool[Tensor, "tokens latents"]) -> "Entries":
        """The entries at which a mask is true."""
        return cls.from_flat(chosen.flatten().nonzero().squeeze(1), *chosen.shape)

    @classmethod
    def from_flat(cls, flat: Int[Tensor, " entries"], tokens: int, width: int) -> "Entries":
        """The entries at these ascending indices of the flattened matrix."""
        token_index = flat.div(width, rounding_mode="floor")
        made = cls.from_sorted(token_index, flat - token_index * width, tokens, width)
        made.__dict__["flat_index"] = flat
        return made

    @classmethod
    def find_above(cls, pre: Float[Tensor, "tokens latents"], floor: Float[Tensor, " latents"]) -> "Entries | None":
        """Find the entries above the floor of their latent. None if they are more than `sparse_limit`."""
        if cpu_kernels.can_choose(pre):
            starts = cpu_kernels.count_above(pre, floor).cumsum(0)
            starts = torch.cat([starts.new_zeros(1), starts])
            if starts[-1] > sparse_limit(pre):
                return None
            return cls(starts, cpu_kernels.find_above(pre, floor, starts), pre.shape[1])
        # A GPU takes longer to count them than to find them, and the CPU would wait for it once more.
        made = cls.from_mask(pre > floor)
        return made if len(made.latents) <= sparse_limit(pre) else None

    @classmethod
    def from_sorted(cls, token_index: Tensor, latents: Tensor, tokens: int, width: int) -> "Entries":
        """The entries with these tokens, in ascending order, and latents."""
        made = cls(_starts(token_index, tokens), latents, width)
        made.__dict__["token_index"] = token_index
        return made

    @classmethod
    def from_latents(cls, latents: Int[Tensor, "tokens k"], width: int, known: KnownValues | None = None) -> "Entries":
        """The entries with these latents, k for each token."""
        tokens, k = latents.shape
        return cls(torch.arange(0, tokens * k + 1, k, device=latents.device), latents.flatten(), width, known)

    @classmethod
    def sort(cls, token_index: Tensor, latents: Tensor, tokens: int, width: int) -> "tuple[Entries, Tensor]":
        """Sort entries by their tokens. Returns them, and the index that each of them had among those given."""
        if cpu_kernels.can_sort(token_index):
            starts, latents, order = cpu_kernels.sort_by_column(token_index, tokens, latents)
            return cls(starts, latents, width), order
        ordered, order = token_index.sort(stable=True)
        return cls.from_sorted(ordered, latents[order], tokens, width), order

    @property
    def tokens(self) -> int:
        """The number of all tokens, with entries or without."""
        return len(self.starts) - 1

    @cached_property
    def token_index(self) -> Int[Tensor, " entries"]:
        """The index of the token of each entry."""
        numbers = torch.arange(self.tokens, device=self.latents.device)
        return numbers.repeat_interleave(self.starts.diff(), output_size=len(self.latents))

    @cached_property
    def flat_index(self) -> Int[Tensor, " entries"]:
        """The index of each entry in the flattened matrix."""
        return self.token_index * self.width + self.latents

    @cached_property
    def transposed(self) -> "tuple[Entries, Tensor]":
        """The entries of the transposed matrix, latent by latent, and the index that each of them has here."""
        return Entries.sort(self.latents, self.token_index, self.width, self.tokens)

    def select(self, chosen: Int[Tensor, " chosen"], known: KnownValues | None = None) -> "Entries":
        """Select the entries with these indices, which ascend."""
        return Entries(torch.searchsorted(chosen, self.starts), self.latents[chosen], self.width, known)

    def active_latents(self, codes: Float[Tensor, " entries"]) -> Bool[Tensor, " latents"]:
        """The mask of the latents that have a code other than 0."""
        if cpu_kernels.can_sum(codes):
            return cpu_kernels.find_nonzero_columns(codes, self.latents, self.width)
        beyond = self.latents.where(codes != 0, self.width)
        return codes.new_zeros(self.width + 1).index_fill(0, beyond, 1)[:-1] != 0

    def gather(self, matrix: Float[Tensor, "tokens latents"]) -> Float[Tensor, " entries"]:
        """Gather the values of a whole matrix at the entries, without a gradient."""
        if self.known and self.known.matrix is matrix:
            return self.known.values
        if cpu_kernels.can_choose(matrix):
            return cpu_kernels.gather(matrix, self.starts, self.latents)
        return matrix.detach().flatten().index_select(0, self.flat_index)

    def to_dense(self, values: Float[Tensor, " entries"]) -> Float[Tensor, "tokens latents"]:
        """The whole matrix with these values at the entries, and 0 elsewhere."""
        return values.new_zeros(self.tokens, self.width).index_put((self.token_index, self.latents), values)


def dot_factors(
    x: Float[Tensor, "tokens d"],
    weights: Float[Tensor, "latents d"],
    entries: Entries,
    bias: Float[Tensor, " latents"] | None = None,
    known: Float[Tensor, " entries"] | None = None,
) -> Float[Tensor, " entries"]:
    """x @ weights.T + bias at the entries alone, differentiable in all three. `known` values are not computed again."""
    return _DotFactors.apply(x, weights, bias, entries, known)  # pyright: ignore[reportReturnType]


def combine(
    values: Float[Tensor, " entries"], weights: Float[Tensor, "latents d"], entries: Entries
) -> Float[Tensor, "tokens d"]:
    """V @ weights, where V has `values` at the entries and 0 elsewhere; differentiable in both."""
    return _Combine.apply(values, weights, entries)  # pyright: ignore[reportReturnType]


def spread(per_latent: Float[Tensor, " latents"], entries: Entries) -> Float[Tensor, " entries"]:
    """Spread a number of each latent to the entries of that latent."""
    return per_latent.index_select(0, entries.latents)


class _EntriesContext(Context, Protocol):
    entries: Entries


class _DotFactors(Function):
    @staticmethod
    def forward(
        ctx: _EntriesContext, x: Tensor, weights: Tensor, bias: Tensor | None, entries: Entries, known: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.entries = entries
        if known is not None:
            return known
        dots = _dot_entries(x, weights, entries)
        return dots if bias is None else dots + spread(bias, entries)

    @staticmethod
    def backward(
        ctx: _EntriesContext, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (grad,), (x, weights), entries = grads, ctx.saved_tensors, ctx.entries
        needs_x, needs_weights, needs_bias, *_ = ctx.needs_input_grad
        to_x = _sum_entries(grad, weights, entries) if needs_x else None
        to_weights = _sum_by_latent(grad, x, entries) if needs_weights else None
        to_bias = grad.new_zeros(entries.width).index_add(0, entries.latents, grad) if needs_bias else None
        return to_x, to_weights, to_bias, None, None


class _Combine(Function):
    @staticmethod
    def forward(ctx: _EntriesContext, values: Tensor, weights: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(values, weights)
        ctx.entries = entries
        return _sum_entries(values, weights, entries)

    @staticmethod
    def backward(ctx: _EntriesContext, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (values, weights), entries = grads, ctx.saved_tensors, ctx.entries
        grad = grad.contiguous()
        to_values = _dot_entries(grad, weights, entries) if ctx.needs_input_grad[0] else None
        to_weights = _sum_by_latent(values, grad, entries) if ctx.needs_input_grad[1] else None
        return to_values, to_weights, None


def _dot_entries(x: Tensor, weights: Tensor, entries: Entries) -> Tensor:
    """The scalar product of x of its token and weights of its latent, for each entry."""
    if cpu_kernels.can_sum(x):
        return cpu_kernels.dot_entries(entries.starts, entries.latents, x, weights)
    if (kernels := _gpu_kernels_for(x)) is not None:
        return kernels.dot_entries(entries.token_index, entries.latents, x.contiguous(), weights.contiguous())
    return _dots(x, weights, entries.latents, entries.starts[:-1], entries.token_index, 0)


def _sum_entries(values: Tensor, weights: Tensor, entries: Entries) -> Tensor:
    """The sum of values times weights of their latents, over the entries of each token."""
    if cpu_kernels.can_sum(weights):
        return cpu_kernels.sum_bags(entries.starts, entries.latents, values, weights)
    if (kernels := _gpu_kernels_for(weights)) is not None:
        return kernels.sum_bags(entries.starts, entries.latents, values.contiguous(), weights.contiguous())
    return embedding_bag(
        entries.latents, weights, entries.starts, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def _sum_by_latent(values: Tensor, x: Tensor, entries: Entries) -> Tensor:
    """The sum of values times x of their tokens, over the entries of each latent."""
    transposed, order = entries.transposed
    if cpu_kernels.can_sum(x):
        return cpu_kernels.sum_bags(transposed.starts, transposed.latents, values, x, order)
    return _sum_entries(values[order], x, transposed)


def _gpu_kernels_for(x: Tensor) -> ModuleType | None:
    return _gpu_kernels() if x.is_cuda and x.dtype == torch.float32 else None


def _starts(token_index: Tensor, tokens: int) -> Tensor:
    return torch.searchsorted(token_index, torch.arange(tokens + 1, device=token_index.device))
