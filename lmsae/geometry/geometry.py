"""The abstract geometry, and the affine maps that are folded into one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

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

    def scale_readers(self, weights: Float[Tensor, "d *rest"]) -> Float[Tensor, "d *rest"]:
        """scale @ weights: weights that read x - shift where they read x'."""
        if self.scale.ndim == 2:
            return torch.tensordot(self.scale, weights, dims=1)
        return self.scale.view(-1, *[1] * (weights.ndim - 1)) * weights

    def restore_writers(self, weights: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest d"]:
        """weights @ inverse: weights that write y - shift where they wrote y'."""
        return weights @ self.inverse if self.inverse.ndim == 2 else weights * self.inverse

    @property
    def reversed(self) -> "Affine":
        """The map back: `reversed.scale_readers` takes weights for raw activations to training's units."""
        return Affine(self.shift, self.inverse, self.scale)

    def equals(self, other: "Affine") -> bool:
        """True if both are one map, to the bit."""
        return torch.equal(self.shift, other.shift) and torch.equal(self.scale, other.scale)


class Geometry(nn.Module, ABC):
    """The way from an input to pre-activations, and from codes to a reconstruction.

    Inputs (*batch, d_in) and outputs (*batch, d_out) are the vectors of all hook points read or written, side by side.
    Latents stand in `groups` groups of equal size, one after the other (the layers of a cross-layer transcoder).
    """

    latents: int
    groups: int = 1

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latents"]:
        """Pre-activations of the input. Where a geometry reads whole contexts, the last batch dimension is position."""

    def encode_latents(
        self, x: Float[Tensor, "*batch d_in"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        """`encode`, of some latents. Geometries whose latents do not share work compute no others."""
        return self.encode(x)[..., latents]

    @abstractmethod
    def base(self, x: Float[Tensor, "*batch d_in"]) -> Tensor:
        """The output where no latent is active; broadcasts to (*batch, d_out)."""

    @abstractmethod
    def write(
        self, codes: Float[Tensor, "*batch chosen"], chosen: Chosen, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """The output of the chosen latents alone, without `base`."""

    @abstractmethod
    def norms(self) -> Float[Tensor, " latents"]:
        """The size of what each latent writes at a code of 1."""

    def rows(self) -> list[Float[Tensor, "latents width"]]:
        """The decoder rows at each hook point written, as views of the parameters that hold them; none where latents
        write no directions."""
        return []

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
        return self.write(codes, slice(None), x) + self.base(x)

    def forward(self, work: Callable[["Geometry"], Tensor]) -> Tensor:
        """The result of `work` on this geometry. `run_frozen` comes in here, with other weights in place."""
        return work(self)

    def run_frozen(self, work: Callable[["Geometry"], Tensor]) -> Tensor:
        """The result of `work` on this geometry with its weights as constants, which learn nothing from it."""
        frozen = {name: value.detach() for name, value in self.state_dict(keep_vars=True).items()}
        return functional_call(self, frozen, (work,))


class EntrywiseGeometry(Geometry):
    """A geometry that can work at few entries of (tokens, latents) and touch nothing else, gradients included."""

    @abstractmethod
    def encode_at(
        self, x: Float[Tensor, "tokens d_in"], entries: Entries, known: Float[Tensor, " entries"] | None = None
    ) -> Float[Tensor, " entries"]:
        """`encode`, at the entries alone. With `known`, its values there, only their gradients are left to compute."""

    @abstractmethod
    def write_at(self, codes: Float[Tensor, " entries"], entries: Entries) -> Float[Tensor, "tokens d_out"]:
        """`write` of codes that are 0 outside of the entries."""

    def decode_at(
        self, codes: Float[Tensor, " entries"], entries: Entries, x: Float[Tensor, "tokens d_in"]
    ) -> Float[Tensor, "tokens d_out"]:
        """`decode` of such codes."""
        return self.write_at(codes, entries) + self.base(x)


def make_encoder(*shape: int) -> nn.Parameter:
    """An encoder (..., d_in, latents) of zeros in which the weights of a latent stand together in memory.

    A pass at few entries of (tokens, latents) then reads, and writes gradients, one latent after the other.
    """
    *batch, d_in, latents = shape
    return nn.Parameter(torch.zeros(*batch, latents, d_in).mT)
