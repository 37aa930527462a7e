"""JumpReLU: codes = pre * 1[pre > theta], with straight-through gradients for theta.

Rajamanoharan et al. 2024 (arXiv 2407.14435, equations 11 and 12): the derivative of a step is replaced by a rectangle
kernel of width eps around theta, so that d codes / d theta = -theta/eps 1[|pre - theta| < eps/2], and for the step
itself -1/eps 1[|pre - theta| < eps/2].
"""

import math
from abc import abstractmethod
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.kernels.entries import Entries
from lmsae.sparsity.config import JumpReLUConfig
from lmsae.sparsity.sparsity import EntrywiseSparsity


class JumpReLU(EntrywiseSparsity):
    """The activation function, whichever parameter theta comes from."""

    each_alone: ClassVar[bool] = True

    def __init__(self, config: JumpReLUConfig, latents: int, groups: int) -> None:
        super().__init__()
        del latents, groups
        self.bandwidth = config.jumprelu_bandwidth

    @property
    @abstractmethod
    def threshold(self) -> Float[Tensor, " latents"]:
        """theta, differentiable in the parameter; never below 0."""

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        return _Jump.apply(pre, self.threshold, self.bandwidth)

    def activate_latents(
        self, pre: Float[Tensor, "*batch chosen"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        return _Jump.apply(pre, self.threshold[latents], self.bandwidth)

    def choose_entries(self, pre: Float[Tensor, "tokens latents"]) -> Entries | None:
        """Below theta, too, as far as the kernel reaches."""
        return Entries.find_above(pre, self.threshold.detach() - self.bandwidth / 2)

    def activate_at(
        self, pre: Float[Tensor, " entries"], latents: Int[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        return _Jump.apply(pre, self.threshold[latents], self.bandwidth)

    def step(self, pre: Tensor, latents: Int[Tensor, " entries"] | None = None) -> Tensor:
        """1[pre > theta], differentiable in theta through the kernel; its sum over latents is a token's L0. `pre` is
        (*batch, latents), or (entries,) of these latents."""
        theta = self.threshold if latents is None else self.threshold[latents]
        return _Step.apply(pre, theta, self.bandwidth)


@final
class LogJumpReLU(JumpReLU):
    """Parameter: log_threshold (latents,). theta = exp(log_threshold) stays positive whatever the optimizer does."""

    def __init__(self, config: JumpReLUConfig, latents: int, groups: int) -> None:
        super().__init__(config, latents, groups)
        self.log_threshold = nn.Parameter(torch.full((latents,), math.log(config.jumprelu_init_threshold)))

    @property
    def threshold(self) -> Float[Tensor, " latents"]:
        """theta = exp(log_threshold)."""
        return self.log_threshold.exp()


@final
class DirectJumpReLU(JumpReLU):
    """Parameter: direct_threshold (latents,), theta itself; below 0 it acts as 0."""

    def __init__(self, config: JumpReLUConfig, latents: int, groups: int) -> None:
        super().__init__(config, latents, groups)
        self.direct_threshold = nn.Parameter(torch.full((latents,), config.jumprelu_init_threshold))

    @property
    def threshold(self) -> Float[Tensor, " latents"]:
        """theta = max(direct_threshold, 0), with the gradient of the identity.

        The gradient of the maximum would be 0 below 0, and such a latent could never have a threshold again. (SAELens
        sets the parameter to 0 in its forward pass instead.)
        """
        raw = self.direct_threshold
        return raw + (raw.clamp(min=0) - raw).detach()


_PARAMETERIZATIONS = {"log": LogJumpReLU, "direct": DirectJumpReLU}


def build(config: JumpReLUConfig, latents: int, groups: int) -> JumpReLU:
    """The jumprelu whose parameter is what the config says."""
    return _PARAMETERIZATIONS[config.jumprelu_threshold](config, latents, groups)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, theta, bandwidth):
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return pre * (pre > theta)  # a product with a mask takes a fifth of the time of torch.where

    @staticmethod
    def backward(ctx, *grads):
        (grad,), (pre, theta) = grads, ctx.saved_tensors
        near = (pre - theta).abs() < ctx.bandwidth / 2
        to_theta = (grad * near).sum_to_size(theta.shape) * (-theta / ctx.bandwidth)
        return grad * (pre > theta), to_theta, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, theta, bandwidth):
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx, *grads):
        (grad,), (pre, theta) = grads, ctx.saved_tensors
        near = (pre - theta).abs() < ctx.bandwidth / 2
        return None, (grad * near).sum_to_size(theta.shape) / -ctx.bandwidth, None
