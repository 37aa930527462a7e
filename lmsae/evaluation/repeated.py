"""Repeated scoring: dictionaries that come one after another, on the same held-out text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsae.errors import NotEnoughTokens
from lmsae.evaluation.hooked import HookedDictionary, HookPoint
from lmsae.evaluation.measures import NEGLIGIBLE
from lmsae.evaluation.model_passes import Ablation, ModelPasses, run_on
from lmsae.evaluation.scores import Score
from lmsae.evaluation.scoring import HeldOutText, read_activations
from lmsae.lm.protocol import LanguageModel
from lmsae.metrics.formulas import Firing, Reconstruction, density_histogram
from lmsae.metrics.splicing import NextToken, splice_scores


@dataclass(frozen=True, slots=True)
class _Contexts:
    """A batch of contexts: ids and which of them count, on the model's device, and activations on the CPU."""

    ids: Tensor
    counted: Tensor
    activations: Mapping[HookPoint, Tensor]


class RepeatedScoring:
    """Scores dictionaries of the same hook points, whenever one comes. What the models say by themselves and with mean
    activations in place is computed once, and the activations of the text stay in memory."""

    @torch.inference_mode()
    def __init__(
        self, models: Sequence[LanguageModel], text: HeldOutText, like: HookedDictionary, batch_contexts: int
    ) -> None:
        """`like` is a dictionary at the hook points of all to come. Raises NotEnoughTokens if no token counts."""
        self._models, self._contexts, passes = models, list[_Contexts](), ModelPasses(models)
        device = models[0].device
        means, self._splices = dict(zip(like.writes, like.means, strict=True)), "model" in like.groups
        ablations = [
            Ablation(model, {point: mean for point, mean in means.items() if point.model == model})
            for model in (like.models if self._splices else ())
        ]
        for ids, usable in text.batches(batch_contexts):
            ids, usable = ids.to(device), usable.to(device)
            found = read_activations(models, [like], text, ids)
            counted = text.counted(usable, found)
            passes.begin(ids, counted, found)
            for ablation in ablations:
                passes.ablate(ablation)
            self._contexts.append(_Contexts(ids, counted, {point: one.cpu() for point, one in found.items()}))
        if not any(bool(text.scored(contexts.counted).any()) for contexts in self._contexts):
            raise NotEnoughTokens(
                "every held-out token that has a next token is above the largest norm: raise "
                "activations.max_norm_factor"
            )
        self._clean = NextToken.pooled(passes.clean[ablation.model] for ablation in ablations)
        self._ablated = NextToken.pooled(passes.ablated[ablation.key] for ablation in ablations)

    @torch.inference_mode()
    def score(self, hooked: HookedDictionary) -> Score:
        """The metrics that `score` gives, of those of the groups reconstruction and sparsity that need no counts of
        latents, and if the group model is among them the loss with the dictionary in place: ce_spliced, ce_difference,
        ce_loss_score_mean."""
        reconstruction = Reconstruction(torch.cat(list(hooked.means)), NEGLIGIBLE * math.hypot(*hooked.mean_norms))
        firing, spliced = Firing(), NextToken()
        for contexts in self._contexts:
            activations = {point: found.to(contexts.ids.device) for point, found in contexts.activations.items()}
            x, target = (
                torch.cat([activations[point].float() for point in side], dim=-1)
                for side in (hooked.reads, hooked.writes)
            )
            codes = hooked.dictionary.encode(x)
            written = hooked.dictionary.decode(codes, x)
            reconstruction.update(target[contexts.counted], written[contexts.counted])
            firing.update(codes[contexts.counted])
            if self._splices:
                self._splice(hooked, contexts, activations, written, spliced)
        density = firing.density()
        vectors = {"density": density, "mean_activation": firing.mean_activation()}
        return Score(
            {**reconstruction.result(), **firing.result(), **self._losses(spliced)},
            {"density_histogram": density_histogram(density)},
            {name: vector.float().cpu() for name, vector in vectors.items()},
        )

    def _losses(self, spliced: NextToken) -> dict[str, float]:
        """Of all ablations that of the mean alone is known: the other scores are left out."""
        if not self._splices:
            return {}
        losses = splice_scores(self._clean, spliced, *[self._ablated] * 3)
        return {name: losses[name] for name in ("ce_spliced", "ce_difference", "ce_loss_score_mean")}

    def _splice(
        self,
        hooked: HookedDictionary,
        contexts: _Contexts,
        activations: Mapping[HookPoint, Tensor],
        written: Tensor,
        into: NextToken,
    ) -> None:
        """Run the models on from what a dictionary has written, at all of its hook points at once, and add the loss."""
        widths = [len(mean) for mean in hooked.means]
        parts = dict(zip(hooked.writes, written.split(widths, dim=-1), strict=True))
        for model in hooked.models:
            own, found = {point: part for point, part in parts.items() if point.model == model}, NextToken()
            logits = run_on(self._models[model], contexts.ids, activations, own, contexts.counted)
            found.update(logits, contexts.ids, contexts.counted)
            into.add(found)
