"""GroupMax: latents in k groups of neighbours, and of each group the largest of ReLU(pre) alone."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmsae.errors import ShapeError
from lmsae.sparsity.config import GroupMaxConfig
from lmsae.sparsity.selection import LearnsThreshold


@final
class GroupMax(LearnsThreshold):
    """In each layer of a cross-layer transcoder there are k groups."""

    def __init__(self, config: GroupMaxConfig, latents: int, groups: int) -> None:
        super().__init__(config, latents, groups)
        self._require_equal_groups(config.k)

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        return self.at(pre, self.k_now)

    def at(self, pre: Float[Tensor, "*batch latents"], k: int) -> Float[Tensor, "*batch latents"]:
        """Raises ShapeError where latents cannot stand in k equal groups."""
        self._require_equal_groups(k)
        parts = pre.relu().unflatten(-1, (self.groups * k, -1))
        values, indices = parts.max(-1, keepdim=True)
        return torch.zeros_like(parts).scatter(-1, indices, values).flatten(-2)

    def _require_equal_groups(self, k: int) -> None:
        if self.width % k:
            raise ShapeError(f"groupmax needs k equal groups, but k = {k} does not divide {self.width} latents")
