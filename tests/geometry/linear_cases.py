"""Small linear geometries of every kind, and affine maps to fold into them, all in float64."""

from typing import cast

import torch
from torch import Tensor

from lmsae.geometry.config import CrosscoderConfig, GeometryConfig, SAEConfig, SkipTranscoderConfig, TranscoderConfig
from lmsae.geometry.geometry import Affine
from lmsae.geometry.linear import Linear
from tests.geometry.filling import filled, generator

LATENTS = 5
CASES: dict[str, tuple[GeometryConfig, tuple[int, ...], tuple[int, ...]]] = {
    "sae": (SAEConfig(), (3,), (3,)),
    "sae, b_dec not subtracted": (SAEConfig(apply_b_dec_to_input=False), (3,), (3,)),
    "sae, tied": (SAEConfig(tied_encoder=True), (3,), (3,)),
    "sae, gate": (SAEConfig(glu_encoder=True), (3,), (3,)),
    "sae, tied, gate, b_dec not subtracted": (
        SAEConfig(tied_encoder=True, glu_encoder=True, apply_b_dec_to_input=False),
        (3,),
        (3,),
    ),
    "transcoder": (TranscoderConfig(), (3,), (4,)),
    "transcoder, gate": (TranscoderConfig(glu_encoder=True), (3,), (4,)),
    "skip transcoder": (SkipTranscoderConfig(), (3,), (4,)),
    "skip transcoder, gate": (SkipTranscoderConfig(glu_encoder=True), (3,), (4,)),
    "crosscoder": (CrosscoderConfig(), (3, 2), (3, 2)),
    "crosscoder, gate": (CrosscoderConfig(glu_encoder=True), (3, 2), (3, 2)),
}


def case(name: str, *, encoder_bias: bool = True) -> Linear:
    """One of `CASES`, with random weights."""
    return cast(Linear, filled(*CASES[name], LATENTS, encoder_bias=encoder_bias))


def diagonal(width: int, seed: int, shifted: bool = True) -> Affine:
    """A factor for each coordinate."""
    scale = torch.rand(width, generator=generator(seed), dtype=torch.float64) + 0.2
    return Affine(_shift(width, seed, shifted), scale, 1 / scale)


def full(width: int, seed: int, shifted: bool = True) -> Affine:
    """A matrix, well-conditioned."""
    noise = torch.randn(width, width, generator=generator(seed), dtype=torch.float64)
    scale = torch.linalg.qr(noise).Q @ torch.diag(torch.linspace(0.3, 2.0, width, dtype=torch.float64)) + 0.05 * noise
    return Affine(_shift(width, seed, shifted), scale, torch.linalg.inv(scale))


def applied(affine: Affine, x: Tensor) -> Tensor:
    """Raw activations in training's units, by the definition."""
    return (x - affine.shift) @ _matrix(affine.scale)


def undone(affine: Affine, y: Tensor) -> Tensor:
    """Training's units as raw activations, by the definition."""
    return torch.linalg.solve(_matrix(affine.scale).T, y.T).T + affine.shift


def _matrix(scale: Tensor) -> Tensor:
    return scale if scale.ndim == 2 else torch.diag(scale)


def _shift(width: int, seed: int, shifted: bool) -> Tensor:
    return shifted * torch.randn(width, generator=generator(seed + 100), dtype=torch.float64)
