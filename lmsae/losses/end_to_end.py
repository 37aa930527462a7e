"""End-to-end losses: what the language model loses when the reconstruction takes the place of its own activations.

They stand beside the reconstruction loss, which counts for little next to a large coefficient. They train on whole
contexts, and the model runs through these at every step: two forward passes and a backward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lmsae.geometry.forward import Forward
from lmsae.losses.loss import Loss, TrainingStep

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.geometry.geometry import Geometry
    from lmsae.sparsity.sparsity import Sparsity


class EndToEndKL(Loss):
    """lambda * mean KL(model || model with the dictionary spliced in) over the next token, in nats (Braun et al. 2024,
    arXiv 2405.12241, equation 1)."""

    needs_model: ClassVar[bool] = True

    kind: Literal["e2e_kl"] = "e2e_kl"
    e2e_kl_coefficient: float = Field(
        gt=0,
        description="Weight of the divergence, in nats, of the model with the dictionary in it from the model itself. "
        "The reconstruction loss beside it is of the order of the hook point's width.",
    )

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        assert forward.model is not None, "training runs the model for losses that need it"
        return self.e2e_kl_coefficient * forward.model.divergence()


class EndToEndCE(Loss):
    """lambda * mean cross-entropy of the next token, in nats, by the model with the dictionary spliced in."""

    needs_model: ClassVar[bool] = True

    kind: Literal["e2e_ce"] = "e2e_ce"
    e2e_ce_coefficient: float = Field(
        gt=0,
        description="Weight of the next token's cross-entropy, in nats, by the model with the dictionary in it. The "
        "reconstruction loss beside it is of the order of the hook point's width.",
    )

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        assert forward.model is not None, "training runs the model for losses that need it"
        return self.e2e_ce_coefficient * forward.model.cross_entropy()
