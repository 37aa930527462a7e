"""Auxiliary losses: for dead latents (AuxK, ghost gradients, pre-act), for gates, and for other numbers of active
latents than k (multi-TopK). None makes codes sparse, and none is warmed up, except the L1 part of the gate's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lmsae.geometry.forward import Forward
from lmsae.kernels.precision import widen
from lmsae.losses.loss import Loss, TrainingStep
from lmsae.losses.penalties import L1_COEFFICIENT
from lmsae.losses.reconstruction import squared_error
from lmsae.sparsity.capabilities import HasGate, HasThreshold, TakesAnyK, require

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.geometry.geometry import Geometry
    from lmsae.sparsity.sparsity import Sparsity


class AuxK(Loss):
    """Dead latents learn what the others leave: alpha * ||e - e_hat||^2 / ||e||^2, in units of mean ||y||^2.

    e = (y - y_hat), detached; e_hat is written by the k_aux dead latents with the largest pre, without b_dec (of
    abstopk the largest |pre|, with their signs). Zero while no latent is dead. Gao et al. 2024 (arXiv 2406.04093,
    appendix A.2); scaled by ||y||^2 so that alpha means the same whatever the units of the activations.
    """

    entrywise: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    kind: Literal["aux_k"] = "aux_k"
    aux_k_coefficient: float = Field(default=1 / 32, ge=0, description="Weight alpha of the AuxK loss; 0 turns it off.")
    k_aux: int | None = Field(
        default=None, gt=0, description="Dead latents a token that AuxK uses; empty means d_out / 2."
    )

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        dead = training.find_dead() if self.aux_k_coefficient else None
        if dead is None:
            return forward.reconstruction.new_zeros(())
        candidates = forward.pre.detach()[..., dead]
        k = self.count_chosen(forward, len(dead))
        chosen = (candidates.abs() if forward.codes.signed else candidates).topk(k, dim=-1, sorted=False).indices
        return self.compare(forward, forward.codes.write_chosen(geometry, forward.x, dead, chosen))

    def count_chosen(self, forward: Forward, dead: int) -> int:
        """The number of latents that each token takes of so many dead ones."""
        return min(self.k_aux or forward.target.shape[-1] // 2, dead)

    def compare(self, forward: Forward, error_hat: Tensor) -> Tensor:
        """The loss of what dead latents write (tokens, d_out)."""
        error = (forward.target - forward.reconstruction).detach()
        scale = forward.target.pow(2).sum(-1).mean() / error.pow(2).sum().clamp(min=1e-12)
        return self.aux_k_coefficient * scale * (error - error_hat).pow(2).sum()


class GhostGrads(Loss):
    """Dead latents get the gradient that they would have with exp for an activation function (Anthropic, Circuits
    Updates, January 2024).

    exp(pre) of the dead latents is decoded without b_dec, brought to half the norm of the residual y - y_hat token by
    token, and its squared distance from the residual brought to the size of the reconstruction loss. Residual and both
    factors are constants, so that only the encoder and decoder of dead latents learn from it. Zero while none is dead.
    """

    kind: Literal["ghost_grads"] = "ghost_grads"

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        dead = training.find_dead()
        if dead is None:
            return forward.reconstruction.new_zeros(())
        residual = (forward.target - forward.reconstruction).detach()
        pre = widen(forward.pre[..., dead])
        # exp of a difference cannot overflow. Each token loses a factor by it, and gets another when norms are set.
        selected = (pre - pre.detach().amax(-1, keepdim=True)).exp()
        ghost = geometry.write(forward.codes.to_codes(selected, geometry, dead), dead, forward.x)
        norms = widen(ghost.detach()).norm(dim=-1, keepdim=True)
        ghost = ghost * (residual.norm(dim=-1, keepdim=True) / (2 * norms).clamp(min=1e-12))
        missed = squared_error(ghost, residual)
        return missed * (residual.pow(2).sum(-1).mean() / missed.detach().clamp(min=1e-12))


class PreAct(Loss):
    """lambda * mean over tokens of sum_i ReLU(theta_i - pre_i) ||W_dec,i||: latents that do not fire are drawn towards
    their thresholds (Anthropic, Circuits Updates, January 2025).

    Where latents are selected by pre * norm, thresholds are in those units, and the norm is not multiplied again.
    """

    needs: ClassVar[tuple[type, ...]] = (HasThreshold,)
    shardable: ClassVar[bool] = True

    kind: Literal["pre_act"] = "pre_act"
    pre_act_coefficient: float = Field(
        default=3e-6, gt=0, description="Weight of the loss that draws pre-activations up to their thresholds."
    )

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        short = (require(sparsity, HasThreshold).threshold - forward.pre).relu()
        return self.pre_act_coefficient * forward.codes.to_sizes(short, geometry).sum(-1).mean()


class GatedAux(Loss):
    """The gate pi of a gated dictionary is sparse and reconstructs: lambda * mean sum_i ReLU(pi_i) ||W_dec,i||
    + mean ||y - decode(ReLU(pi))||^2, the second with a frozen decoder (Rajamanoharan et al. 2024, arXiv 2404.16014,
    equation 8). Only the first is warmed up."""

    sparsifies: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True
    needs: ClassVar[tuple[type, ...]] = (HasGate,)

    kind: Literal["gated_aux"] = "gated_aux"
    l1_coefficient: float = Field(gt=0, description=L1_COEFFICIENT)

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        codes = forward.codes
        opening = widen(require(sparsity, HasGate).gate(codes.pre, codes.latents)).relu()
        penalty = codes.average(codes.to_sizes(opening, geometry))
        values = codes.to_codes(opening, geometry)
        reconstruction = geometry.run_frozen(lambda frozen: codes.decode(frozen, values, forward.x))
        return self.l1_coefficient * training.sparsity_warm_up * penalty + squared_error(reconstruction, forward.target)


class MultiTopK(Loss):
    """A reconstruction with more than k active latents, so that codes stay useful at other k than that of training:
    alpha * mean ||y - decode(TopK(pre, factor * k))||^2 (Gao et al. 2024, arXiv 2406.04093, section 5.3)."""

    needs: ClassVar[tuple[type, ...]] = (TakesAnyK,)

    kind: Literal["multi_topk"] = "multi_topk"
    multi_topk_coefficient: float = Field(
        default=1 / 8, gt=0, description="Weight of the reconstruction with more active latents."
    )
    multi_topk_factor: int = Field(
        default=4, gt=1, description="How many times k latents are active in the reconstruction of multi-TopK."
    )

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        selecting = require(sparsity, TakesAnyK)
        k = selecting.k if forward.k is None else forward.k
        selected = selecting.select(forward.pre, self.multi_topk_factor * k)
        codes = forward.codes.to_codes(selected, geometry)
        return self.multi_topk_coefficient * squared_error(geometry.decode(codes, forward.x), forward.target)
