"""Visits to the activations of a forward pass, which record or edit them. Both backends make them."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmsae.config import JsonObject
from lmsae.errors import ShapeError, SourceError
from lmsae.lm import hook_points as points
from lmsae.lm.hook_points import residual_before
from lmsae.lm.protocol import Edit

if TYPE_CHECKING:
    from transformers import Cache

Visit = Callable[[Tensor], Tensor | None]
"""Called with activations (batch, context, width). Its result takes their place; None leaves them alone."""


class Enough(Exception):
    """Ends a forward pass from within, once all wanted activations are recorded."""


class VisitedModel(ABC):
    """A LanguageModel made of two things: a forward pass, and a way to visit its activations.

    Threads may share it. One forward pass ends before the next begins, so that none makes the visits of another.
    """

    def __init__(self, config: JsonObject, device: torch.device, weights: Mapping[str, Tensor] | None = None) -> None:
        self.config = config = points.text_config(config)
        self.device = device
        self.weights: Mapping[str, Tensor] = weights or {}
        self.d_vocab: int = config["vocab_size"]
        self.max_context = points.max_context(config)
        self._one_at_a_time = threading.Lock()
        self._shape = (0, 0)
        """The batch and context of the forward pass that runs."""

    @abstractmethod
    def hook_points(self) -> dict[str, int]:
        """Every hook point that this backend reaches, in the order of a forward pass, with its width."""

    @abstractmethod
    def start_cache(self) -> "Cache | None":
        """An empty cache of keys and values, for tokens that are read a few at a time; None if the model has none."""

    @abstractmethod
    def _forward(self, tokens: Tensor, cache: "Cache | None") -> Tensor:
        """The logits (batch, context, d_vocab) of tokens on the model's device, behind those that a cache holds."""

    @abstractmethod
    def _visiting(self, visits: Mapping[str, "Visit"]) -> AbstractContextManager[None]:
        """While this is entered, forward passes make these visits.

        Raises HookPointError for a hook point that the model lacks.
        """

    @final
    @torch.no_grad()
    def read(
        self, tokens: Int[Tensor, "batch context"], hook_points: Sequence[str], cache: "Cache | None" = None
    ) -> dict[str, Float[Tensor, "batch context _"]]:
        """The activations at all the hook points, from one forward pass that ends at the last of them."""
        recording = Recording(hook_points)
        with self._one_at_a_time, self._visiting(recording.visits()), suppress(Enough):
            self._run(tokens, cache)
        return recording.activations()

    @final
    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch context d_vocab"]:
        """The logits of the token after each token."""
        with self._one_at_a_time:
            return self._run(tokens)

    @final
    def logits_with(
        self, tokens: Int[Tensor, "batch context"], edits: Mapping[str, Edit], cache: "Cache | None" = None
    ) -> Float[Tensor, "batch context d_vocab"]:
        """The logits of a forward pass in which an edit replaces the activations at each hook point."""
        with self._one_at_a_time, self._visiting(edit_visits(edits)):
            return self._run(tokens, cache)

    @final
    def logits_from(
        self,
        tokens: Int[Tensor, "batch context"],
        layer: int,
        residual: Float[Tensor, "batch context d_model"],
        edits: Mapping[str, Edit],
    ) -> Float[Tensor, "batch context d_vocab"]:
        """The logits of a forward pass in which this residual stream enters a layer, and edits hold from there on."""
        before, behind = residual_before(layer)
        name = before if before in self.hook_points() else behind
        visits = edit_visits({name: lambda _: residual, **edits})
        skipped = layer if self._can_skip() else 0
        with self._one_at_a_time, self._visiting(visits), self._skipping(skipped):
            return self._run(tokens)

    def _can_skip(self) -> bool:
        """True if forward passes can leave out layers whose results are replaced."""
        return False

    def _skipping(self, layers: int) -> AbstractContextManager[None]:
        """While this is entered, forward passes leave out so many layers."""
        assert not layers
        return nullcontext()

    def _run(self, tokens: Tensor, cache: "Cache | None" = None) -> Tensor:
        largest = int(tokens.max()) if tokens.numel() else 0
        if largest >= self.d_vocab:
            raise SourceError(
                f"token id {largest:,} is beyond the model's vocabulary of {self.d_vocab:,}: the text is tokenized for "
                "another model. Set tokenize.tokenizer, or the dataset's token ids, to what this model reads."
            )
        self._shape = (tokens.shape[0], tokens.shape[1])
        return self._forward(tokens.to(self.device), cache)


class Recording:
    """Keeps the activations at some hook points, and raises Enough once it has them all."""

    def __init__(self, hook_points: Sequence[str]) -> None:
        self._wanted = tuple(dict.fromkeys(hook_points))
        self._found: dict[str, Tensor] = {}

    def visits(self) -> dict[str, Visit]:
        """The visit to make at each hook point."""
        return {name: self._visit_at(name) for name in self._wanted}

    def activations(self) -> dict[str, Tensor]:
        """Hook point -> activations (batch, context, width), in the order asked for."""
        return {name: self._found[name] for name in self._wanted}

    def _visit_at(self, name: str) -> Visit:
        def record(activations: Tensor) -> None:
            self._found[name] = activations
            if len(self._found) == len(self._wanted):
                raise Enough

        return record


def edit_visits(edits: Mapping[str, Edit]) -> dict[str, Visit]:
    """The visits that splice these edits into a forward pass.

    No module of a model yields the residual between attention and MLP: the norm before the MLP reads it, and the end of
    the layer adds it to the MLP's output. So an edit of that residual becomes three. The first, at the norm, edits the
    residual and notes it. The second notes the output of the MLP. The third, at the end of the layer, puts the sum of
    both in place of the layer's output, as the layer itself computes it.
    """
    visits: dict[str, Edit] = {name: _check_shape(name, edit) for name, edit in edits.items()}
    for name in [name for name in visits if name.endswith(".hook_resid_mid")]:
        layer = name.removesuffix(".hook_resid_mid")
        residual, mlp = _NotedEdit(visits[name]), _NotedEdit(visits.get(f"{layer}.hook_mlp_out", _keep))
        visits[name], visits[f"{layer}.hook_mlp_out"] = residual, mlp
        visits[f"{layer}.hook_resid_post"] = _edit_sum(residual, mlp, visits.get(f"{layer}.hook_resid_post", _keep))
    return dict(visits)


class _NotedEdit:
    """An edit that remembers its last result until somebody takes it."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._result: Tensor | None = None

    def __call__(self, activations: Tensor) -> Tensor:
        self._result = self._edit(activations)
        return self._result

    def take(self) -> Tensor:
        """Return the last result and forget it."""
        result, self._result = self._result, None
        assert result is not None, "the layer ended before its MLP"
        return result


def _edit_sum(residual: _NotedEdit, mlp: _NotedEdit, edit: Edit) -> Edit:
    return lambda activations: edit(residual.take() + mlp.take())


def _keep(activations: Tensor) -> Tensor:
    return activations


def _check_shape(name: str, edit: Edit) -> Edit:
    """The edit with a check that it keeps the shape, and a cast of its result to the model's dtype."""

    def check(activations: Tensor) -> Tensor:
        edited = edit(activations)
        if edited.shape != activations.shape:
            raise ShapeError(
                f"the edit at {name} turned activations of shape {tuple(activations.shape)} into "
                f"{tuple(edited.shape)}; what takes their place must have their shape"
            )
        return edited.to(activations.dtype)

    return check
