"""Bins of tokens: by their position in the context, and by how often their id occurs in training text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RATE_BINS = 8
"""Bins by token frequency. Each holds about the same share of training text."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of one kind: the least and the largest value in each, and the bin of every position, or of every id."""

    kind: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.low)

    def of(self, ids: Int[Tensor, "contexts context_size"]) -> Int[Tensor, "contexts context_size"]:
        """The bin of each token of a batch."""
        numbers = self.numbers.to(ids.device)
        return numbers.expand(ids.shape) if self.kind == POSITION else numbers[ids]


POSITION, TOKEN_RATE = "position", "token_frequency"
"""The kinds of bins, as files name them."""


def position_bins(context_size: int) -> Bins:
    """Positions 0, 1, 2-3, 4-7, 8-15 and so on: most happens at the first ones."""
    numbers = [position.bit_length() for position in range(context_size)]
    lows = [2**number // 2 for number in range(numbers[-1] + 1)]
    highs = [*(low - 1 for low in lows[1:]), context_size - 1]
    return Bins(POSITION, tuple(lows), tuple(highs), torch.tensor(numbers))


def rate_bins(counts: np.ndarray, most: int = RATE_BINS) -> Bins:
    """Bins by token frequency, of how often each id occurs in training text, (d_vocab,) int.

    They are quantiles: the bin of an id is the share of the text that rarer ids have, in `most` equal steps. Ids that
    occur equally often are in one bin, those that never occur in the first. Where one id has more than a step of the
    text, there are fewer bins.
    """
    total = max(1, int(counts.sum()))
    levels, level_of = np.unique(counts, return_inverse=True)
    text_at = np.bincount(level_of, weights=counts)
    rarer = np.concatenate([[0.0], text_at.cumsum()[:-1]])
    numbers = np.minimum((most * rarer / total).astype(int), most - 1)
    _, numbers = np.unique(numbers, return_inverse=True)
    bins = range(int(numbers.max()) + 1)
    low, high = (tuple(float(end(levels[numbers == bin])) / total for bin in bins) for end in (np.min, np.max))
    return Bins(TOKEN_RATE, low, high, torch.from_numpy(numbers[level_of]))


def members_of(
    kinds: Sequence[Bins], ids: Int[Tensor, "contexts context_size"], counted: Bool[Tensor, "contexts context_size"]
) -> Float[Tensor, "contexts context_size bins"]:
    """1 where a token that counts is in a bin, else 0: the bin of all tokens, then those of each kind in turn."""
    columns = [torch.ones_like(ids)[..., None]]
    columns += [torch.nn.functional.one_hot(bins.of(ids), len(bins)) for bins in kinds]
    return torch.cat(columns, dim=-1).double() * counted[..., None]
