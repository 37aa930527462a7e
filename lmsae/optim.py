"""What optimisers of dictionaries need beyond torch's: lazy Adam, rates by group, forgetting, unit rows."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class SparseAdam(Optimizer):
    """Adam in which an element without a gradient (exactly 0) keeps its weight and its moments.

    What torch.optim.SparseAdam does with `grad.to_sparse()`, for dense gradients that are mostly 0: those of latents
    that did not fire. The bias correction counts all steps. States: step, exp_avg, exp_avg_sq.
    """

    def __init__(
        self,
        params: Iterable[dict],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient. Weight decay, too, is only for elements with one."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

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


def set_lr_factor(optimiser: Optimizer, factor: float) -> None:
    """Set every group's learning rate to its own base times `factor`."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


@torch.no_grad()
def forget(optimiser: Optimizer, parameter: nn.Parameter, dim: int, chosen: Tensor) -> None:
    """Set an optimiser's moments to 0 for the chosen places of a parameter's dimension.

    A schedule-free optimiser's second copy of the weights, `z`, takes their present values there.
    """
    for name, moments in optimiser.state.get(parameter, {}).items():
        if not torch.is_tensor(moments) or moments.shape != parameter.shape:
            continue
        if name == "z":
            moments.index_copy_(dim, chosen, parameter.index_select(dim, chosen))
        else:
            moments.index_fill_(dim, chosen, 0)


@torch.no_grad()
def remove_radial_gradient(rows: nn.Parameter) -> None:
    """Take from the gradient of unit rows (n, d) its component along each row, which a renormalisation would undo."""
    if rows.grad is not None:
        rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows


@torch.no_grad()
def normalise_rows(rows: Tensor) -> None:
    """Bring every row of (n, d) to norm 1, in place."""
    rows /= rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
