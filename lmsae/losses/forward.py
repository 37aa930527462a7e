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

    from lmsae.kernels.entries import Entries


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

    Where a step is computed at few `entries` of (tokens, latents) alone, codes are (entries,), and `pre` has no
    gradient: `pre_at_codes` does. Losses see it if they are `entrywise`. Codes below 0 are there only if `signed`.
    """

    x: Tensor
    target: Tensor
    pre: Tensor
    codes: Tensor
    reconstruction: Tensor
    norms_in_pre: bool = False
    model: SplicedModel | None = None
    entries: Entries | None = None
    pre_of_entries: Tensor | None = None
    signed: bool = False

    @property
    def magnitudes(self) -> Tensor:
        """|codes| in float32 or better, with slope 1 at 0 where codes have no signs. That of abs is 0 there, and the
        straight-through estimator of jumprelu would lose what latents just below their threshold have to say."""
        return full(self.codes).abs() if self.signed else full(self.codes)

    @property
    def pre_at_codes(self) -> Tensor:
        """`pre` where codes stand, in their shape."""
        return self.pre if self.pre_of_entries is None else self.pre_of_entries

    @property
    def latents(self) -> Tensor | None:
        """The latent of each entry; None where codes are (tokens, latents)."""
        return None if self.entries is None else self.entries.latents

    def where_codes_are(self, per_latent: Tensor) -> Tensor:
        """A number of each latent (latents,), to be multiplied by codes."""
        return per_latent if self.latents is None else per_latent.index_select(0, self.latents)

    def total(self, values: Tensor) -> Tensor:
        """The mean over tokens of the sum over latents of something in the shape of codes."""
        return values.mean(0).sum() if self.entries is None else values.sum() / len(self.target)

    def total_of(self, values: Tensor, per_latent: Tensor) -> Tensor:
        """`total` of values in the shape of codes, each times a number of its latent (latents,)."""
        if self.entries is None:
            return (values.mean(0) * per_latent).sum()
        return self.total(values * self.where_codes_are(per_latent))

    def codes_of(self, selected: Tensor, geometry: Any, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Something in the units of `pre` (tokens, chosen) as codes of those latents."""
        return selected / geometry.norms()[chosen].clamp(min=1e-12) if self.norms_in_pre else selected

    def sizes_of(self, selected: Tensor, geometry: Any) -> Tensor:
        """Something in the units of `pre`, in the shape of codes, times decoder norms, once."""
        return selected if self.norms_in_pre else selected * self.where_codes_are(geometry.norms())

    def fired(self) -> Tensor:
        """Which latents have a code anywhere (latents,)."""
        if self.entries is None:
            # Of numbers, any takes twice the time of a maximum.
            return (self.codes.abs() if self.signed else self.codes).amax(0) > 0
        return self.entries.active_latents(self.codes)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: `step` of `steps`, the factor of the sparsity warm-up in [0, 1], which latents are dead
    (latents,), the seed of whatever a loss draws at random, and the memory that this loss keeps between steps.

    `all_alive` says so without a look at `dead`, for which a GPU's queue would have to be waited for.
    """

    sparsity_warm_up: float
    dead: Tensor
    step: int = 0
    steps: int = 1
    seed: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    all_alive: bool = False

    def dead_latents(self) -> Tensor | None:
        """The numbers of the dead latents; None while there is none."""
        if self.all_alive:
            return None
        numbers = self.dead.nonzero().squeeze(1)
        return numbers if len(numbers) else None


class Loss(Frozen):
    """A term of the training loss. Calling it is pure; `observe` is the one place where its memory changes."""

    replaces_reconstruction: ClassVar[bool] = False
    """It measures the reconstruction itself, so that the plain reconstruction loss is not added."""
    sparsifies: ClassVar[bool] = False
    """It makes codes sparse where the activation function alone does not."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What it needs of the other parts: a learned `threshold`, a `gate` or a number `k` of active latents of the
    activation function, decoder rows of norm 1 (`unit_norm_decoder`), or the language `model` at every step."""

    entrywise: ClassVar[bool] = False
    """It asks nothing of latents whose code and threshold have no gradient: a forward pass at few entries will do."""

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        """The term's value, a scalar."""
        raise NotImplementedError

    def at(self, step: int, steps: int) -> Any:
        """What of the loss, at a step, depends on how many steps there are; None for nothing."""

    def memory(self) -> dict[str, Tensor]:
        """What the loss must remember between steps, at the start of training."""
        return {}

    def observe(self, memory: dict[str, Tensor], forward: Forward, progress: Progress) -> None:
        """Change the memory in place after a step."""


def full(values: Tensor) -> Tensor:
    """The values in float32 where products gave them in half precision; sums over tokens and latents need it."""
    return values.float() if values.itemsize < 4 else values
