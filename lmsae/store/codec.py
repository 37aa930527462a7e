"""Codecs: from activations to the items that lie on disk, and from those to float32.

A token is stored as `layout.stored_shape[2]` items.
"""

from collections.abc import Callable
from typing import Protocol, Self

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lmsae.config import JsonObject
from lmsae.errors import SourceError
from lmsae.kernels import cpu as cpu_kernels
from lmsae.store.layout import Layout, StoreDtype

LEVELS = 127
LEAST_STD = 0.01
"""The least standard deviation of a channel, as a share of the mean over channels. Without it, a channel that hardly
varied while it was measured could later force a scale at which all others round to nothing."""


class Codec(Protocol):
    """Turns activations into stored items and back. Each token is stored by itself: no other token changes it."""

    largest_norm: float
    """Activations whose norm is at most this can be stored."""

    @classmethod
    def fit(cls, layout: Layout, activations: Float[Tensor, "*batch width"]) -> Self:
        """The codec of a new store. If it has parameters, its first activations set them."""
        ...

    @classmethod
    def from_attributes(cls, layout: Layout, attributes: JsonObject) -> Self:
        """The codec that wrote a store with these attributes. Raises ValueError for attributes of no such store."""
        ...

    @property
    def attributes(self) -> JsonObject:
        """The attributes that a reader needs beside the layout."""
        ...

    def storable_mask(self, activations: Float[Tensor, "*batch width"]) -> Bool[Tensor, "*batch width"]:
        """The mask of the values that can be stored."""
        ...

    def encode(self, activations: Float[Tensor, "*batch width"], stored: Shaped[Tensor, "*batch items"]) -> None:
        """Write the items of activations, which may lie on another device, into `stored`."""
        ...

    def decode(
        self, stored: Shaped[Tensor, "tokens items"], taken: Int[Tensor, " taken"]
    ) -> Float[Tensor, "taken width"]:
        """The activations of the tokens with the numbers `taken`, float32, in memory of their own."""
        ...


class FloatCodec:
    """Stores activations rounded to a floating-point dtype of torch."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.largest_norm = dtype, torch.finfo(dtype).max

    @classmethod
    def fit(cls, layout: Layout, activations: Float[Tensor, "*batch width"]) -> Self:
        """The codec of the layout's dtype."""
        return cls.from_attributes(layout, {})

    @classmethod
    def from_attributes(cls, layout: Layout, attributes: JsonObject) -> Self:
        """The codec of the layout's dtype."""
        return cls(getattr(torch, layout.dtype))

    @property
    def attributes(self) -> JsonObject:
        """No attributes."""
        return {}

    def storable_mask(self, activations: Float[Tensor, "*batch width"]) -> Bool[Tensor, "*batch width"]:
        """The mask of the values that are finite in the dtype."""
        return activations.to(self.dtype).isfinite()

    def encode(self, activations: Float[Tensor, "*batch width"], stored: Shaped[Tensor, "*batch width"]) -> None:
        """Write the rounded activations."""
        stored.copy_(activations)

    def decode(
        self, stored: Shaped[Tensor, "tokens width"], taken: Int[Tensor, " taken"]
    ) -> Float[Tensor, "taken width"]:
        """The activations of some of the tokens, float32."""
        return cpu_kernels.gather_as_float32(stored, taken)


class Int8Codec:
    """Stores a byte for each value: x = mean + std * scale * q, a scale a token, and a mean and std a channel.

    q are integers from -127 to 127; the largest magnitude of a token's q is 127. The scale, a float32, stands behind
    them. Channels are standardized first, because a few are far larger than all others: with a scale alone, these few
    would take the whole range, and 20 times as much variance would be lost.
    """

    largest_norm = torch.finfo(torch.float32).max

    def __init__(self, mean: Float[Tensor, "width"], std: Float[Tensor, "width"]) -> None:
        self.mean, self.std = mean, std

    @classmethod
    def fit(cls, layout: Layout, activations: Float[Tensor, "*batch width"]) -> Self:
        """The codec with the mean and standard deviation of these activations."""
        x = activations.detach().flatten(0, -2).double()
        std, mean = torch.std_mean(x, dim=0, correction=0)
        std = torch.where(std.any(), std.clamp_min(LEAST_STD * std.mean()), 1.0)
        return cls(mean.float().cpu(), std.float().cpu())

    @classmethod
    def from_attributes(cls, layout: Layout, attributes: JsonObject) -> Self:
        """The codec with the mean and standard deviation in the attributes."""
        mean, std = (torch.tensor(attributes[name], dtype=torch.float32) for name in ("channel_mean", "channel_std"))
        if {mean.shape, std.shape} != {(layout.width,)} or not (mean.isfinite() & std.isfinite() & (std > 0)).all():
            raise ValueError(f"channel_mean and channel_std are not the moments of {layout.width:,} channels")
        return cls(mean, std)

    @property
    def attributes(self) -> JsonObject:
        """`channel_mean` and `channel_std`: lists of float32."""
        return {"channel_mean": self.mean.tolist(), "channel_std": self.std.tolist()}

    def storable_mask(self, activations: Float[Tensor, "*batch width"]) -> Bool[Tensor, "*batch width"]:
        """The mask of the finite values."""
        return activations.isfinite()

    def encode(self, activations: Float[Tensor, "*batch width"], stored: Shaped[Tensor, "*batch items"]) -> None:
        """Write q and the scale of each token. They are computed on the activations' device: a GPU then sends bytes."""
        mean, std = self.mean.to(activations.device), self.std.to(activations.device)
        z = (activations.float() - mean).div_(std)
        # aminmax or a norm would take 15 times as long.
        scale = z.abs().amax(dim=-1, keepdim=True).div_(LEVELS).clamp_min_(torch.finfo(torch.float32).tiny)
        width = len(self.mean)
        stored[..., :width].copy_(z.div_(scale).round_())
        stored[..., width:].copy_(scale.view(torch.int8))

    def decode(
        self, stored: Shaped[Tensor, "tokens items"], taken: Int[Tensor, " taken"]
    ) -> Float[Tensor, "taken width"]:
        """mean + std * scale * q of some of the tokens, float32."""
        return cpu_kernels.gather_scaled(stored, taken, self.mean, self.std)


CODECS: dict[StoreDtype, type[Codec]] = {
    "float16": FloatCodec,
    "bfloat16": FloatCodec,
    "float32": FloatCodec,
    "int8": Int8Codec,
}


def require_storable(
    activations: Float[Tensor, "contexts *context width"],
    storable: Bool[Tensor, "contexts *context width"],
    dtype: StoreDtype,
    name_context: Callable[[int], str],
) -> None:
    """Raise SourceError unless every value can be stored in a dtype. `name_context` names a context in the message."""
    if storable.all():
        return
    context = int(storable.flatten(1).all(dim=1).logical_not().nonzero()[0])
    values = activations[context]
    if values.isfinite().all():
        largest, limit = values.abs().max().item(), torch.finfo(getattr(torch, dtype)).max
        raise SourceError(
            f"{name_context(context)} holds an activation of size {largest:,.0f}, and {dtype} ends at {limit:,.0f}: "
            "set activations.dtype=bfloat16."
        )
    raise SourceError(
        f"{name_context(context)} holds NaN or infinity: the model itself overflows there. Run it in float32 or "
        "bfloat16, and look at that text."
    )
