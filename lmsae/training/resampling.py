"""Resampling: dead latents begin anew from tokens that are badly reconstructed (Bricken et al. 2023, "Towards
Monosemanticity", appendix "Neuron resampling")."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim import Optimizer

from lmsae.geometry.linear import Linear
from lmsae.training.ema import WeightMean
from lmsae.training.optimizers import clear_moments

ENCODER_FACTOR = 0.2
DIMENSIONS = {"W_enc": 1, "W_dec": 0, "b_enc": 0}
"""The parameters of the geometry that hold a latent's weights, and the dimension of each that counts latents."""


@dataclass(frozen=True, slots=True)
class Rebirth:
    """The latents that begin anew, and their weights: latents (m,), encoder (d_in, m), decoder (m, d_out)."""

    latents: Int[Tensor, " m"]
    encoder: Float[Tensor, "d_in m"]
    decoder: Float[Tensor, "m d_out"]

    @torch.no_grad()
    def apply(self, geometry: Linear, optimizers: Iterable[Optimizer], mean: WeightMean | None = None) -> None:
        """Set the weights of these latents, encoder biases to 0, and let optimizers forget their moments, and a mean
        of weights those they had."""
        new = {"W_enc": self.encoder, "W_dec": self.decoder, "b_enc": torch.zeros_like(self.encoder[0])}
        for name, dim in DIMENSIONS.items():
            parameter = geometry.get_parameter(name)
            parameter.index_copy_(dim, self.latents, new[name])
            for optimizer in optimizers:
                clear_moments(optimizer, parameter, dim, self.latents)
            if mean:
                mean.restart(f"geometry.{name}", parameter, dim, self.latents)


@torch.no_grad()
def draw_rebirth(
    geometry: Linear,
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
    weights = np.where(np.isfinite(weights), weights, 0.0)  # the run itself reports a loss that is not finite
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
