"""The weights that training starts from: decoder directions, the norm that suits them, and biases."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.initialization.center import compute_center
from lmsae.initialization.config import InitConfig
from lmsae.initialization.directions import redraw
from lmsae.initialization.from_model import ModelWeights
from lmsae.losses import reconstruction_loss

COARSE = (0.1, 5.0, 50)
FINE = (-0.09, 0.1, 20)


@torch.no_grad()
def initialize(
    dictionary: Dictionary,
    x: Tensor,
    target: Tensor,
    usable: Tensor | None,
    init: InitConfig,
    *,
    unit_norm_decoder: bool,
    model_weights: ModelWeights | None = None,
) -> list[dict[str, float]]:
    """Set a dictionary's weights from calibration activations in training's units; returns norms tried, with losses.

    x (tokens, d_in) and target (tokens, d_out); for dictionaries that read whole contexts both have a dimension more,
    (contexts, context_size, ·), and `usable` (contexts, context_size) says which tokens count. Normalizers must have
    been fitted: `model_weights`, those of the layer that the dictionary stands for, go by them.
    """
    init = init.settled(dictionary.config)
    generator = torch.Generator().manual_seed(init.seed)
    targets, writes = target if usable is None else target[usable], dictionary.config.widths.writes
    b_dec = compute_center(init.b_dec, targets, writes)
    drawn = redraw(dictionary.geometry.draw(generator), targets - b_dec, writes, init, generator)
    if model_weights is not None:
        drawn = model_weights.draw(dictionary, drawn, generator)
    batch = _take_first(init.tokens, x, target, usable)
    start = _Start(dictionary, drawn, b_dec, init, unit_norm_decoder, model_weights, batch)
    searches = dictionary.config.geometry.autoencodes if init.grid_search is None else init.grid_search
    if not searches:
        start.place(init.decoder_norm)
        return []
    return start.search()


def _take_first(tokens: int, x: Tensor, target: Tensor, usable: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first tokens, so many, or the contexts that hold them."""
    if usable is None:
        return x[:tokens], target[:tokens], None
    contexts = -(-tokens // usable.shape[1])
    return x[:contexts], target[:contexts], usable[:contexts]


@dataclass(frozen=True, slots=True)
class _Start:
    """A dictionary's weights as a function of the decoder norm."""

    dictionary: Dictionary
    drawn: Mapping[str, Tensor]
    b_dec: Tensor
    init: InitConfig
    unit_norm_decoder: bool
    model_weights: ModelWeights | None
    batch: tuple[Tensor, Tensor, Tensor | None]

    def place(self, norm: float) -> None:
        """Set all weights for a norm of decoder rows."""
        geometry = self.dictionary.geometry
        geometry.place(self.drawn, norm, unit_norm_decoder=self.unit_norm_decoder)
        weights = dict(geometry.named_parameters())
        weights["b_dec"].copy_(self.b_dec)
        if "W_enc" in weights:
            assert self.init.encoder_factor is not None, "settled"
            weights["W_enc"].mul_(self.init.encoder_factor)
        if self.init.b_enc == "minus_mean_pre":
            x, _, usable = self.batch
            pre = geometry.encode(x)
            weights["b_enc"].copy_(-(pre if usable is None else pre[usable]).mean(0))
        if self.model_weights is not None:
            self.model_weights.take_over(self.dictionary)
            if self.unit_norm_decoder:
                geometry.fold_norms()

    def search(self) -> list[dict[str, float]]:
        """Place the weights at the norm with the least reconstruction loss: the best of 50 in [0.1, 5], or of 20 around
        that."""
        self.dictionary.train()
        tried: list[dict[str, float]] = []

        def best_of(norms: Tensor) -> float:
            for norm in norms.tolist():
                self.place(norm)
                loss = reconstruction_loss(self.dictionary.training_pass(*self.batch))
                tried.append({"norm": norm, "loss": loss.item()})
            return min(tried, key=lambda one: one["loss"])["norm"]

        coarse = best_of(torch.linspace(*COARSE, dtype=torch.float64))
        fine = coarse + torch.linspace(*FINE, dtype=torch.float64)
        self.place(best_of(fine[fine > 0]))
        return tried
