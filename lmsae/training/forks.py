"""The step at which two runs part that differ only in how long they train. No torch.

A longer run may go on from a state of a shorter one if no schedule has depended on the number of steps until then. A
duration given as a share of all steps depends on it from the start, a cool-down from where it begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmsae.losses.config import LossConfig
from lmsae.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Schedules:
    """All schedules of a run; `k` is that of its activation function, if it has one."""

    config: TrainConfig
    losses: Sequence[LossConfig]
    k: int | None = None

    @property
    def steps(self) -> int:
        return self.config.steps

    def values_at(self, step: int) -> dict[str, object]:
        """The value of every schedule at a step, by the name of what it moves."""
        return {
            "the learning rate": self.config.lr_factor(step),
            "the warm-up of sparsity penalties": self._sparsity_factor_at(step),
            "k": self.config.k_at(step, self.k) if self.config.initial_k and self.k else None,
            "resampling": self.config.resamples_after(step),
            **{loss.kind: loss.schedule_at(step, self.steps) for loss in self.losses},
        }

    def _sparsity_factor_at(self, step: int) -> float | None:
        """The factor at a step of losses that are warmed up; None where there are none."""
        return self.config.sparsity_factor(step) if any(loss.sparsifies for loss in self.losses) else None

    def lengthen(self) -> "Schedules":
        """The schedules of a run twice as long."""
        return Schedules(self.config.model_copy(update={"tokens": 2 * self.config.tokens}), self.losses, self.k)


@dataclass(frozen=True, slots=True)
class Fork:
    """The parting of two runs: the steps that they share, and what differs in the next. None means that nothing does:
    the next is the last step of the shorter one."""

    steps: int
    differs: str | None


def find_fork(shorter: Schedules, longer: Schedules) -> Fork:
    """The parting of a longer run from a shorter one, at the latest before the shorter one's last step."""
    for step in range(min(shorter.steps, longer.steps) - 1):
        here, there = shorter.values_at(step), longer.values_at(step)
        if here != there:
            return Fork(step, next(name for name, value in here.items() if value != there[name]))
    return Fork(min(shorter.steps, longer.steps) - 1, None)
