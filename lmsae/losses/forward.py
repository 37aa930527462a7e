"""What a loss is, and what it sees.

Torch is not imported here: losses are methods of tensors, and a plan that only names losses stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from lmsae.config import Frozen

if TYPE_CHECKING:
    from torch import Tensor


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

    x (tokens, d_in), target and reconstruction (tokens, d_out), pre and codes (tokens, latents). `pre` is what latents
    are selected by: with `norms_in_pre` it is multiplied by decoder norms already, while codes never are. `model` is
    there for losses that need it.
    """

    x: Tensor
    target: Tensor
    pre: Tensor
    codes: Tensor
    reconstruction: Tensor
    norms_in_pre: bool = False
    model: SplicedModel | None = None

    def codes_of(self, selected: Tensor, geometry: Any, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Something in the units of `pre` (tokens, chosen) as codes of those latents."""
        return selected / geometry.norms()[chosen].clamp(min=1e-12) if self.norms_in_pre else selected

    def sizes_of(self, selected: Tensor, geometry: Any) -> Tensor:
        """Something in the units of `pre` (tokens, latents) times decoder norms, once."""
        return selected if self.norms_in_pre else selected * geometry.norms()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: `step` of `steps`, the factor of the sparsity warm-up in [0, 1], which latents are dead
    (latents,), the seed of whatever a loss draws at random, and the memory that this loss keeps between steps."""

    sparsity_warm_up: float
    dead: Tensor
    step: int = 0
    steps: int = 1
    seed: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)


class Loss(Frozen):
    """A term of the training loss. Calling it is pure; `observe` is the one place where its memory changes."""

    replaces_reconstruction: ClassVar[bool] = False
    """It measures the reconstruction itself, so that the plain reconstruction loss is not added."""
    sparsifies: ClassVar[bool] = False
    """It makes codes sparse where the activation function alone does not."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What it needs of the other parts: a learned `threshold`, a `gate` or a number `k` of active latents of the
    activation function, decoder rows of norm 1 (`unit_norm_decoder`), or the language `model` at every step."""

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        """The term's value, a scalar."""
        raise NotImplementedError

    def memory(self) -> dict[str, Tensor]:
        """What the loss must remember between steps, at the start of training."""
        return {}

    def observe(self, memory: dict[str, Tensor], forward: Forward, progress: Progress) -> None:
        """Change the memory in place after a step."""


def full(values: Tensor) -> Tensor:
    """The values in float32 where products gave them in half precision; sums over tokens and latents need it."""
    return values.float() if values.itemsize < 4 else values
