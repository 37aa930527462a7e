"""Resampling: dead latents begin anew from tokens that are badly reconstructed (Bricken et al. 2023, "Towards
Monosemanticity", appendix "Neuron resampling")."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim import Optimizer

from lmsae.training.ema import WeightMean
from lmsae.training.optimizers import forget

ENCODER_FACTOR = 0.2
DIMENSIONS = {"W_enc": 1, "W_dec": 0, "b_enc": 0}
"""Where a latent has its weights: parameters of the geometry, and which dimension of each counts latents."""


@dataclass(frozen=True, slots=True)
class Rebirth:
    """Which latents begin anew, and with what weights: latents (m,), encoder (d_in, m), decoder (m, d_out)."""

    latents: Int[Tensor, " m"]
    encoder: Float[Tensor, "d_in m"]
    decoder: Float[Tensor, "m d_out"]

    @torch.no_grad()
    def take_place(self, geometry: Any, optimizers: Iterable[Optimizer], mean: WeightMean | None = None) -> None:
        """Set the weights of these latents, encoder biases to 0, and let optimizers forget their moments, and a mean
        of weights those they had."""
        geometry.W_enc[:, self.latents] = self.encoder
        geometry.W_dec[self.latents] = self.decoder
        geometry.b_enc[self.latents] = 0
        for name, dim in DIMENSIONS.items():
            parameter = getattr(geometry, name)
            for optimizer in optimizers:
                forget(optimizer, parameter, dim, self.latents)
            if mean:
                mean.begin_anew(f"geometry.{name}", parameter, dim, self.latents)


@torch.no_grad()
def rebirth(
    geometry: Any,
    x: Float[Tensor, "tokens d_in"],
    losses: Float[Tensor, " tokens"],
    dead: Bool[Tensor, " latents"],
    seed: tuple[int, int],
) -> Rebirth:
    """New weights for dead latents: each takes the direction x - b_dec of a token of its own, drawn with probability
    ~ loss^2. Decoder rows get the mean norm of those alive (1 under the unit-norm constraint), encoders 0.2 times
    theirs.

    `x` and its reconstruction `losses` are in training's units. A batch renews no more latents than it has tokens with
    a loss; the rest wait for the next time.
    """
    weights = losses.double().square().cpu().numpy()
    weights = np.where(np.isfinite(weights), weights, 0.0)  # a run that breaks down says so by itself
    total = weights.sum()
    latents = dead.nonzero().squeeze(1)[: np.count_nonzero(weights)]
    share = weights / total if total else None
    tokens = np.random.default_rng(seed).choice(len(weights), size=len(latents), replace=False, p=share)
    directions = x[torch.from_numpy(tokens).to(x.device)] - geometry.b_dec
    directions = directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-12)
    alive = slice(None) if dead.all() else ~dead
    encoder_norm = geometry.encoder.norm(dim=0)[alive].mean()
    decoder_norm = geometry.W_dec.norm(dim=1)[alive].mean()
    return Rebirth(latents, ENCODER_FACTOR * encoder_norm * directions.T, decoder_norm * directions)
