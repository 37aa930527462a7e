"""Penalties that make codes sparse. Each is multiplied by the sparsity warm-up.

A code's size is |f_i| ||W_dec,i||: what latent i writes, in norm. Unless a loss says otherwise, sizes are what it
penalizes, so that it cannot be escaped by smaller codes and longer decoder rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lmsae.geometry.forward import Forward
from lmsae.kernels.precision import widen
from lmsae.losses.loss import Loss, TrainingStep
from lmsae.sparsity.capabilities import HasThreshold, require

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.geometry.geometry import Geometry
    from lmsae.sparsity.sparsity import Sparsity

NEGLIGIBLE = 1e-6
"""Codes below count as 0 in powers: the slope of f^p has no bound towards f = 0 where p < 1."""
L1_COEFFICIENT = (
    "Weight of the L1 penalty on codes times decoder norms; gated dictionaries have it on what opens the gate."
)


def sizes(geometry: Geometry, forward: Forward) -> Tensor:
    """|f_i| ||W_dec,i||, in the shape of codes, in float32 or better."""
    return forward.codes.magnitudes * forward.codes.spread(geometry.norms())


def power(values: Tensor, exponent: float, above: float = NEGLIGIBLE) -> Tensor:
    """values^exponent where a value is greater than `above`, elsewhere 0 without a gradient. Values are not negative.

    Exponent 1 is the values themselves.
    """
    if exponent == 1:
        return values
    there = values > above
    return values.where(there, 1.0).pow(exponent).where(there, 0.0)


class L1(Loss):
    """lambda * mean over tokens of sum_i |f_i| ||W_dec,i|| (Bricken et al. 2023; with norms, Conerly et al. 2024)."""

    sparsifies: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True

    kind: Literal["l1"] = "l1"
    l1_coefficient: float = Field(gt=0, description=L1_COEFFICIENT)

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        penalty = forward.codes.average_weighted(forward.codes.magnitudes, geometry.norms())
        return self.l1_coefficient * training.sparsity_warm_up * penalty


class Lp(Loss):
    """lambda * mean over tokens of (sum_i size_i^p)^(1/p), the L_p norm of a token's sizes; p = 1 is L1. Codes whose
    size is below 1e-6 count as 0 where p is not 1."""

    sparsifies: ClassVar[bool] = True

    kind: Literal["lp"] = "lp"
    lp_coefficient: float = Field(gt=0, description="Weight of the L_p penalty on codes times decoder norms.")
    p: float = Field(gt=0, description="Which norm the L_p penalty takes; 1 is L1, less is sparser.")

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        powers = power(sizes(geometry, forward), self.p).sum(-1)
        return self.lp_coefficient * training.sparsity_warm_up * power(powers, 1 / self.p, above=0.0).mean()


TANH_SCALE = "What codes times decoder norms are multiplied by inside the tanh."


class Tanh(Loss):
    """lambda * mean over tokens of sum_i tanh(c size_i) (Anthropic, Circuits Updates, January 2025)."""

    sparsifies: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True

    kind: Literal["tanh"] = "tanh"
    tanh_coefficient: float = Field(gt=0, description="Weight of the tanh penalty on codes times decoder norms.")
    tanh_scale: float = Field(default=4.0, gt=0, description=TANH_SCALE)

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        penalty = forward.codes.average((self.tanh_scale * sizes(geometry, forward)).tanh())
        return self.tanh_coefficient * training.sparsity_warm_up * penalty


class TanhQuad(Loss):
    """lambda * sum_i p_i (1 + p_i / s) with p_i = mean over tokens of tanh(c size_i): latents that fire on more than
    about s of all tokens pay quadratically."""

    sparsifies: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    kind: Literal["tanh_quad"] = "tanh_quad"
    tanh_quad_coefficient: float = Field(gt=0, description="Weight of the tanh-quad penalty on frequent latents.")
    tanh_quad_saturation: float = Field(
        default=0.01, gt=0, description="Firing rate from which the tanh-quad penalty is more quadratic than linear."
    )
    tanh_scale: float = Field(default=4.0, gt=0, description=TANH_SCALE)

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        rates = (self.tanh_scale * sizes(geometry, forward)).tanh().mean(0)
        penalty = (rates * (1 + rates / self.tanh_quad_saturation)).sum()
        return self.tanh_quad_coefficient * training.sparsity_warm_up * penalty


def mean_l0(sparsity: Sparsity, forward: Forward) -> Tensor:
    """mean over tokens of sum_i 1[pre_i > theta_i], through JumpReLU's straight-through estimator
    (Rajamanoharan et al. 2024, arXiv 2407.14435, equation 9)."""
    codes = forward.codes
    return codes.average(widen(require(sparsity, HasThreshold).step(codes.pre, codes.latents)))


class L0(Loss):
    """lambda * the mean number of active latents (Rajamanoharan et al. 2024, arXiv 2407.14435, equation 9)."""

    sparsifies: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True
    needs: ClassVar[tuple[type, ...]] = (HasThreshold,)

    kind: Literal["l0"] = "l0"
    l0_coefficient: float = Field(gt=0, description="Weight of the penalty on the number of active latents.")

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        return self.l0_coefficient * training.sparsity_warm_up * mean_l0(sparsity, forward)


class _TowardsL0(Loss):
    """The columns of losses that hold the mean number of active latents at a target."""

    sparsifies: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True
    needs: ClassVar[tuple[type, ...]] = (HasThreshold,)

    target_l0: float = Field(gt=0, description="Active latents a token that training steers towards.")
    target_l0_coefficient: float = Field(gt=0, description="Weight of the loss that steers towards `target_l0`.")


class TargetL0(_TowardsL0):
    """lambda * (L0 / target - 1)^2, of the batch's mean L0 (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

    kind: Literal["target_l0"] = "target_l0"

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        miss = mean_l0(sparsity, forward) / self.target_l0 - 1
        return self.target_l0_coefficient * training.sparsity_warm_up * miss.pow(2)


class TargetL0Gemma(_TowardsL0):
    """lambda * (2 / target) (L0 - target)^2, of the batch's mean L0 (Gemma Scope 2): 2 * target times `target_l0`."""

    kind: Literal["target_l0_gemma"] = "target_l0_gemma"

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        miss = mean_l0(sparsity, forward) - self.target_l0
        return self.target_l0_coefficient * training.sparsity_warm_up * (2 / self.target_l0) * miss.pow(2)
