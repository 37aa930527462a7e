"""The language models' passes over text: clean, with activations ablated, and with a reconstruction spliced in."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lmsae.evaluation.hooked import HookPoint
from lmsae.lm import continuing
from lmsae.lm.protocol import LanguageModel
from lmsae.metrics.splicing import NextToken, TokenLosses, token_losses


@dataclass(frozen=True)
class Ablation:
    """The vectors that take the activations' place at hook points of one model; equal ones have equal keys.

    `everywhere` says that they do so at tokens that do not count, too.
    """

    model: int
    vectors: Mapping[HookPoint, Tensor]
    everywhere: bool = False

    @cached_property
    def key(self) -> Hashable:
        vectors = tuple((hook_point, vector.cpu().numpy().tobytes()) for hook_point, vector in self.vectors.items())
        return vectors, self.everywhere


class ModelPasses:
    """The passes of several models over one batch after another, and the sums of those that dictionaries share.

    A pass is run when the first dictionary asks for it in a batch, and never twice. One that fails leaves no sum: the
    next dictionary that asks runs it again. Tokens that do not count keep their own activation, but for ablations
    `everywhere`.
    """

    def __init__(self, models: Sequence[LanguageModel]) -> None:
        self.models = models
        self.clean: dict[int, NextToken] = defaultdict(NextToken)
        self.ablated: dict[Hashable, NextToken] = defaultdict(NextToken)

    def begin(self, ids: Tensor, counted: Tensor, activations: Mapping[HookPoint, Tensor]) -> None:
        """Go on to a batch: token ids and which of them count, (contexts, context_size), and the activations at hook
        points, (contexts, context_size, width)."""
        self._ids, self._counted, self._activations = ids, counted, activations
        self._clean: dict[int, Tensor] = {}
        self._losses: dict[Hashable, TokenLosses] = {}

    def splice(self, model: int, reconstructions: Mapping[HookPoint, Tensor], into: NextToken) -> TokenLosses:
        """Run a model on from reconstructions (contexts, context_size, width), at tokens that count; the losses of the
        batch, which are added to a dictionary's sums."""
        return self._run_on(model, reconstructions, self._counted, into)

    def ablate(self, ablation: Ablation) -> TokenLosses:
        """Run a model on from vectors in place of its activations, unless that was done in this batch."""
        key = ablation.key
        if key not in self._losses:
            replaced = torch.ones_like(self._counted) if ablation.everywhere else self._counted
            self._losses[key] = self._run_on(ablation.model, ablation.vectors, replaced, self.ablated[key])
        return self._losses[key]

    def leave(self, model: int) -> TokenLosses:
        """The losses of a model whose activations are left as they are."""
        self._clean_logits(model)
        return self._losses[model]

    def _clean_logits(self, model: int) -> Tensor:
        if model not in self._clean:
            logits = continuing.finish(self.models[model], self._ids, known_of(model, self._activations))
            self._losses[model] = token_losses(logits, self._ids, self._counted)
            self.clean[model].add_losses(self._losses[model], self._counted)
            self._clean[model] = logits.float()
        return self._clean[model]

    def _run_on(
        self, model: int, replacements: Mapping[HookPoint, Tensor], replaced: Tensor, into: NextToken
    ) -> TokenLosses:
        """Run a model on with replacements at the tokens that are `replaced` and the activations themselves at the
        others, and add the loss of those that count."""
        clean = self._clean_logits(model)
        logits = run_on(self.models[model], self._ids, self._activations, replacements, replaced)
        losses = token_losses(logits, self._ids, self._counted, clean)
        into.add_losses(losses, self._counted)
        return losses


def run_on(
    model: LanguageModel,
    ids: Tensor,
    activations: Mapping[HookPoint, Tensor],
    replacements: Mapping[HookPoint, Tensor],
    replaced: Tensor,
) -> Tensor:
    """A model's logits (contexts, context_size, d_vocab) on ids (contexts, context_size), where replacements stand in
    the place of its activations (contexts, context_size, width) at the tokens that are `replaced`."""
    values, number = {}, next(iter(replacements)).model
    for hook_point, value in replacements.items():
        own = activations[hook_point]
        values[hook_point.name] = torch.where(replaced[..., None], value.to(own.dtype), own)
    return continuing.run_on(model, ids, values, known_of(number, activations))


def known_of(model: int, activations: Mapping[HookPoint, Tensor]) -> dict[str, Tensor]:
    """The activations of one of the models, by the names of its hook points."""
    return {hook_point.name: own for hook_point, own in activations.items() if hook_point.model == model}
