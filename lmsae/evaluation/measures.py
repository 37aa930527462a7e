"""Measures: one for each metric group, which takes in batches of text and gives the group's score."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from lmsae.errors import ExportError
from lmsae.evaluation.hooked import HookedDictionary, HookPoint
from lmsae.evaluation.known import known_features
from lmsae.evaluation.model_passes import Ablation, ModelPasses
from lmsae.evaluation.scores import Breakdown, Score
from lmsae.metrics.bins import Bins
from lmsae.metrics.contexts import Places
from lmsae.metrics.cosines import decoder_geometry
from lmsae.metrics.formulas import Firing, Reconstruction, density_counts, density_histogram
from lmsae.metrics.splicing import NextToken, SpliceSums, splice_scores

NEGLIGIBLE = 1e-6
"""A token with less than this share of the mean norm has none: one such token would outweigh all others in a mean of
ratios."""


@dataclass(frozen=True)
class Batch:
    """Contexts of text and one dictionary's pass over them.

    `ids` and `counted` (the tokens that count) are (contexts, context_size). Behind these two dimensions, `target` and
    `reconstruction` have the hook points written side by side, and `codes` the latents. `places` has the tokens' bins.
    """

    ids: Tensor
    places: Places
    target: Tensor
    reconstruction: Tensor
    codes: Tensor

    @property
    def counted(self) -> Tensor:
        """The tokens that count, (contexts, context_size) bool."""
        return self.places.counted

    @cached_property
    def counted_target(self) -> Tensor:
        """(tokens that count, d_out)."""
        return self.target[self.counted]

    @cached_property
    def counted_reconstruction(self) -> Tensor:
        """(tokens that count, d_out)."""
        return self.reconstruction[self.counted]

    @cached_property
    def counted_codes(self) -> Tensor:
        """(tokens that count, latents)."""
        return self.codes[self.counted]


class Measure(Protocol):
    """Sums over text, of one dictionary for one metric group."""

    def update(self, batch: Batch) -> None:
        """Take in a batch."""
        ...

    def score(self, kinds: Sequence[Bins]) -> Score:
        """The group's metrics, when all text has been seen; `kinds` are the bins that batches had, in their order."""
        ...


class ReconstructionMeasure:
    """The quality of the reconstruction, in all and at each hook point where there are several."""

    def __init__(self, hooked: HookedDictionary, passes: ModelPasses) -> None:
        del passes
        self._hooked = hooked
        self._total = Reconstruction(torch.cat(list(hooked.means)), NEGLIGIBLE * math.hypot(*hooked.mean_norms))
        self._each = [
            Reconstruction(mean, NEGLIGIBLE * norm)
            for mean, norm in zip(hooked.means, hooked.mean_norms, strict=True)
            if len(hooked.writes) > 1
        ]

    def update(self, batch: Batch) -> None:
        self._total.update(batch.counted_target, batch.counted_reconstruction, batch.places)
        widths = [len(mean) for mean in self._hooked.means]
        sides = (side.split(widths, dim=-1) for side in (batch.counted_target, batch.counted_reconstruction))
        for sums, target, reconstruction in zip(self._each, *sides, strict=False):
            sums.update(target, reconstruction, batch.places.whole())

    def score(self, kinds: Sequence[Bins]) -> Score:
        metrics, errors = self._total.result(), self._total.errors()
        names = [hook_point.name for hook_point in self._hooked.writes]
        for hook_point, sums in zip(self._hooked.writes, self._each, strict=False):
            name = hook_point.name
            where = f"{name}@{hook_point.model}" if names.count(name) > 1 else name
            for found, own in ((metrics, sums.result()), (errors, sums.errors())):
                found |= {f"{name}[{where}]": own[name] for name in ("explained_variance", "mse", "cossim")}
        return Score(metrics, errors=errors, breakdowns=Breakdown.of_each(kinds, *self._total.by_bin()))


class SparsityMeasure:
    """The firing of latents: how many at a token, and how often each."""

    def __init__(self, hooked: HookedDictionary, passes: ModelPasses) -> None:
        del passes
        self._firing, self._kept = Firing(), hooked.dictionary.sparsity.kept

    def update(self, batch: Batch) -> None:
        self._firing.update(batch.counted_codes, batch.places)

    def score(self, kinds: Sequence[Bins]) -> Score:
        density = self._firing.density()
        vectors = {
            "density": density,
            "mean_activation": self._firing.mean_activation(),
            "firings_per_context": self._firing.firings_per_context(),
        }
        metrics = {**self._firing.result(), **density_counts(density), "d_sae": len(density)}
        errors = self._firing.errors()
        if self._kept:
            for found in (metrics, errors):
                found["l0_over_k"] = found["l0"] / self._kept
        return Score(
            metrics,
            {"density_histogram": density_histogram(density)},
            {name: vector.float().cpu() for name, vector in vectors.items()},
            errors,
            Breakdown.of_each(kinds, *self._firing.by_bin()),
        )


