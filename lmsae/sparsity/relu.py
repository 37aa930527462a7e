"""ReLU: codes = max(pre, 0)."""

from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.kernels.entries import Entries
from lmsae.sparsity.config import ReLUConfig
from lmsae.sparsity.sparsity import EntrywiseSparsity


@final
class ReLU(EntrywiseSparsity):
    """It has neither parameters nor statistics."""

    each_alone: ClassVar[bool] = True

    def __init__(self, config: ReLUConfig, latents: int, groups: int) -> None:
        super().__init__()
        del config, latents, groups

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        return pre.relu()

    def activate_latents(
        self, pre: Float[Tensor, "*batch chosen"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        return pre.relu()

    def choose_entries(self, pre: Float[Tensor, "tokens latents"]) -> Entries | None:
        return Entries.find_above(pre, pre.new_zeros(pre.shape[1], dtype=torch.float32))

    def activate_at(
        self, pre: Float[Tensor, " entries"], latents: Int[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        return pre.relu()
