"""The abstract activation function."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Sparsity(nn.Module, ABC):
    """Pre-activations to codes. Calling it has no side effect; `observe` is the one place where statistics change."""

    @abstractmethod
    def forward(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """The codes. In `train()` mode they may depend on the whole batch, in `eval()` mode never."""

    def observe(self, codes: Float[Tensor, "*batch d_sae"]) -> None:
        """Take a training step's codes into running statistics. The trainer calls it once a step."""
