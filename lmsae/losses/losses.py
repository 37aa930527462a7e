"""Losses: pure functions of one forward pass, each a part of a spec that carries its own coefficient.

Every loss is a mean over tokens, in the units that training sees (normalised activations unless
`sae.normalize_activations` is false), summed over dimensions or latents. Peers divide by d or by the batch's variance;
their coefficients differ accordingly.

Torch is not imported here: losses are methods of tensors, and a plan that only names losses stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lmsae.config import Frozen

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward pass over a batch: x (batch, d_in), target and reconstruction (batch, d_out), pre and codes
    (batch, d_sae)."""

    x: Tensor
    target: Tensor
    pre: Tensor
    codes: Tensor
    reconstruction: Tensor


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: the factor of the sparsity warm-up in [0, 1], and which latents are dead (d_sae,)."""

    sparsity_warm_up: float
    dead: Tensor


def reconstruction_loss(forward: Forward) -> Tensor:
    """mean over tokens of ||reconstruction - target||^2."""
    return (forward.reconstruction - forward.target).pow(2).sum(-1).mean()


class L1(Frozen):
    """lambda * mean over tokens of sum_i |f_i| ||W_dec,i|| (Bricken et al. 2023; with norms, Conerly et al. 2024)."""

    kind: Literal["l1"] = "l1"
    l1_coefficient: float = Field(gt=0, description="Weight of the L1 penalty on codes times decoder norms.")

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        # The mean over tokens first: the same number, no matrix product, and in float32 even where products are in
        # bfloat16.
        penalty = (forward.codes.abs().mean(0) * geometry.norms()).sum()
        return self.l1_coefficient * progress.sparsity_warm_up * penalty


class L0(Frozen):
    """lambda * mean over tokens of sum_i 1[pre_i > theta_i], through JumpReLU's straight-through estimator
    (Rajamanoharan et al. 2024, arXiv 2407.14435, equation 9)."""

    kind: Literal["l0"] = "l0"
    l0_coefficient: float = Field(gt=0, description="Weight of the penalty on the number of active latents.")

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        penalty = sparsity.step(forward.pre).sum(-1).mean()
        return self.l0_coefficient * progress.sparsity_warm_up * penalty


class AuxK(Frozen):
    """Dead latents learn what the others leave: alpha * ||e - e_hat||^2 / ||e||^2, in units of mean ||y||^2.

    e = (y - y_hat), detached; e_hat is written by the k_aux dead latents with the largest pre, without b_dec. Zero
    while no latent is dead. Gao et al. 2024 (arXiv 2406.04093, appendix A.2); scaled by ||y||^2 so that alpha means the
    same whatever the units of the activations.
    """

    kind: Literal["aux_k"] = "aux_k"
    aux_k_coefficient: float = Field(default=1 / 32, ge=0, description="Weight alpha of the AuxK loss; 0 turns it off.")
    k_aux: int | None = Field(
        default=None, gt=0, description="Dead latents a token that AuxK uses; empty means d_out / 2."
    )

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        dead = progress.dead.nonzero().squeeze(1)
        if not len(dead) or not self.aux_k_coefficient:
            return forward.reconstruction.new_zeros(())
        error = (forward.target - forward.reconstruction).detach()
        pre = forward.pre[..., dead].relu()
        k = min(self.k_aux or forward.target.shape[-1] // 2, len(dead))
        values, indices = pre.topk(k, dim=-1, sorted=False)
        codes = pre.new_zeros(pre.shape).scatter(-1, indices, values)
        squared_error = (error - geometry.contribution(codes, dead)).pow(2).sum()
        scale = forward.target.pow(2).sum(-1).mean() / error.pow(2).sum().clamp(min=1e-12)
        return self.aux_k_coefficient * scale * squared_error


LossConfig = Annotated[L1 | L0 | AuxK, Field(discriminator="kind")]
LOSSES: dict[str, type[Frozen]] = {"l1": L1, "l0": L0, "aux_k": AuxK}
