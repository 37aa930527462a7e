"""Lazy Adam for dense gradients that are mostly 0."""

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class SparseAdam(Optimizer):
    """Adam in which an element without a gradient (exactly 0) keeps its weight and its moments.

    It does what torch.optim.SparseAdam does with `grad.to_sparse()`, for dense gradients that are mostly 0, as of
    latents that did not fire. The bias correction counts all steps. States: step, exp_avg, exp_avg_sq.
    """

    def __init__(
        self,
        params: Iterable[dict[str, object]],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient. Weight decay, too, is only for elements with one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, weights: Tensor, grad: Tensor, group: dict) -> None:
        state = self.state[weights]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        touched = (grad != 0).to(grad.dtype)
        state["exp_avg"].lerp_(grad, (1 - beta1) * touched)
        state["exp_avg_sq"].lerp_(grad.square(), (1 - beta2) * touched)
        step = state["step"].item()
        rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        if group["weight_decay"]:
            weights.mul_(1 - group["lr"] * group["weight_decay"] * touched)
        weights.sub_(rate * touched * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + group["eps"]))
