"""The forward pass of a dictionary, as losses see it. Torch is not imported here: losses are named without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.geometry.codes import Codes


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
