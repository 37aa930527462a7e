"""Metrics of weights alone: norms and cosines of encoder columns and decoder rows."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def decoder_geometry(
    encoder: Float[Tensor, "d_in d_sae"], decoder: Float[Tensor, "d_sae d_out"], *, chunk: int = 1024
) -> dict[str, float]:
    """Mean decoder norm, mean cosine of a latent's encoder and decoder, and mean cosine of both to the nearest other
    latent's."""
    metrics = {"decoder_norm": decoder.norm(dim=1).mean().item()}
    if encoder.shape[0] == decoder.shape[1]:
        metrics["encoder_decoder_cossim"] = own_cosines(encoder, decoder).mean().item()
    if len(decoder) > 1:
        metrics["nearest_decoder_cossim"] = nearest_cosines(decoder, chunk=chunk).mean().item()
        metrics["nearest_encoder_cossim"] = nearest_cosines(encoder.T, chunk=chunk).mean().item()
    return metrics


def own_cosines(encoder: Float[Tensor, "d d_sae"], decoder: Float[Tensor, "d_sae d"]) -> Float[Tensor, " d_sae"]:
    """The cosine of each latent's encoder column and its decoder row; 0 where one of them is."""
    return (normalize(decoder.float(), dim=1) * normalize(encoder.float(), dim=0).T).sum(1)


def nearest_cosines(rows: Float[Tensor, "d_sae d"], *, chunk: int = 1024) -> Float[Tensor, " d_sae"]:
    """The cosine of each row to the nearest other one, of at least two."""
    rows, nearest = normalize(rows.float(), dim=1), []
    for start in range(0, len(rows), chunk):
        cosines = rows[start : start + chunk] @ rows.T
        own = torch.arange(start, start + len(cosines))
        cosines[torch.arange(len(cosines)), own] = -1.0
        nearest.append(cosines.amax(1))
    return torch.cat(nearest)
