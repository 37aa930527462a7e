"""Dense products on a processor, by the faster of torch's two libraries.

For float32 torch calls MKL, which first writes the bias everywhere and then adds to it. For large products oneDNN takes
at least an eighth less time, wherever both were measured (docs/decisions/0025). This module calls it by the operation
that torch.compile uses.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lmsae.kernels.autograd import Context

WORTH_IT = 1 << 28
"""The least number of multiplications at which oneDNN gains anything."""


def linear(
    x: Float[Tensor, "*batch d_in"], weights: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"] | None = None
) -> Float[Tensor, "*batch d_out"]:
    """x @ weights.T + bias, as torch.nn.functional.linear. It is differentiable once, and by backward() alone."""
    if _is_for_onednn(x, weights):
        return _Linear.apply(x, weights, bias)  # pyright: ignore[reportReturnType]
    return functional.linear(x, weights, bias)


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


class _Linear(Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weights)
        return torch.ops.mkldnn._linear_pointwise(x, weights, bias, "none", [], "")

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return _backward_once(ctx, *grads)


@once_differentiable
def _backward_once(ctx: Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    (x, weights), (needs_x, needs_weights, needs_bias) = ctx.saved_tensors, ctx.needs_input_grad
    rows = grad.flatten(0, -2)
    to_x = grad @ weights if needs_x else None
    to_weights = rows.T @ x.flatten(0, -2) if needs_weights else None
    return to_x, to_weights, rows.sum(0) if needs_bias else None
