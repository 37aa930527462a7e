"""Initialisation: the weights that training starts from, found on activations that training never sees."""

import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.losses import reconstruction_loss
from lmsae.optim import normalise_rows

COARSE = (0.1, 5.0, 50)
FINE = (-0.09, 0.1, 20)


@torch.no_grad()
def initialise(
    dictionary: Dictionary,
    x: Tensor,
    *,
    seed: int,
    decoder_norm: float | None,
    b_dec_mean: bool,
    unit_norm_decoder: bool,
    search_tokens: int,
) -> list[dict[str, float]]:
    """Set a dictionary's weights from scaled held-aside activations x (tokens, d_in); returns the norms tried.

    Decoder rows are random directions, the encoder is the decoder transposed, b_dec is the mean activation (or 0) and
    b_enc is 0. With `decoder_norm` None the norm is searched: 50 values in [0.1, 5], then 20 around the best, each
    re-tying the encoder, by reconstruction loss. Where decoder rows must keep norm 1, the encoder's norm is searched.
    """
    geometry = dictionary.geometry
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(geometry.W_dec.shape, generator=generator)
    normalise_rows(directions)
    directions = directions.to(x.device)
    geometry.b_enc.zero_()
    geometry.b_dec.copy_(x.mean(0) if b_dec_mean else torch.zeros_like(geometry.b_dec))

    def set_norm(norm: float) -> None:
        geometry.W_enc.copy_(norm * directions.T)
        geometry.W_dec.copy_(directions if unit_norm_decoder else norm * directions)

    if decoder_norm is not None:
        set_norm(decoder_norm)
        return []
    batch, tried = x[:search_tokens], []
    dictionary.train()

    def best_of(norms: Tensor) -> float:
        for norm in norms.tolist():
            set_norm(norm)
            tried.append({"norm": norm, "loss": reconstruction_loss(dictionary.training_pass(batch, batch)).item()})
        return min(tried, key=lambda one: one["loss"])["norm"]

    coarse = best_of(torch.linspace(*COARSE, dtype=torch.float64))
    fine = coarse + torch.linspace(*FINE, dtype=torch.float64)
    set_norm(best_of(fine[fine > 0]))
    return tried
