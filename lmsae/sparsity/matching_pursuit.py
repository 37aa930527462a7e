"""Matching pursuit: latents explain x away one after the other (Costa et al. 2025, arXiv 2506.03093)."""

from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmsae.sparsity.config import MatchingPursuitConfig
from lmsae.sparsity.sparsity import Sparsity


@runtime_checkable
class Directions(Protocol):
    """A geometry whose latents have directions: what matching pursuit asks of the one behind `pre`."""

    def overlaps(self, latents: Tensor) -> Tensor:
        """The fall of each latent's pre when a code of 1 at one of `latents` (*batch,) is explained away:
        W_dec[latents] W_enc, (*batch, latents)."""
        ...


@final
class MatchingPursuit(Sparsity):
    """k steps of a token: the latent with the largest pre fires by that much, and its direction is taken out of pre.

    A latent that is chosen again fires by the sum. Once no pre is positive, nothing changes any more. As in SAELens,
    which latents are chosen has no gradient, and codes have the exact one, through pre and through the directions.
    """

    def __init__(self, config: MatchingPursuitConfig, latents: int, groups: int) -> None:
        super().__init__()
        del latents, groups
        self.k = config.k

    @property
    def kept(self) -> int:
        return self.k

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        """Raises TypeError without a geometry whose latents have directions."""
        if not isinstance(geometry, Directions):
            raise TypeError(
                f"matching pursuit takes the directions of latents out of pre, so it needs the geometry, one with "
                f"`overlaps`: call sparsity(pre, geometry) with that of an SAE, not with {type(geometry).__name__}"
            )
        remaining = pre.detach()
        latents, codes = [], []
        for _ in range(self.k):
            latent = remaining.argmax(-1, keepdim=True)
            overlaps = geometry.overlaps(latent.squeeze(-1))
            code = (pre.gather(-1, latent) - _sum_explained(latents, codes, overlaps)).relu()
            remaining = remaining - code.detach() * overlaps.detach()
            latents.append(latent)
            codes.append(code)
        return torch.zeros_like(pre).scatter_add(-1, torch.cat(latents, -1), torch.cat(codes, -1))


def _sum_explained(latents: list[Tensor], codes: list[Tensor], overlaps: Tensor) -> Tensor:
    """The sum that codes (*batch, 1) of earlier latents take from the pre of the latent that has these overlaps.

    With a tied encoder the overlap of a with b is that of b with a, so the overlaps of the last latent are enough.
    Those of earlier ones are not kept: the gradient takes the memory of k codes a token, not of k times all latents.
    """
    if not latents:
        return torch.zeros_like(overlaps[..., :1])
    return (torch.cat(codes, -1) * overlaps.gather(-1, torch.cat(latents, -1))).sum(-1, keepdim=True)
