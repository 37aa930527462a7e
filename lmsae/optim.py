"""Optimisers and constraints."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def adam(
    parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    betas: tuple[float, float],
    threshold_lr_factor: float,
) -> torch.optim.Adam:
    """Adam over named parameters; those named `...threshold` learn at `lr * threshold_lr_factor`."""
    named = list(parameters)
    thresholds = [value for name, value in named if name.endswith("threshold")]
    others = [value for name, value in named if not name.endswith("threshold")]
    groups = [{"params": others, "lr": lr}]
    if thresholds:
        groups.append({"params": thresholds, "lr": lr * threshold_lr_factor})
    optimiser = torch.optim.Adam(groups, lr=lr, betas=betas, fused=True)
    for group in optimiser.param_groups:
        group["base_lr"] = group["lr"]
    return optimiser


def set_lr_factor(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its own base times `factor`."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


@torch.no_grad()
def remove_radial_gradient(rows: nn.Parameter) -> None:
    """Take from the gradient of unit rows (n, d) its component along each row, which a renormalisation would undo."""
    if rows.grad is not None:
        rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows


@torch.no_grad()
def normalise_rows(rows: Tensor) -> None:
    """Bring every row of (n, d) to norm 1, in place."""
    rows /= rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
