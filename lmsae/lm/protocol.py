"""The protocol of a language model, which the rest of lmsae uses and both backends satisfy."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmsae.config import JsonObject

if TYPE_CHECKING:
    from transformers import Cache

Edit = Callable[[Tensor], Tensor]
"""Activations (batch, context, width) to the ones that take their place."""


class LanguageModel(Protocol):
    """A causal language model whose activations can be read and replaced at named hook points."""

    @property
    def config(self) -> JsonObject:
        """The config.json of the model, with defaults filled in."""
        ...

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The frozen weights by their names in transformers, or none if transformers does not know the model."""
        ...

    @property
    def d_vocab(self) -> int:
        """Width of the logits."""
        ...

    @property
    def max_context(self) -> int | None:
        """The most tokens that the model can read at once, or None without a bound."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the weights; tokens are moved to it."""
        ...

    def hook_points(self) -> dict[str, int]:
        """Every hook point that this backend reaches, in the order of a forward pass, with its width."""
        ...

    def start_cache(self) -> "Cache | None":
        """An empty cache of keys and values, for tokens that are read a few at a time; None if the model has none.

        A pass that is given a cache reads its tokens behind those that the cache holds, and adds them. It is for passes
        of one kind: with the same edits, or up to the same hook point.
        """
        ...

    def read(
        self, tokens: Int[Tensor, "batch context"], hook_points: Sequence[str], cache: "Cache | None" = None
    ) -> dict[str, Float[Tensor, "batch context _"]]:
        """The activations at all the hook points, from one forward pass that ends at the last of them.

        Raises HookPointError for a hook point that the model lacks.
        """
        ...

    def logits(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch context d_vocab"]:
        """The logits of the token after each token."""
        ...

    def logits_with(
        self, tokens: Int[Tensor, "batch context"], edits: Mapping[str, Edit], cache: "Cache | None" = None
    ) -> Float[Tensor, "batch context d_vocab"]:
        """The logits of a forward pass in which an edit replaces the activations at each hook point.

        An edit of the residual stream replaces all of it: later layers see nothing of the former one. The result of an
        edit is cast to the model's dtype. Gradients flow back to that result and to nothing else: weights are frozen.

        Raises HookPointError for a hook point that the model lacks, and ShapeError if an edit changes the shape.
        """
        ...

    def logits_from(
        self,
        tokens: Int[Tensor, "batch context"],
        layer: int,
        residual: Float[Tensor, "batch context d_model"],
        edits: Mapping[str, Edit],
    ) -> Float[Tensor, "batch context d_vocab"]:
        """The logits of a forward pass in which this residual stream enters a layer, and edits hold from there on.

        Behind the last layer, `layer` is the number of layers. Every number is that of `logits_with` with the residual
        stream in its place; a backend may leave the layers before it out.
        """
        ...
