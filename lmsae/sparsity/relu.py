"""ReLU: codes = max(pre, 0)."""

from jaxtyping import Float
from torch import Tensor

from lmsae.sparsity.config import ReLUConfig
from lmsae.sparsity.sparsity import Sparsity


class ReLU(Sparsity):
    def __init__(self, config: ReLUConfig, d_sae: int) -> None:
        super().__init__()
        del config, d_sae

    def forward(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return pre.relu()
