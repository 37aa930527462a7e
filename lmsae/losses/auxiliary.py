"""Auxiliary losses: for dead latents (AuxK, ghost gradients, pre-act), for gates, and for other numbers of active
latents than k (multi-TopK). None of them is warmed up, for none makes codes sparse; but the L1 part of the gate's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lmsae.losses.forward import Forward, Loss, Progress, full
from lmsae.losses.penalties import L1_COEFFICIENT
from lmsae.losses.reconstruction import squared_error

if TYPE_CHECKING:
    from torch import Tensor


class AuxK(Loss):
    """Dead latents learn what the others leave: alpha * ||e - e_hat||^2 / ||e||^2, in units of mean ||y||^2.

    e = (y - y_hat), detached; e_hat is written by the k_aux dead latents with the largest pre, without b_dec (of
    abstopk the largest |pre|, with their signs). Zero while no latent is dead. Gao et al. 2024 (arXiv 2406.04093,
    appendix A.2); scaled by ||y||^2 so that alpha means the same whatever the units of the activations.
    """

    entrywise: ClassVar[bool] = True

    kind: Literal["aux_k"] = "aux_k"
    aux_k_coefficient: float = Field(default=1 / 32, ge=0, description="Weight alpha of the AuxK loss; 0 turns it off.")
    k_aux: int | None = Field(
        default=None, gt=0, description="Dead latents a token that AuxK uses; empty means d_out / 2."
    )

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        dead = progress.dead_latents() if self.aux_k_coefficient else None
        if dead is None:
            return forward.reconstruction.new_zeros(())
        error = (forward.target - forward.reconstruction).detach()
        candidates = forward.pre.detach()[..., dead]
        k = min(self.k_aux or forward.target.shape[-1] // 2, len(dead))
        chosen = (candidates.abs() if sparsity.signed else candidates).topk(k, dim=-1, sorted=False).indices
        write = _written if forward.entries is None else _written_at_entries
        error_hat = write(geometry, sparsity, forward, dead, chosen)
        scale = forward.target.pow(2).sum(-1).mean() / error.pow(2).sum().clamp(min=1e-12)
        return self.aux_k_coefficient * scale * (error - error_hat).pow(2).sum()


def _written(geometry: Any, sparsity: Any, forward: Forward, dead: Tensor, chosen: Tensor) -> Tensor:
    """What each token's chosen ones of the dead latents write with ReLU(pre) for codes, or pre where codes have signs;
    `chosen` (tokens, k) counts through `dead`."""
    pre = forward.pre[..., dead]
    candidates = pre if sparsity.signed else pre.relu()
    selected = pre.new_zeros(pre.shape).scatter(-1, chosen, candidates.gather(-1, chosen))
    return geometry.contribution(forward.codes_of(selected, geometry, dead), dead, forward.x)


def _written_at_entries(geometry: Any, sparsity: Any, forward: Forward, dead: Tensor, chosen: Tensor) -> Tensor:
    """`_written`, without a product of all dead latents."""
    from lmsae.kernels.entries import Entries

    entries = Entries.from_latents(dead[chosen], geometry.latents)
    pre = geometry.pre_at(forward.x, entries)
    if forward.norms_in_pre:
        pre = pre * geometry.norms()[entries.latents]
    selected = pre if sparsity.signed else pre.relu()
    return geometry.written_by(forward.codes_of(selected, geometry, entries.latents), entries)


class GhostGrads(Loss):
    """Dead latents get the gradient that they would have with exp for an activation function (Anthropic, Circuits
    Updates, January 2024).

    exp(pre) of the dead latents is decoded without b_dec, brought to half the norm of the residual y - y_hat token by
    token, and its squared distance from the residual brought to the size of the reconstruction loss. Residual and both
    factors are constants, so that only the encoder and decoder of dead latents learn from it. Zero while none is dead.
    """

    kind: Literal["ghost_grads"] = "ghost_grads"

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        dead = progress.dead_latents()
        if dead is None:
            return forward.reconstruction.new_zeros(())
        residual = (forward.target - forward.reconstruction).detach()
        pre = full(forward.pre[..., dead])
        # A factor a token is lost when norms are set, and exp of a difference cannot overflow.
        selected = (pre - pre.detach().amax(-1, keepdim=True)).exp()
        ghost = geometry.contribution(forward.codes_of(selected, geometry, dead), dead, forward.x)
        norms = full(ghost.detach()).norm(dim=-1, keepdim=True)
        ghost = ghost * (residual.norm(dim=-1, keepdim=True) / (2 * norms).clamp(min=1e-12))
        missed = squared_error(ghost, residual)
        return missed * (residual.pow(2).sum(-1).mean() / missed.detach().clamp(min=1e-12))


class PreAct(Loss):
    """lambda * mean over tokens of sum_i ReLU(theta_i - pre_i) ||W_dec,i||: latents that do not fire are drawn towards
    their thresholds (Anthropic, Circuits Updates, January 2025).

    Where latents are selected by pre * norm, thresholds are in those units, and the norm is not multiplied again.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"threshold"})

    kind: Literal["pre_act"] = "pre_act"
    pre_act_coefficient: float = Field(
        default=3e-6, gt=0, description="Weight of the loss that draws pre-activations up to their thresholds."
    )

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        short = (sparsity.threshold - forward.pre).relu()
        return self.pre_act_coefficient * forward.sizes_of(short, geometry).sum(-1).mean()


class GatedAux(Loss):
    """The gate pi of a gated dictionary is sparse and reconstructs: lambda * mean sum_i ReLU(pi_i) ||W_dec,i||
    + mean ||y - decode(ReLU(pi))||^2, the second with a frozen decoder (Rajamanoharan et al. 2024, arXiv 2404.16014,
    equation 8). Only the first is warmed up."""

    sparsifies: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"gate"})

    kind: Literal["gated_aux"] = "gated_aux"
    l1_coefficient: float = Field(gt=0, description=L1_COEFFICIENT)

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        from torch.func import functional_call

        opening = full(sparsity.gate(forward.pre_at_codes, forward.latents)).relu()
        penalty = forward.total(forward.sizes_of(opening, geometry))
        frozen = {name: value.detach() for name, value in geometry.state_dict(keep_vars=True).items()}
        everywhere = slice(None) if forward.latents is None else forward.latents
        codes = forward.codes_of(opening, geometry, everywhere)
        reconstruction = functional_call(geometry, frozen, (codes, forward.x, forward.entries))
        return self.l1_coefficient * progress.sparsity_warm_up * penalty + squared_error(reconstruction, forward.target)


class MultiTopK(Loss):
    """A reconstruction with more than k active latents, so that codes stay useful at other k than that of training:
    alpha * mean ||y - decode(TopK(pre, factor * k))||^2 (Gao et al. 2024, arXiv 2406.04093, section 5.3)."""

    needs: ClassVar[frozenset[str]] = frozenset({"k"})

    kind: Literal["multi_topk"] = "multi_topk"
    multi_topk_coefficient: float = Field(
        default=1 / 8, gt=0, description="Weight of the reconstruction with more active latents."
    )
    multi_topk_factor: int = Field(
        default=4, gt=1, description="How many times k latents are active in the reconstruction of multi-TopK."
    )

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        selected = sparsity.at(forward.pre, self.multi_topk_factor * sparsity.k)
        codes = forward.codes_of(selected, geometry)
        return self.multi_topk_coefficient * squared_error(geometry.decode(codes, forward.x), forward.target)
