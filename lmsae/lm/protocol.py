"""What the rest of lmsae asks of a language model; both backends satisfy it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

Edit = Callable[[Tensor], Tensor]
"""Activations (batch, context, width) to the ones that take their place."""


class LanguageModel(Protocol):
    """A causal language model whose activations can be read and replaced at named hook points."""

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says, defaults filled in."""
        ...

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Its frozen weights, by their names in transformers; none where transformers does not know the model."""
        ...

    @property
    def d_vocab(self) -> int:
        """Width of the logits."""
        ...

    @property
    def max_context(self) -> int | None:
        """The most tokens that the model can read at once; None if there is no bound."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are; tokens are moved there."""
        ...

    def hook_points(self) -> dict[str, int]:
        """Every hook point that this backend reaches, in the order of a forward pass, with its width."""
        ...

    def read(
        self, tokens: Int[Tensor, "batch context"], hook_points: Sequence[str]
    ) -> dict[str, Float[Tensor, "batch context _"]]:
        """Activations at all the hook points, from one forward pass that ends at the last of them.

        Raises HookPointError for one that the model has not.
        """
        ...

    def logits(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch context d_vocab"]:
        """Logits of the token after each token."""
        ...

    def logits_with(
        self, tokens: Int[Tensor, "batch context"], edits: Mapping[str, Edit]
    ) -> Float[Tensor, "batch context d_vocab"]:
        """Logits of the forward pass in which the activations at each hook point are replaced by its edit of them.

        An edit of the residual stream replaces all of it: later layers see nothing of what was there before. An edit's
        result is cast to the model's dtype. Gradients flow back to it, and to nothing else: weights are frozen.

        Raises HookPointError for a hook point that the model has not, and ShapeError if an edit changes the shape.
        """
        ...
