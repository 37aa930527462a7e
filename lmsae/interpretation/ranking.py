"""Rankings of what latents write: the tokens whose logits they raise and lower most, and latents that write alike."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.cpu.tallies import NOBODY

PRODUCTS_AT_ONCE = 1 << 24
"""Products of directions in memory at a time: 64 MiB."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The numbers of those that stand first for each latent, (latents, most), and their values. Behind the last stands
    NOBODY."""

    numbers: np.ndarray
    values: np.ndarray


@torch.inference_mode()
def rank_logits(
    directions: Float[Tensor, "latents d"], rows: Float[Tensor, "tokens d"], most: int
) -> tuple[Ranked, Ranked]:
    """The tokens whose logits, which read along these rows, the directions raise most, and lower most."""
    raised, lowered = [], []
    for some in directions.split(max(1, PRODUCTS_AT_ONCE // len(rows))):
        logits = some @ rows.T
        raised.append(_first(logits, most))
        lowered.append(_first(-logits, most))
    up, down = _join(raised), _join(lowered)
    return up, Ranked(down.numbers, -down.values)


@torch.inference_mode()
def rank_neighbors(rows: Float[Tensor, "latents d"], most: int) -> Ranked:
    """The latents with the most similar rows, by their cosine; none of a row of zeros, nor that row for others."""
    norms = rows.norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, rows / norms, 0.0)
    zero = norms.squeeze(1) == 0
    found = []
    for first in range(0, len(rows), step := max(1, PRODUCTS_AT_ONCE // len(rows))):
        cosines = unit[first : first + step] @ unit.T
        cosines[:, zero] = -torch.inf
        here = torch.arange(len(cosines), device=rows.device)
        cosines[here, first + here] = -torch.inf
        cosines[zero[first : first + step]] = -torch.inf
        found.append(_first(cosines, most))
    return _join(found)


def _first(values: Tensor, most: int) -> Ranked:
    """The columns with the largest values of each row; of equal ones the first stands first."""
    most = min(most, values.shape[1])
    if most and cpu_kernels.can_choose(values):
        columns, found = cpu_kernels.find_largest_of_rows(values, most)
    else:
        found, columns = values.topk(most, dim=1)
    columns, order = columns.sort(dim=1)
    found, order = found.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order).where(found > -torch.inf, NOBODY)
    return Ranked(columns.cpu().numpy(), found.float().cpu().numpy())


def _join(parts: list[Ranked]) -> Ranked:
    return Ranked(np.concatenate([part.numbers for part in parts]), np.concatenate([part.values for part in parts]))
