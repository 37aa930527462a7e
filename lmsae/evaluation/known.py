"""Recovery of known features: where the language model is `builtin:features`, the truth behind activations is known."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.evaluation.hooked import HookPoint
from lmsae.lm.protocol import LanguageModel
from lmsae.lm.synthetic import SyntheticModel
from lmsae.metrics.recovery import Correlations, mean_max_cosine


class KnownFeatures:
    """The features of a model that are there at the hook points a dictionary writes, and how well it finds them."""

    def __init__(self, model: SyntheticModel, reads: Sequence[str], writes: Sequence[str]) -> None:
        self.model = model
        self.read, self.written = (
            torch.cat([model.directions(hook_point) for hook_point in hook_points], dim=1)
            for hook_points in (reads, writes)
        )
        self.there = self.written.any(dim=1)
        self.correlations = Correlations()

    def update(self, ids: Tensor, usable: Tensor, codes: Tensor) -> None:
        """Take in a batch: ids and usable (contexts, context_size), codes of the usable tokens (tokens, latents)."""
        self.correlations.update(self.model.amounts(ids)[usable][:, self.there], codes)

    def metrics(self, dictionary: Dictionary) -> dict[str, float]:
        """Mean max cosine similarity of directions, and mean max correlation of amounts and codes, over features.

        A skip connection writes a linear part of each feature, and leaves the rest to the latents. The cosine is nan
        where latents have no directions.
        """
        cosine = math.nan
        if dictionary.config.geometry.writes_directions:
            cosine, _ = mean_max_cosine(self.written - self._skipped(dictionary), _written_by_each(dictionary))
        correlation, _ = self.correlations.mean_max()
        return {"recovery_cosine": cosine, "recovery_correlation": correlation}

    def _skipped(self, dictionary: Dictionary) -> Tensor:
        """The part of each feature that is written without any latent (features, d_out).

        Nothing where a dictionary writes what it reads: that raw activations follow those read there, in the units of
        each token, is no connection.
        """
        if dictionary.config.geometry.autoencodes:
            return torch.zeros_like(self.written)
        none = self.read.new_zeros(len(self.read), dictionary.geometry.latents)
        return dictionary.decode(none, self.read) - dictionary.decode(none, 0 * self.read)


def known_features(
    models: Sequence[LanguageModel], reads: Sequence[HookPoint], writes: Sequence[HookPoint]
) -> KnownFeatures | None:
    """The truth behind what a dictionary reads and writes, if one model with known features makes all of it."""
    numbers = {number for number, _ in (*reads, *writes)}
    model = models[min(numbers)]
    if len(numbers) > 1 or not isinstance(model, SyntheticModel):
        return None
    return KnownFeatures(model, [hook_point for _, hook_point in reads], [hook_point for _, hook_point in writes])


def _written_by_each(dictionary: Dictionary) -> Tensor:
    """The vectors that a code of 1 of each latent writes (latents, d_out), in raw activations."""
    codes = torch.eye(dictionary.geometry.latents, device=next(dictionary.parameters()).device)
    x = codes.new_zeros(len(codes), dictionary.config.d_in)
    return dictionary.decode(codes, x) - dictionary.decode(0 * codes, x)
