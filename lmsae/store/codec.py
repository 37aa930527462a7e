"""Codecs: how activations become the numbers that lie on disk, and float32 again.

A codec works on rows: a token's items as stored, `layout.stored_shape[2]` of them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lmsae.errors import SourceError
from lmsae.kernels import cpu as cpu_kernels
from lmsae.store.layout import Layout, StoreDtype

LEVELS = 127
LEAST_STD = 0.01
"""The least standard deviation of a channel, as a share of the channels' mean: one that hardly moved where it was
measured could else demand a scale that leaves nothing of all others."""


class Codec(Protocol):
    """Rows from activations, and activations from rows. Each token by itself: never do others change its row."""

    largest: float
    """Activations whose norm is at most this can be stored."""

    @classmethod
    def fitted(cls, layout: Layout, activations: Float[Tensor, "*batch width"]) -> Self:
        """The codec of a new store, fitted to its first activations if it has something to fit."""
        ...

    @classmethod
    def of(cls, layout: Layout, attributes: Mapping[str, Any]) -> Self:
        """The codec that wrote a store with these attributes. Raises ValueError if they are not such a store's."""
        ...

    @property
    def attributes(self) -> dict[str, Any]:
        """What a reader must know beside the layout, as JSON."""
        ...

    def holds(self, activations: Float[Tensor, "*batch width"]) -> Bool[Tensor, "*batch width"]:
        """Which values can be stored."""
        ...

    def encode(self, activations: Float[Tensor, "*batch width"], rows: Shaped[Tensor, "*batch items"]) -> None:
        """Write the rows of activations, which may lie on another device."""
        ...

    def decode(self, rows: Shaped[Tensor, "rows items"], taken: Int[Tensor, " taken"]) -> Float[Tensor, "taken width"]:
        """The activations of some of the rows, float32, in memory of their own."""
        ...


class Rounded:
    """Activations in a floating-point dtype of torch."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.largest = dtype, torch.finfo(dtype).max

    @classmethod
    def fitted(cls, layout: Layout, activations: Float[Tensor, "*batch width"]) -> Self:
        """In the layout's dtype."""
        return cls.of(layout, {})

    @classmethod
    def of(cls, layout: Layout, attributes: Mapping[str, Any]) -> Self:
        """In the layout's dtype."""
        return cls(getattr(torch, layout.dtype))

    @property
    def attributes(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def holds(self, activations: Float[Tensor, "*batch width"]) -> Bool[Tensor, "*batch width"]:
        """Those that are finite in the dtype."""
        return activations.to(self.dtype).isfinite()

    def encode(self, activations: Float[Tensor, "*batch width"], rows: Shaped[Tensor, "*batch width"]) -> None:
        """Write the activations, rounded."""
        rows.copy_(activations)

    def decode(self, rows: Shaped[Tensor, "rows width"], taken: Int[Tensor, " taken"]) -> Float[Tensor, "taken width"]:
        """The activations of some of the rows, float32."""
        return cpu_kernels.rows_as_float32(rows, taken)


class Quantized:
    """One byte a value: x = mean + std * scale * q, with a scale for each token and a mean and std for each channel.

    q are whole numbers from -127 to 127, of which the largest of a token, by size, is 127 or -127. Behind them stands
    the scale, a float32. Channels are standardized first because a few are far larger than all others: with a scale
    alone these would take the whole range, and lose 20 times the variance.
    """

    largest = torch.finfo(torch.float32).max

    def __init__(self, mean: Float[Tensor, "width"], std: Float[Tensor, "width"]) -> None:
        self.mean, self.std = mean, std

    @classmethod
    def fitted(cls, layout: Layout, activations: Float[Tensor, "*batch width"]) -> Self:
        """With the mean and standard deviation of these activations."""
        x = activations.detach().flatten(0, -2).double()
        std, mean = torch.std_mean(x, dim=0, correction=0)
        std = torch.where(std.any(), std.clamp_min(LEAST_STD * std.mean()), 1.0)
        return cls(mean.float().cpu(), std.float().cpu())

    @classmethod
    def of(cls, layout: Layout, attributes: Mapping[str, Any]) -> Self:
        """With the moments in the attributes."""
        mean, std = (torch.tensor(attributes[name], dtype=torch.float32) for name in ("channel_mean", "channel_std"))
        if {mean.shape, std.shape} != {(layout.width,)} or not (mean.isfinite() & std.isfinite() & (std > 0)).all():
            raise ValueError(f"channel_mean and channel_std are not the moments of {layout.width:,} channels")
        return cls(mean, std)

    @property
    def attributes(self) -> dict[str, Any]:
        """`channel_mean` and `channel_std`: lists of float32."""
        return {"channel_mean": self.mean.tolist(), "channel_std": self.std.tolist()}

    def holds(self, activations: Float[Tensor, "*batch width"]) -> Bool[Tensor, "*batch width"]:
        """Those that are finite."""
        return activations.isfinite()

    def encode(self, activations: Float[Tensor, "*batch width"], rows: Shaped[Tensor, "*batch items"]) -> None:
        """Write q and the scale of each token, computed where the activations are: a GPU then sends a byte a value."""
        mean, std = self.mean.to(activations.device), self.std.to(activations.device)
        z = (activations.float() - mean).div_(std)
        # Not aminmax, nor a norm: they take 15 times as long.
        scale = z.abs().amax(dim=-1, keepdim=True).div_(LEVELS).clamp_min_(torch.finfo(torch.float32).tiny)
        width = len(self.mean)
        rows[..., :width].copy_(z.div_(scale).round_())
        rows[..., width:].copy_(scale.view(torch.int8))

    def decode(self, rows: Shaped[Tensor, "rows items"], taken: Int[Tensor, " taken"]) -> Float[Tensor, "taken width"]:
        """mean + std * scale * q of some of the rows, float32."""
        return cpu_kernels.rows_scaled(rows, taken, self.mean, self.std)


CODECS: dict[StoreDtype, type[Codec]] = {
    "float16": Rounded,
    "bfloat16": Rounded,
    "float32": Rounded,
    "int8": Quantized,
}


def require_held(
    activations: Float[Tensor, "contexts *context width"],
    held: Bool[Tensor, "contexts *context width"],
    dtype: StoreDtype,
    place: Callable[[int], str],
) -> None:
    """Raise SourceError unless every value can be held in a dtype; `place` says what to call a context."""
    if held.all():
        return
    context = int(held.flatten(1).all(dim=1).logical_not().nonzero()[0])
    values = activations[context]
    if values.isfinite().all():
        largest, limit = values.abs().max().item(), torch.finfo(getattr(torch, dtype)).max
        raise SourceError(
            f"{place(context)} holds an activation of size {largest:,.0f}, and {dtype} ends at {limit:,.0f}: "
            "set activations.dtype=bfloat16."
        )
    raise SourceError(
        f"{place(context)} holds NaN or infinity: the model itself overflows there. Run it in float32 or "
        "bfloat16, and look at that text."
    )
