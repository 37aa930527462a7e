"""Optimisers and constraints: learning rates by group, unit rows, and gradients along them."""

import pytest
import torch
from torch import nn

from lmsae.optim import adam, normalise_rows, remove_radial_gradient, set_lr_factor


def named() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.ones(3)) for name in ("geometry.W_dec", "sparsity.log_threshold")}


def test_thresholds_learn_at_their_own_rate() -> None:
    parameters = named()
    optimiser = adam(parameters.items(), 0.01, (0.9, 0.999), 0.1)
    for parameter in parameters.values():
        parameter.grad = torch.tensor([1.0, -2.0, 3.0])
    optimiser.step()
    # Adam's first step is lr in the gradient's direction, whatever its size.
    signs = torch.tensor([1.0, -1.0, 1.0])
    torch.testing.assert_close(parameters["geometry.W_dec"].data, 1 - 0.01 * signs)
    torch.testing.assert_close(parameters["sparsity.log_threshold"].data, 1 - 0.001 * signs)


def test_a_schedule_scales_every_group_from_its_own_base() -> None:
    optimiser = adam(named().items(), 0.01, (0.9, 0.999), 0.1)
    for factor in (0.5, 0.25):
        set_lr_factor(optimiser, factor)
        assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.01 * factor, 0.001 * factor])


def test_what_is_left_of_a_gradient_is_orthogonal_to_its_unit_row() -> None:
    rows = nn.Parameter(torch.tensor([[0.6, 0.8], [1.0, 0.0]]))
    rows.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    remove_radial_gradient(rows)
    # (1, 2) . (.6, .8) = 2.2, and (3, 4) . (1, 0) = 3.
    torch.testing.assert_close(rows.grad, torch.tensor([[1 - 2.2 * 0.6, 2 - 2.2 * 0.8], [0.0, 4.0]]))


def test_rows_without_a_gradient_are_let_be() -> None:
    rows = nn.Parameter(torch.ones(2, 2))
    remove_radial_gradient(rows)
    assert rows.grad is None


def test_normalised_rows_have_norm_1_and_a_zero_row_stays_zero() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-1e-3, 0.0]])
    normalise_rows(rows)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))
