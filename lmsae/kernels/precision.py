"""Precision of sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def widen(values: Tensor) -> Tensor:
    """The values in float32 where products gave them in half precision; sums over tokens and latents need it."""
    return values.float() if values.itemsize < 4 else values
