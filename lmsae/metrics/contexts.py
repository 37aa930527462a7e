"""Standard errors over contexts: how far a metric would move had other contexts of the same text been drawn.

Tokens of a context are no independent draws, contexts nearly are. So a context is the unit. A metric that is a ratio
of two sums over tokens, R = N / D, has the standard error

    sqrt(C / (C - 1) * sum over contexts of (N_c - R D_c)^2) / |D|

where N_c and D_c are the sums over context c and C is the number of contexts with tokens that count: the variance of
the ratio estimator for clusters of unequal size (Cochran, Sampling Techniques, 1977, chapter 6), which is the delta
method. N and D are linear combinations of sums by name. So the products of every two sums of a context, summed over
contexts, are enough for all metrics: what is kept does not grow with the text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

ROUNDING = 1e-12
"""A spread below this share of the squares that it is made of is their rounding in float64, and is 0."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric that is a quotient: the coefficients of the sums, by name, above and below the line."""

    above: Mapping[str, float]
    below: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a batch's tokens: which of them count, and the bins that each is in, 1 or 0. Bin 0 has all."""

    counted: Bool[Tensor, "contexts context_size"]
    members: Float[Tensor, "contexts context_size bins"]

    def whole(self) -> "Places":
        """The same without any bin but the one of all tokens."""
        return Places(self.counted, self.members[..., :1])


class ContextSums:
    """Sums over tokens by name, and the products of those of each context, for every bin of tokens."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._contexts = self._sums = self._products = torch.zeros(())

    def update(self, values: Mapping[str, Shaped[Tensor, " tokens"]], places: Places) -> None:
        """Take in a batch: a value of every name for each token that counts, and the places of these tokens."""
        stacked = torch.stack([values[name].double() for name in self.names], dim=-1)
        dense = stacked.new_zeros(*places.counted.shape, len(self.names))
        dense[places.counted] = stacked
        members = places.members.double().transpose(1, 2)
        by_context = members @ dense  # contexts, bins, names
        has_tokens = (members @ places.counted[..., None].double()).squeeze(-1) > 0
        self._contexts = self._contexts + has_tokens.sum(0).cpu()
        self._sums = self._sums + by_context.sum(0).cpu()
        self._products = self._products + torch.einsum("cbi,cbj->bij", by_context, by_context).cpu()

    def ratio(self, ratio: Ratio, bin: int = 0) -> float:
        """The quotient of the sums in a bin; nan where it divides by nothing."""
        above, below = (float(side @ self._sums[bin]) for side in self._sides(ratio))
        return above / below if below else math.nan

    def product(self, first: str, second: str) -> float:
        """The products of two sums of each context, summed over contexts."""
        return float(self._products[0][self.names.index(first), self.names.index(second)])

    def error(self, ratio: Ratio, bin: int = 0, more: float = 0.0) -> float:
        """The standard error of a ratio in a bin; nan of fewer than two contexts, and where the ratio is. `more` is
        added to the sum of squared residuals."""
        above, below = self._sides(ratio)
        contexts, divisor = int(self._contexts[bin]), float(below @ self._sums[bin])
        if contexts < 2 or not divisor:
            return math.nan
        residual = above - self.ratio(ratio, bin) * below
        products = self._products[bin]
        spread = float(residual @ products @ residual) + more
        if spread < ROUNDING * float(residual.square() @ products.diagonal()):
            return 0.0
        return math.sqrt(contexts / (contexts - 1) * spread) / abs(divisor)

    def of_every_bin(self, ratio: Ratio) -> tuple[list[float], list[float]]:
        """The quotient in each bin but that of all tokens, and its standard error."""
        bins: Sequence[int] = range(1, len(self._sums))
        return [self.ratio(ratio, bin) for bin in bins], [self.error(ratio, bin) for bin in bins]

    def _sides(self, ratio: Ratio) -> tuple[Tensor, Tensor]:
        above, below = (
            torch.tensor([side.get(name, 0.0) for name in self.names], dtype=torch.float64)
            for side in (ratio.above, ratio.below)
        )
        return above, below


def mean_of(name: str, over: str = "tokens") -> Ratio:
    """The mean of what one sum has over what another counts."""
    return Ratio({name: 1.0}, {over: 1.0})
