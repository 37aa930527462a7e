"""P-annealing: from an L1 penalty towards one on the number of active latents (Karvonen et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from lmsae.geometry.forward import Forward
from lmsae.losses.loss import Loss, TrainingStep
from lmsae.losses.penalties import power

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.geometry.geometry import Geometry
    from lmsae.sparsity.sparsity import Sparsity


class PAnneal(Loss):
    """lambda * mean over tokens of sum_i |f_i|^p, p falling from `p_start` to `p_end` in equal changes (Karvonen et al.
    2024, arXiv 2408.00113, section 4).

    At each change lambda is multiplied by what keeps the penalty of that batch as it was. Decoder
    norms are not in it: rows must have norm 1. Codes below 1e-6 count as 0 where p is not 1.
    """

    sparsifies: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True
    needs_unit_rows: ClassVar[bool] = True

    kind: Literal["p_anneal"] = "p_anneal"
    p_anneal_coefficient: float = Field(gt=0, description="Weight of the penalty on codes^p, at the first p.")
    p_start: float = Field(default=1.0, gt=0, description="Exponent of the penalty on codes at first; 1 is L1.")
    p_end: float = Field(default=0.2, gt=0, description="Exponent of the penalty on codes at last.")
    p_anneal_start: float = Field(default=0.1, ge=0, lt=1, description="Share of all steps at which p begins to fall.")
    p_anneal_end: float = Field(default=1.0, gt=0, le=1, description="Share of all steps at which p has fallen.")
    p_anneal_changes: int = Field(default=10, gt=0, description="Equal changes in which p falls.")

    @model_validator(mode="after")
    def _starts_before_it_ends(self) -> PAnneal:
        if self.p_end > self.p_start:
            raise ValueError(f"p falls, but p_end {self.p_end} is above p_start {self.p_start}; lower it")
        if self.p_anneal_start >= self.p_anneal_end:
            raise ValueError(
                f"p_anneal_start is {self.p_anneal_start}, not before p_anneal_end at {self.p_anneal_end}; lower it"
            )
        return self

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        penalty = _mean_power(forward, self.p(training.step, training.steps))
        return self.p_anneal_coefficient * training.sparsity_warm_up * penalty * training.memory["scale"]

    def p(self, step: int, steps: int) -> float:
        """The exponent at a step. The first change is right after `p_anneal_start`, and the last leaves `p_end` a
        stretch of its own before `p_anneal_end`."""
        start, end = round(self.p_anneal_start * steps), round(self.p_anneal_end * steps)
        changes = -((start - step) * self.p_anneal_changes // max(end - start, 1))
        done = min(max(changes, 0), self.p_anneal_changes) / self.p_anneal_changes
        return (1 - done) * self.p_start + done * self.p_end

    def schedule_at(self, step: int, steps: int) -> tuple[float, float]:
        """The exponents at the step and the next, to which the coefficient adapts."""
        return self.p(step, steps), self.p(step + 1, steps)

    def memory(self) -> dict[str, Tensor]:
        import torch

        return {"scale": torch.ones(())}

    def observe(self, memory: dict[str, Tensor], forward: Forward, training: TrainingStep) -> None:
        p, p_next = (self.p(step, training.steps) for step in (training.step, training.step + 1))
        if p == p_next:
            return
        before, after = _mean_power(forward, p), _mean_power(forward, p_next)
        if after > 0:
            memory["scale"].mul_((before / after).to(memory["scale"]))


def _mean_power(forward: Forward, p: float) -> Tensor:
    return forward.codes.average(power(forward.codes.magnitudes, p))
