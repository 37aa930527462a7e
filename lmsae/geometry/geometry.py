"""The abstract geometry, and the affine maps that are folded into one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmsae.kernels.entries import Entries

Chosen = Tensor | slice
"""Some of the latents: indices, or a stretch of them."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Raw activations to those of training: x' = (x - shift) * scale, or (x - shift) @ scale for a matrix.

    `scale` is (d,) or (d, d); `inverse` is its inverse, of the same shape; `shift` is (d,).
    """

    shift: Tensor
    scale: Tensor
    inverse: Tensor

    def scaled(self, weights: Float[Tensor, "d *rest"]) -> Float[Tensor, "d *rest"]:
        """scale @ weights: weights that read x - shift where they read x'."""
        if self.scale.ndim == 2:
            return torch.tensordot(self.scale, weights, dims=1)
        return self.scale.view(-1, *[1] * (weights.ndim - 1)) * weights

    def restored(self, weights: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest d"]:
        """weights @ inverse: weights that write y - shift where they wrote y'."""
        return weights @ self.inverse if self.inverse.ndim == 2 else weights * self.inverse

    @property
    def reversed(self) -> "Affine":
        """Scales the other way round: `reversed.scaled` takes weights for raw activations to training's units."""
        return Affine(self.shift, self.inverse, self.scale)

    def same_as(self, other: "Affine") -> bool:
        """Whether both are one map, to the bit."""
        return torch.equal(self.shift, other.shift) and torch.equal(self.scale, other.scale)


class Geometry(nn.Module, ABC):
    """How an input becomes pre-activations, and how codes become a reconstruction.

    Inputs (*batch, d_in) and outputs (*batch, d_out) are the vectors of all hook points read or written, side by side.
    Latents stand in `groups` groups of equal size, one after the other (the layers of a cross-layer transcoder).
    """

    latents: int
    groups: int = 1

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latents"]:
        """Pre-activations of the input. Where a geometry reads whole contexts, the last batch dimension is position."""

    @abstractmethod
    def base(self, x: Float[Tensor, "*batch d_in"]) -> Tensor:
        """What is written where no latent is active; broadcasts to (*batch, d_out)."""

    @abstractmethod
    def contribution(
        self, codes: Float[Tensor, "*batch chosen"], chosen: Chosen, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """What the chosen latents alone write, without `base`."""

    @abstractmethod
    def norms(self) -> Float[Tensor, " latents"]:
        """The size of what each latent writes at a code of 1."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random directions of norm 1, by the name of the parameter they are for; on the CPU."""

    @abstractmethod
    def place(self, drawn: Mapping[str, Tensor], norm: float, *, unit_norm_decoder: bool = False) -> None:
        """Set all weights: decoders along the directions drawn with norm `norm`, encoders tied to them where widths
        allow it, and all else 0. With `unit_norm_decoder` the decoder keeps norm 1, and the encoder has norm `norm`."""

    @abstractmethod
    def fold(self, read: Affine, write: Affine) -> None:
        """Take the maps to training's units into the weights: the module then reads and writes raw activations, with
        the same pre and codes. An encoder that was tied to the decoder has weights of its own from here on.

        Raises ExportError where that cannot be exact, and then changes nothing.
        """

    @abstractmethod
    def fold_norms(self) -> None:
        """Bring every latent's norm to 1: pre becomes pre * norm, and all outputs stay. Raises ExportError where that
        cannot be exact, and then changes nothing."""

    def decode(
        self, codes: Float[Tensor, "*batch latents"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction of the target."""
        return self.contribution(codes, slice(None), x) + self.base(x)

    def forward(self, codes: Tensor, x: Tensor, entries: Entries | None = None) -> Tensor:
        """`decode`, so that torch.func.functional_call can decode with other weights, such as detached ones."""
        if entries is None:
            return self.decode(codes, x)
        assert isinstance(self, EntrywiseGeometry)
        return self.decode_at(codes, entries, x)


class EntrywiseGeometry(Geometry):
    """A geometry that can work at few entries of (tokens, latents) and touch nothing else, gradients included."""

    @abstractmethod
    def pre_at(
        self, x: Float[Tensor, "tokens d_in"], entries: Entries, known: Float[Tensor, " entries"] | None = None
    ) -> Float[Tensor, " entries"]:
        """`encode`, at the entries alone. Values that are `known` from it already need not be computed, but their
        gradients."""

    @abstractmethod
    def written_by(self, codes: Float[Tensor, " entries"], entries: Entries) -> Float[Tensor, "tokens d_out"]:
        """`contribution` of codes that are 0 outside of the entries."""

    def decode_at(
        self, codes: Float[Tensor, " entries"], entries: Entries, x: Float[Tensor, "tokens d_in"]
    ) -> Float[Tensor, "tokens d_out"]:
        """`decode` of such codes."""
        return self.written_by(codes, entries) + self.base(x)


def latent_by_latent(*shape: int) -> nn.Parameter:
    """An encoder (..., d_in, latents) of zeros in which the weights of a latent stand together in memory.

    Few entries of (tokens, latents) are then read, and their gradients written, one latent after the other.
    """
    *batch, d_in, latents = shape
    return nn.Parameter(torch.zeros(*batch, latents, d_in).mT)
