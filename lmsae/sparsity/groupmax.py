"""GroupMax: latents in k groups of neighbors, and of each group the largest of ReLU(pre) alone."""

from typing import final

from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.errors import ShapeError
from lmsae.kernels.entries import Entries
from lmsae.sparsity.config import GroupMaxConfig
from lmsae.sparsity.selection import LearnsThreshold, choose_largest, keep_chosen


@final
class GroupMax(LearnsThreshold):
    """In each layer of a cross-layer transcoder there are k groups. Another k would be other groups: it keeps its own.

    Raises ShapeError where latents cannot stand in k equal groups.
    """

    def __init__(self, config: GroupMaxConfig, latents: int, groups: int) -> None:
        super().__init__(config, latents, groups)
        if self.width % config.k:
            raise ShapeError(f"groupmax needs k equal groups, but k = {config.k} does not divide {self.width} latents")

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        return keep_chosen(pre, self._choose_maxima(pre.detach()), signed=False)

    def select_entries(self, pre: Float[Tensor, "tokens latents"], k: int) -> Entries:
        assert k == self.k, "groupmax has one k"
        return Entries.from_latents(self._choose_maxima(pre), pre.shape[-1])

    def _choose_maxima(self, pre: Float[Tensor, "*batch latents"]) -> Int[Tensor, "*batch kept"]:
        return choose_largest(pre, 1, self.groups * self.k)
