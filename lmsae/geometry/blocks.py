"""Chosen latents, told apart by the block of parameters that holds their weights."""

from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.geometry.geometry import Chosen


def split_by_block(
    codes: Float[Tensor, "*batch chosen"], chosen: Chosen, sizes: list[int]
) -> list[tuple[Float[Tensor, "*batch some"], Chosen]]:
    """The codes of each block, and the rows of the block that they belong to.

    Latents stand in blocks of `sizes`, one after the other; `chosen` counts through all of them.
    """
    ends = list(accumulate(sizes))
    if isinstance(chosen, slice):
        start, stop, step = chosen.indices(ends[-1])
        if step == 1:
            rows = [
                slice(min(max(start - end + size, 0), size), min(max(stop - end + size, 0), size))
                for size, end in zip(sizes, ends, strict=True)
            ]
            # One split, not a slice a block: its gradient is one concatenation, not a padded sum.
            return list(zip(codes.split([max(r.stop - r.start, 0) for r in rows], dim=-1), rows, strict=True))
        chosen = torch.arange(ends[-1], device=codes.device)[chosen]
    block = (chosen[:, None] >= torch.tensor(ends, device=chosen.device)).sum(1)
    order = block.argsort(stable=True)
    counts = block.bincount(minlength=len(sizes)).tolist()
    parts = codes[..., order].split(counts, dim=-1)
    rows = chosen[order].split(counts)
    return [(part, row - (end - size)) for part, row, size, end in zip(parts, rows, sizes, ends, strict=True)]
