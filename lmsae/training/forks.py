"""How far two runs are one and the same that differ in nothing but how long they train. No torch.

A longer run may go on from a state of a shorter one as long as no schedule has known by then how many steps there will
be. A share of all steps does from the start, a cool-down from where it begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmsae.losses.config import LossConfig
from lmsae.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Schedules:
    """All that a run does by the step: `k` is that of its activation function, if it has one."""

    config: TrainConfig
    losses: Sequence[LossConfig]
    k: int | None = None

    @property
    def steps(self) -> int:
        return self.config.steps

    def at(self, step: int) -> dict[str, Any]:
        """What every schedule has at a step, by the name of what it moves."""
        return {
            "the learning rate": self.config.lr_factor(step),
            "the warm-up of sparsity penalties": self.config.sparsity_factor(step),
            "k": self.config.k_at(step, self.k) if self.config.initial_k and self.k else None,
            "resampling": self.config.resamples_after(step),
            **{loss.kind: loss.at(step, self.steps) for loss in self.losses},
        }

    def longer(self) -> "Schedules":
        """Those of a run twice as long."""
        return Schedules(self.config.model_copy(update={"tokens": 2 * self.config.tokens}), self.losses, self.k)


@dataclass(frozen=True, slots=True)
class Fork:
    """Where two runs part: the steps that they share, and what differs in the next; None where nothing does, because
    that is the last step of the shorter one."""

    steps: int
    differs: str | None


def fork(shorter: Schedules, longer: Schedules) -> Fork:
    """Where a longer run parts from a shorter one, at the latest before the shorter one's last step."""
    for step in range(min(shorter.steps, longer.steps) - 1):
        here, there = shorter.at(step), longer.at(step)
        if here != there:
            return Fork(step, next(name for name, value in here.items() if value != there[name]))
    return Fork(min(shorter.steps, longer.steps) - 1, None)
