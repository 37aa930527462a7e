"""The constraint that decoder rows have norm 1: on weights, and on their gradients."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def remove_radial_gradient(rows: nn.Parameter) -> None:
    """Take from the gradient of unit rows (n, d) its component along each row, which a renormalization would undo."""
    if rows.grad is not None:
        rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows


@torch.no_grad()
def normalize_rows(rows: Tensor) -> None:
    """Bring every row of (n, d) to norm 1, in place."""
    rows /= rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
