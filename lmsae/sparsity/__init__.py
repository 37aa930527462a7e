"""Activation functions: how pre-activations become sparse codes."""

from typing import TYPE_CHECKING

from lmsae.sparsity.config import BatchTopKConfig, JumpReLUConfig, ReLUConfig, TopKConfig

if TYPE_CHECKING:
    from lmsae.sparsity.sparsity import Sparsity


def build(config: ReLUConfig | TopKConfig | BatchTopKConfig | JumpReLUConfig, d_sae: int) -> "Sparsity":
    """The module of an activation function's config."""
    from lmsae.sparsity.jumprelu import JumpReLU
    from lmsae.sparsity.relu import ReLU
    from lmsae.sparsity.topk import BatchTopK, TopK

    modules = {"relu": ReLU, "topk": TopK, "batchtopk": BatchTopK, "jumprelu": JumpReLU}
    return modules[config.kind](config, d_sae)
