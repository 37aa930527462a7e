"""Gated: one path says whether a latent fires, another how strongly (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.kernels.entries import Entries
from lmsae.sparsity.config import GatedConfig
from lmsae.sparsity.sparsity import EntrywiseSparsity


@final
class Gated(EntrywiseSparsity):
    """Parameters: b_gate, r_mag, b_mag (latents,), all 0 at the start, where codes are those of relu.

    The gate is a step and has no gradient: b_gate learns from the gated auxiliary loss alone.
    """

    each_alone: ClassVar[bool] = True

    def __init__(self, config: GatedConfig, latents: int, groups: int) -> None:
        super().__init__()
        del config, groups
        self.b_gate = nn.Parameter(torch.zeros(latents))
        self.r_mag = nn.Parameter(torch.zeros(latents))
        self.b_mag = nn.Parameter(torch.zeros(latents))

    def gate(self, pre: Tensor, latents: Int[Tensor, " entries"] | None = None) -> Tensor:
        """pi = pre + b_gate; a latent fires where it is above 0. `pre` is (*batch, latents), or (entries,) of these
        latents."""
        return pre + (self.b_gate if latents is None else self.b_gate[latents])

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        magnitude = (pre * self.r_mag.exp() + self.b_mag).relu()
        return magnitude * (self.gate(pre) > 0)

    def activate_latents(
        self, pre: Float[Tensor, "*batch chosen"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        return self._activate(pre, latents)

    def choose_entries(self, pre: Float[Tensor, "tokens latents"]) -> Entries | None:
        """Wherever the gate is open, whatever the magnitude."""
        return Entries.find_above(pre, -self.b_gate.detach())

    def activate_at(
        self, pre: Float[Tensor, " entries"], latents: Int[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        return self._activate(pre, latents)

    def _activate(self, pre: Tensor, latents: Tensor) -> Tensor:
        magnitude = (pre * self.r_mag.exp()[latents] + self.b_mag[latents]).relu()
        return magnitude * (self.gate(pre, latents) > 0)
