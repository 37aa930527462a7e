"""Capabilities of activation functions, as types: what losses and schedules may ask for beside codes.

A config names those that its module has (`offers`), and a loss those that it asks for (`needs`). Torch is not imported
here, so that a plan can compare the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.kernels.entries import Entries

T = TypeVar("T")


@runtime_checkable
class HasGate(Protocol):
    """A gate decides which latents fire, apart from how strongly."""

    def gate(self, pre: Tensor, latents: Tensor | None = None) -> Tensor:
        """pi, above 0 where a latent fires. `pre` is (*batch, latents), or (entries,) of these latents."""
        ...


@runtime_checkable
class HasThreshold(Protocol):
    """Each latent has a threshold theta that learns by gradient."""

    @property
    def threshold(self) -> Tensor:
        """theta (latents,), differentiable."""
        ...

    def step(self, pre: Tensor, latents: Tensor | None = None) -> Tensor:
        """1[pre > theta], differentiable in theta. `pre` is (*batch, latents), or (entries,) of these latents."""
        ...


@runtime_checkable
class TakesAnyK(Protocol):
    """It can select another number of codes than that of its config in any pass: k may have a schedule."""

    k: int

    def select(self, pre: Tensor, k: int) -> Tensor:
        """The codes that this batch has with another k, whether in training or not. More than there are means all."""
        ...

    def choose_entries(self, pre: Tensor, k: int | None = None) -> Entries | None:
        """The entries (EntrywiseSparsity) with another k."""
        ...


def require(sparsity: object, capability: type[T]) -> T:
    """The activation function as one that has a capability. Raises TypeError if it has not."""
    if not isinstance(sparsity, capability):
        raise TypeError(
            f"an activation function of the type {capability.__name__} (lmsae/sparsity/capabilities.py) is needed, and "
            f"{type(sparsity).__name__} is none: choose one whose config offers it"
        )
    return sparsity
