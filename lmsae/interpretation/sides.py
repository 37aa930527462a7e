"""The two sides of a latent: how much of it reads and writes at each hook point, and the directions that it writes."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.clt import CLT
from lmsae.geometry.geometry import Geometry

ROWS_AT_ONCE = 1024


def written_rows(geometry: Geometry, d_out: int) -> Iterator[Float[Tensor, "latents d_out"]]:
    """The rows that latents write at a code of 1 at all hook points, side by side, in training's units; some latents at
    a time. The geometry must write directions."""
    like = next(geometry.parameters())
    for first in range(0, geometry.latents, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, geometry.latents)
        codes = torch.eye(last - first, device=like.device, dtype=like.dtype)
        written = geometry.write(codes, slice(first, last), codes.new_zeros(last - first, 1))
        assert written.shape[1] == d_out
        yield written


@torch.inference_mode()
def write_squares(dictionary: Dictionary) -> Float[Tensor, "latents hook_points"]:
    """The squared norm of what each latent writes at each hook point, float64, in training's units."""
    geometry, widths = dictionary.geometry, dictionary.config.widths
    if not dictionary.config.geometry.writes_directions:
        return geometry.norms().double().square()[:, None].cpu()
    parts = [_squares(rows, widths.writes, dim=1) for rows in written_rows(geometry, widths.d_out)]
    return torch.cat(parts).cpu()


@torch.inference_mode()
def read_squares(dictionary: Dictionary) -> Float[Tensor, "latents hook_points"] | None:
    """The squared norm of each latent's encoder column at each hook point, likewise; None of a geometry without any."""
    geometry, widths = dictionary.geometry, dictionary.config.widths
    if isinstance(geometry, CLT):
        own = geometry.W_enc.double().square().sum(1).cpu()  # (layers, d_sae)
        return torch.block_diag(*[squares[:, None] for squares in own])
    encoder = getattr(geometry, "encoder", getattr(geometry, "W_enc", None))
    return None if encoder is None else _squares(encoder, widths.reads, dim=0).T.cpu()


def _squares(weights: Tensor, widths: tuple[int, ...], dim: int) -> Tensor:
    return torch.stack([part.double().square().sum(dim) for part in weights.split(widths, dim=dim)], dim=dim)
