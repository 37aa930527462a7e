"""The soft-frozen decoder: rows that learn, but never far from the directions in which they started.

A control of arXiv 2602.14111 (Korznikov et al. 2026, figure 1): decoder weights keep a cosine of at least 0.8 to their
initial values throughout training.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lmsae.geometry.geometry import Geometry


class SoftFrozenRows:
    """The directions in which a geometry's decoder rows started, and the least cosine to them; no limit if None."""

    def __init__(self, geometry: Geometry, min_cosine: float | None) -> None:
        """`geometry` is as it starts."""
        self._min_cosine = min_cosine
        limited = min_cosine is not None
        self._starts = [normalize(rows.detach(), dim=1) for rows in geometry.rows()] if limited else []

    @torch.no_grad()
    def bring_back(self, geometry: Geometry) -> None:
        """Turn each row of the geometry that is too far from its start to the nearest direction that is not."""
        if self._min_cosine is None:
            return
        for rows, start in zip(geometry.rows(), self._starts, strict=True):
            rows.copy_(turn_back(rows, start, self._min_cosine))


def turn_back(
    rows: Float[Tensor, "latents width"], start: Float[Tensor, "latents width"], min_cosine: float
) -> Float[Tensor, "latents width"]:
    """Rows whose cosine to their start, a unit vector, is `min_cosine` or more: those that are so, to the bit, and the
    others turned to the nearest direction.

    A row w beyond the angle theta = arccos(min_cosine) from its start s becomes
    |w| (cos(theta) s + sin(theta) p / |p|), with p = w - (w s) s. Its norm stays, where the nearest point would have a
    smaller one, and in the end 0, from which a latent does not come back. A row that points the very opposite way goes
    back to its start, and one that started at 0 is free.
    """
    norms = rows.norm(dim=1, keepdim=True)
    along = (rows * start).sum(1, keepdim=True)
    across = normalize(rows - along * start, dim=1)
    on_edge = min_cosine * start + (1 - min_cosine**2) ** 0.5 * across
    turned = norms * torch.where(across.any(1, keepdim=True), on_edge, start)
    is_near = (along >= min_cosine * norms) | ~start.any(1, keepdim=True)
    return torch.where(is_near, rows, turned)
