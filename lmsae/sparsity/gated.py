"""Gated: one path says whether a latent fires, another how strongly (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmsae.sparsity.config import GatedConfig
from lmsae.sparsity.sparsity import Sparsity


@final
class Gated(Sparsity):
    """Parameters: b_gate, r_mag, b_mag (latents,), all 0 at the start, where codes are those of relu.

    The gate is a step and has no gradient: b_gate learns from the gated auxiliary loss alone.
    """

    def __init__(self, config: GatedConfig, latents: int, groups: int) -> None:
        super().__init__()
        del config, groups
        self.b_gate = nn.Parameter(torch.zeros(latents))
        self.r_mag = nn.Parameter(torch.zeros(latents))
        self.b_mag = nn.Parameter(torch.zeros(latents))

    def gate(self, pre: Float[Tensor, "*batch latents"]) -> Float[Tensor, "*batch latents"]:
        """pi = pre + b_gate; a latent fires where it is above 0."""
        return pre + self.b_gate

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        magnitude = (pre * self.r_mag.exp() + self.b_mag).relu()
        return torch.where(self.gate(pre) > 0, magnitude, 0.0)
