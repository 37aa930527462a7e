"""Dense products on a processor, by whichever of torch's two libraries is faster.

For float32 torch calls MKL, which adds a bias by writing it everywhere first; oneDNN takes an eighth less or better for
large ones, where both were measured (docs/decisions/0025). It is asked by the operation that torch.compile asks it by.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

WORTH_IT = 1 << 28
"""Multiplications; with fewer there is nothing to gain."""


def affine(
    x: Float[Tensor, "*batch d_in"], weights: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"] | None = None
) -> Float[Tensor, "*batch d_out"]:
    """x @ weights.T + bias, as torch.nn.functional.linear; differentiable once, by backward() alone."""
    if _is_for_onednn(x, weights):
        return _Affine.apply(x, weights, bias)  # pyright: ignore[reportReturnType]
    return linear(x, weights, bias)


def _is_for_onednn(x: Tensor, weights: Tensor) -> bool:
    return (
        x.ndim > 1
        and x.numel() * len(weights) >= WORTH_IT
        and x.device.type == weights.device.type == "cpu"
        and x.dtype == weights.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and _has_onednn()
    )


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _Affine(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weights)
        return torch.ops.mkldnn._linear_pointwise(x, weights, bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return _differentiate(ctx, *grads)


@once_differentiable
def _differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    (grad,), (x, weights), (needs_x, needs_weights, needs_bias) = grads, ctx.saved_tensors, ctx.needs_input_grad
    rows = grad.flatten(0, -2)
    to_x = grad @ weights if needs_x else None
    to_weights = rows.T @ x.flatten(0, -2) if needs_weights else None
    return to_x, to_weights, rows.sum(0) if needs_bias else None
