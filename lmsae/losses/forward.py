"""The contract of a loss: the forward pass that it sees, the step of training that it is asked at, and its value.

Torch is not imported here: losses are methods of tensors, and a plan that only names losses stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from lmsae.config import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.geometry.geometry import Geometry
    from lmsae.losses.codes import Codes
    from lmsae.sparsity.sparsity import Sparsity


@runtime_checkable
class SplicedModel(Protocol):
    """The language model on a batch, with the reconstruction in the place of its activations."""

    def divergence(self) -> Tensor:
        """Mean KL(model || this), in nats, over usable positions that have a next token."""
        ...

    def cross_entropy(self) -> Tensor:
        """Mean cross-entropy of the next token, in nats, over the same positions."""
        ...


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward pass over the usable tokens of a batch, in training's units.

    x (tokens, d_in), target and reconstruction (tokens, d_out). `pre` (tokens, latents) is what latents are selected
    by, in the units of `codes.pre`. In a pass at few entries it has no gradient; only `entrywise` losses see such a
    pass. `k` is the number of codes that the pass selected a token, None for the config's own; `model` is there for
    losses that need it.
    """

    x: Tensor
    target: Tensor
    pre: Tensor
    codes: Codes
    reconstruction: Tensor
    k: int | None = None
    model: SplicedModel | None = None


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
    """It makes codes sparse where the activation function alone does not."""
    entrywise: ClassVar[bool] = False
    """It asks nothing of latents whose code and threshold have no gradient: a forward pass at few entries will do."""
    needs: ClassVar[tuple[type, ...]] = ()
    """The capabilities that it needs of the activation function: types of lmsae/sparsity/capabilities.py."""
    needs_unit_rows: ClassVar[bool] = False
    """It needs decoder rows of norm 1."""
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


def widen(values: Tensor) -> Tensor:
    """The values in float32 where products gave them in half precision; sums over tokens and latents need it."""
    return values.float() if values.itemsize < 4 else values
