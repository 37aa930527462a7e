"""The contract of a loss: the step of training that it is asked at, and its value.

Torch is not imported here: losses are methods of tensors, and a plan that only names losses stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from lmsae.config import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.geometry.forward import Forward
    from lmsae.geometry.geometry import Geometry
    from lmsae.sparsity.sparsity import Sparsity


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The step of training that a loss is asked at: `step` of `steps`, the factor of the sparsity warm-up in [0, 1],
    which latents are dead (latents,), the seed of whatever a loss draws at random, and the memory that this loss keeps
    between steps.

    `all_alive` tells that no latent is dead without a look at `dead`, for which a GPU's queue would have to be waited
    for.
    """

    sparsity_warm_up: float
    dead: Tensor
    step: int = 0
    steps: int = 1
    seed: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    all_alive: bool = False

    def find_dead(self) -> Tensor | None:
        """The numbers of the dead latents; None while there is none."""
        if self.all_alive:
            return None
        numbers = self.dead.nonzero().squeeze(1)
        return numbers if len(numbers) else None


class Loss(Frozen):
    """A term of the training loss. A call is pure; `observe` is the one place where its memory changes."""

    replaces_reconstruction: ClassVar[bool] = False
    """It measures the reconstruction itself, so that the plain reconstruction loss is not added."""
    sparsifies: ClassVar[bool] = False
    """It makes codes sparse where the activation function alone does not, and so is warmed up."""
    entrywise: ClassVar[bool] = False
    """It asks nothing of latents whose code and threshold have no gradient: a forward pass at few entries will do."""
    needs: ClassVar[tuple[type, ...]] = ()
    """The capabilities that it needs of the activation function: types of lmsae/sparsity/capabilities.py."""
    needs_unit_rows: ClassVar[bool] = False
    """It needs decoder rows of norm 1."""
    shardable: ClassVar[bool] = False
    """Latents can be divided among processes (`train.shards`): its value is a sum over latents, or
    lmsae/training/sharded/sharded_run.py knows how it is measured."""
    needs_model: ClassVar[bool] = False
    """It needs the language model at every step."""

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        """The term's value, a scalar."""
        raise NotImplementedError

    def schedule_at(self, step: int, steps: int) -> tuple[float, ...] | None:
        """The part of the loss at a step that depends on how many steps there are; None for nothing."""

    def memory(self) -> dict[str, Tensor]:
        """The tensors that the loss keeps between steps, at the start of training."""
        return {}

    def observe(self, memory: dict[str, Tensor], forward: Forward, training: TrainingStep) -> None:
        """Change the memory in place after a step."""
