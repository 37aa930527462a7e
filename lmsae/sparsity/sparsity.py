"""The abstract activation function."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.kernels.entries import Entries


class Sparsity(nn.Module, ABC):
    """Pre-activations to codes. A call has no side effect; `observe` is the one place where statistics change."""

    signed: ClassVar[bool] = False
    """Codes may be negative."""

    each_alone: ClassVar[bool] = False
    """At inference the code of a latent depends on its own `pre` alone, and there is `activate_latents`."""

    @property
    def kept(self) -> int | None:
        """The number of codes of a token that it keeps on average, in all groups together; None without any."""
        return None

    @abstractmethod
    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        """The codes. In `train()` mode they may depend on the whole batch, in `eval()` mode never.

        `geometry` is the one that `pre` comes from; matching pursuit alone asks for it.
        """

    def activate_latents(
        self, pre: Float[Tensor, "*batch chosen"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        """The codes at inference of some latents, from their pre-activations; only of functions that are
        `each_alone`."""
        raise NotImplementedError

    def observe(self, codes: Tensor, latents: Int[Tensor, " entries"] | None = None) -> None:
        """Take a training step's codes into running statistics: (tokens, latents), or (entries,) of these latents. The
        trainer calls it once a step."""


class EntrywiseSparsity(Sparsity):
    """An activation function that can choose the entries which a training step needs, and work at those alone."""

    @abstractmethod
    def choose_entries(self, pre: Float[Tensor, "tokens latents"]) -> Entries | None:
        """The entries outside of which codes are 0, and so is every gradient of a code or a threshold; None where
        there are so many of them that the dense products are faster. The gradient of `pre` is not asked for."""

    @abstractmethod
    def activate_at(
        self, pre: Float[Tensor, " entries"], latents: Int[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        """The codes of entries, from their pre-activations and their latents."""
