"""AbsTopK: the k largest of |pre| a token, in each group of latents, with their signs."""

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmsae.sparsity.selection import Selection


@final
class AbsTopK(Selection):
    """A latent is one direction and its opposite."""

    signed: ClassVar[bool] = True

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        return self.at(pre, self.k_now)

    def at(self, pre: Float[Tensor, "*batch latents"], k: int) -> Float[Tensor, "*batch latents"]:
        parts = pre.unflatten(-1, (self.groups, -1))
        indices = parts.detach().abs().topk(min(k, parts.shape[-1]), dim=-1, sorted=False).indices
        return torch.zeros_like(parts).scatter(-1, indices, parts.gather(-1, indices)).flatten(-2)
