"""The language model with a dictionary spliced in, for losses that measure its predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.kernels.precision import widen
from lmsae.lm.continuing import run_on, wanted_residual
from lmsae.lm.protocol import LanguageModel
from lmsae.training.batch import Batch


@dataclass(frozen=True, slots=True)
class Clean:
    """The model by itself: log probabilities of the next token where it counts, and its activations."""

    ids: Tensor
    usable: Tensor
    log_probabilities: Float[Tensor, "predictions d_vocab"]
    activations: dict[str, Tensor]


class Splice:
    """A model and the hook points that dictionaries write. Those trained together share its clean passes."""

    def __init__(self, model: LanguageModel, hook_points: Sequence[str]) -> None:
        self.model, self.hook_points = model, tuple(hook_points)
        self._last: Clean | None = None

    def run(self, dictionary: Dictionary, batch: Batch, reconstruction: Float[Tensor, "tokens d_out"]) -> "Spliced":
        """The model on a batch of whole contexts, with this reconstruction, in training's units, of its usable tokens.

        At other tokens all hook points keep the activations that the model has by itself.
        """
        raw = batch.target[batch.usable]
        like = raw if dictionary.config.geometry.autoencodes else None
        restored = dictionary.write.restore(reconstruction.to(raw.dtype), like)
        parts = restored.split(dictionary.config.widths.writes, dim=-1)
        return Spliced(self, self._run_clean(batch), dict(zip(self.hook_points, parts, strict=True)))

    @torch.no_grad()
    def _run_clean(self, batch: Batch) -> Clean:
        assert batch.ids is not None, "end-to-end losses train on whole contexts"
        assert batch.usable is not None
        if self._last is None or self._last.ids is not batch.ids:
            seen: dict[str, Tensor] = {}
            stream = wanted_residual(self.hook_points)
            names = [*self.hook_points, *({stream} & self.model.hook_points().keys())]
            edits = {name: lambda x, name=name: seen.setdefault(name, x) for name in names}
            with _keep_precision(batch.ids):
                logits = self.model.logits_with(batch.ids, edits)
            self._last = Clean(batch.ids, batch.usable, _predict(logits, batch.usable), seen)
        return self._last


@dataclass(frozen=True)
class Spliced:
    """The model with one reconstruction in the place of its activations (losses' SplicedModel). It runs when asked."""

    splice: Splice
    clean: Clean
    replacements: dict[str, Float[Tensor, "tokens _"]]

    def divergence(self) -> Float[Tensor, ""]:
        """Mean KL(model || this), in nats, over predictions."""
        clean = self.clean.log_probabilities
        return _average((clean.exp() * (clean - self._log_probabilities)).sum(-1))

    def cross_entropy(self) -> Float[Tensor, ""]:
        """Mean cross-entropy of the next token, in nats, over predictions."""
        following = self.clean.ids[:, 1:][self.clean.usable[:, :-1]]
        return _average(-self._log_probabilities.gather(1, following[:, None]).squeeze(1))

    @cached_property
    def _log_probabilities(self) -> Float[Tensor, "predictions d_vocab"]:
        values = {name: self._fill_in(name, part) for name, part in self.replacements.items()}
        with _keep_precision(self.clean.ids):
            logits = run_on(self.splice.model, self.clean.ids, values, self.clean.activations)
        return _predict(logits, self.clean.usable)

    def _fill_in(self, name: str, part: Tensor) -> Float[Tensor, "contexts context_size _"]:
        own = self.clean.activations[name]
        return own.masked_scatter(self.clean.usable[..., None], part.to(own.dtype))


def _predict(
    logits: Float[Tensor, "contexts context_size d_vocab"], usable: Bool[Tensor, "contexts context_size"]
) -> Float[Tensor, "predictions d_vocab"]:
    """Log probabilities of the next token at usable positions that have one, at least in float32."""
    return widen(logits[:, :-1][usable[:, :-1]]).log_softmax(-1)


def _average(values: Float[Tensor, " predictions"]) -> Float[Tensor, ""]:
    """The mean; 0 of no values, as of contexts whose one usable token is the last."""
    return values.sum() / max(len(values), 1)


def _keep_precision(ids: Int[Tensor, "contexts context_size"]) -> torch.autocast:
    """The model runs in its own dtype, whatever training's precision."""
    return torch.autocast(ids.device.type, enabled=False)
