"""ReLU: codes = max(pre, 0)."""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from lmsae.sparsity.config import ReLUConfig
from lmsae.sparsity.sparsity import Sparsity


@final
class ReLU(Sparsity):
    """It has neither parameters nor statistics."""

    def __init__(self, config: ReLUConfig, latents: int, groups: int) -> None:
        super().__init__()
        del config, latents, groups

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        return pre.relu()
