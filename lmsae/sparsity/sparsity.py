"""The abstract activation function."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn


class Sparsity(nn.Module, ABC):
    """Pre-activations to codes. Calling it has no side effect; `observe` is the one place where statistics change."""

    signed: ClassVar[bool] = False
    """Codes may be negative."""

    @abstractmethod
    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        """The codes. In `train()` mode they may depend on the whole batch, in `eval()` mode never.

        `geometry` is the one that `pre` comes from; matching pursuit alone asks for it.
        """

    def observe(self, codes: Float[Tensor, "*batch latents"]) -> None:
        """Take a training step's codes into running statistics. The trainer calls it once a step."""
