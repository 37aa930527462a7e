"""GroupMax: latents in k groups of neighbors, and of each group the largest of ReLU(pre) alone."""

from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from lmsae.errors import ShapeError
from lmsae.sparsity.config import GroupMaxConfig
from lmsae.sparsity.selection import LearnsThreshold, SelectsByToken, largest_of_each


@final
class GroupMax(LearnsThreshold, SelectsByToken):
    """In each layer of a cross-layer transcoder there are k groups."""

    def __init__(self, config: GroupMaxConfig, latents: int, groups: int) -> None:
        super().__init__(config, latents, groups)
        self._require_equal_groups(config.k)

    def places(self, pre: Float[Tensor, "*batch latents"], k: int) -> Int[Tensor, "*batch kept"]:
        """Raises ShapeError where latents cannot stand in k equal groups."""
        self._require_equal_groups(k)
        return largest_of_each(pre, 1, self.groups * k)

    def _require_equal_groups(self, k: int) -> None:
        if self.width % k:
            raise ShapeError(f"groupmax needs k equal groups, but k = {k} does not divide {self.width} latents")
