"""JumpReLU: codes = pre * 1[pre > theta], with straight-through gradients for theta.

Rajamanoharan et al. 2024 (arXiv 2407.14435, equations 11 and 12): the derivative of a step is replaced by a rectangle
kernel of width eps around theta, so that d codes / d theta = -theta/eps 1[|pre - theta| < eps/2], and for the step
itself -1/eps 1[|pre - theta| < eps/2].
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmsae.sparsity.config import JumpReLUConfig
from lmsae.sparsity.sparsity import Sparsity


class JumpReLU(Sparsity):
    """Parameters: log_threshold (d_sae,). theta = exp(log_threshold) stays positive whatever the optimiser does."""

    def __init__(self, config: JumpReLUConfig, d_sae: int) -> None:
        super().__init__()
        self.bandwidth = config.jumprelu_bandwidth
        self.log_threshold = nn.Parameter(torch.full((d_sae,), math.log(config.jumprelu_init_threshold)))

    @property
    def threshold(self) -> Tensor:
        """theta, one a latent (d_sae,)."""
        return self.log_threshold.exp()

    def forward(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return _Jump.apply(pre, self.threshold, self.bandwidth)

    def step(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """1[pre > theta], differentiable in theta through the kernel; its sum over latents is a token's L0."""
        return _Step.apply(pre, self.threshold, self.bandwidth)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, theta, bandwidth):
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return torch.where(pre > theta, pre, 0.0)

    @staticmethod
    def backward(ctx, grad):
        pre, theta = ctx.saved_tensors
        near = (pre - theta).abs() < ctx.bandwidth / 2
        to_theta = torch.where(near, grad, 0.0).flatten(0, -2).sum(0) * (-theta / ctx.bandwidth)
        return torch.where(pre > theta, grad, 0.0), to_theta, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, theta, bandwidth):
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx, grad):
        pre, theta = ctx.saved_tensors
        near = (pre - theta).abs() < ctx.bandwidth / 2
        return None, torch.where(near, grad, 0.0).flatten(0, -2).sum(0) / -ctx.bandwidth, None