class ModelMeasure:
    """The loss of the models when the reconstruction takes the activations' place, at all hook points at once."""

    def __init__(self, hooked: HookedDictionary, passes: ModelPasses) -> None:
        self._hooked, self._passes = hooked, passes
        self._spliced, self._sums = NextToken(), SpliceSums()
        means = dict(zip(hooked.writes, hooked.means, strict=True))
        zeros = {hook_point: torch.zeros_like(mean) for hook_point, mean in means.items()}
        self._ablations = (_by_model(zeros), _by_model(means), _by_model(zeros, everywhere=True))

    def update(self, batch: Batch) -> None:
        widths = [len(mean) for mean in self._hooked.means]
        parts = dict(zip(self._hooked.writes, batch.reconstruction.split(widths, dim=-1), strict=True))
        found = []
        for model in self._hooked.models:
            ablated = [self._passes.ablate(ablations[model]) for ablations in self._ablations]
            own = {hook_point: part for hook_point, part in parts.items() if hook_point.model == model}
            spliced = self._passes.splice(model, own, self._spliced)
            found.append((self._passes.leave(model), spliced, *ablated))
        self._sums.update(found, batch.places)

    def score(self, kinds: Sequence[Bins]) -> Score:
        clean = NextToken.pooled(self._passes.clean[model] for model in self._hooked.models)
        ablated = [
            NextToken.pooled(self._passes.ablated[ablation.key] for ablation in ablations.values())
            for ablations in self._ablations
        ]
        scores = splice_scores(clean, self._spliced, *ablated)
        breakdowns = Breakdown.of_each(kinds, *self._sums.by_bin())
        return Score(scores, errors=self._sums.errors(scores), breakdowns=breakdowns)


class RecoveryMeasure:
    """The recovery of features that are known; nothing where none are."""

    def __init__(self, hooked: HookedDictionary, passes: ModelPasses) -> None:
        self._dictionary = hooked.dictionary
        self._known = known_features(passes.models, hooked.reads, hooked.writes)

    def update(self, batch: Batch) -> None:
        if self._known:
            self._known.update(batch.ids, batch.counted, batch.counted_codes)

    def score(self, kinds: Sequence[Bins]) -> Score:
        del kinds
        return Score(self._known.metrics(self._dictionary) if self._known else {})


def score_decoder(hooked: HookedDictionary) -> Score:
    """Norms and cosines, in raw activations if possible; none where latents have several encoder columns or decoder
    rows, or no such weights."""
    dictionary = hooked.dictionary
    with contextlib.suppress(ExportError):
        dictionary = dictionary.fold_normalizers()
    encoder, decoder = (getattr(dictionary.geometry, name, None) for name in ("W_enc", "W_dec"))
    if not isinstance(encoder, Tensor) or not isinstance(decoder, Tensor) or encoder.ndim != 2 or decoder.ndim != 2:
        return Score()
    return Score(decoder_geometry(encoder, decoder))


def score_conversion(hooked: HookedDictionary) -> Score:
    """The cost of conversion to jumprelu that training noted."""
    return Score(hooked.conversion)


def score_text(hooked: HookedDictionary) -> Score:
    """The cost of the text without any model."""
    return Score(hooked.text)


ON_TEXT: dict[str, Callable[[HookedDictionary, ModelPasses], Measure]] = {
    "reconstruction": ReconstructionMeasure,
    "sparsity": SparsityMeasure,
    "model": ModelMeasure,
    "recovery": RecoveryMeasure,
}
"""The measures of the groups that need text and the models."""

WITHOUT_TEXT: dict[str, Callable[[HookedDictionary], Score]] = {
    "decoder": score_decoder,
    "conversion": score_conversion,
    "text": score_text,
}
"""The groups that need no model."""


def _by_model(vectors: Mapping[HookPoint, Tensor], *, everywhere: bool = False) -> dict[int, Ablation]:
    """The ablations that put vectors in the activations' place, one for each model."""
    return {
        model: Ablation(model, {point: vector for point, vector in vectors.items() if point.model == model}, everywhere)
        for model in dict.fromkeys(point.model for point in vectors)
    }
