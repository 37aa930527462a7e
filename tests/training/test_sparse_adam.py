"""Optimizers and constraints: lazy Adam against torch's, forgetting, unit rows, and gradients along them."""

import pytest
import torch
from torch import Tensor, nn

from lmsae.training.optimizers import clear_moments, set_lr_factor
from lmsae.training.sparse_adam import SparseAdam
from lmsae.training.unit_rows import normalize_rows, remove_radial_gradient


def gradients(steps: int, density: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (steps, 6, 5)
    grads = torch.randn(shape, generator=generator, dtype=torch.float64)
    rows = torch.rand(steps, 6, 1, generator=generator) < density
    return list(grads * rows)


def trained(optimizer: torch.optim.Optimizer, weights: nn.Parameter, grads: list[Tensor]) -> Tensor:
    for grad in grads:
        weights.grad = grad.clone()
        optimizer.step()
    return weights.detach()


def start() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, 30, dtype=torch.float64).view(6, 5))


def lazy(weights: nn.Parameter, weight_decay: float = 0.0) -> SparseAdam:
    return SparseAdam([{"params": [weights], "lr": 0.01, "weight_decay": weight_decay}], (0.8, 0.95), 1e-8)


def test_lazy_adam_is_torchs_sparse_adam_on_the_same_sparse_gradients() -> None:
    grads = gradients(20, 0.3)
    mine, theirs = start(), start()
    expected = trained(
        torch.optim.SparseAdam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-8), theirs, [g.to_sparse() for g in grads]
    )
    torch.testing.assert_close(trained(lazy(mine), mine, grads), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lazy_adam_is_adam_where_every_element_has_a_gradient(weight_decay: float) -> None:
    grads = gradients(20, 2.0)
    mine, theirs = start(), start()
    adam = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-8, weight_decay=weight_decay)
    torch.testing.assert_close(
        trained(lazy(mine, weight_decay), mine, grads), trained(adam, theirs, grads), rtol=1e-7, atol=1e-9
    )


def test_under_lazy_adam_what_has_no_gradient_stays_and_keeps_its_moments() -> None:
    weights = start()
    optimizer = lazy(weights, 0.1)
    trained(optimizer, weights, gradients(3, 2.0))
    before = {name: value.clone() for name, value in optimizer.state[weights].items()}
    stayed = weights.detach()[2:].clone()
    grad = torch.zeros(6, 5, dtype=torch.float64)
    grad[:2] = 1.0
    trained(optimizer, weights, [grad])
    assert torch.equal(weights[2:], stayed)
    for name in ("exp_avg", "exp_avg_sq"):
        after = optimizer.state[weights][name]
        assert torch.equal(after[2:], before[name][2:])
        assert (after[:2] != before[name][:2]).all()


def test_a_parameter_without_a_gradient_is_let_be() -> None:
    weights = start()
    lazy(weights).step()
    assert torch.equal(weights, start())


def test_a_schedule_scales_every_group_from_its_own_base() -> None:
    groups = [{"params": [start()], "lr": rate, "base_lr": rate} for rate in (0.01, 0.001)]
    optimizer = torch.optim.Adam(groups)
    for factor in (0.5, 0.25):
        set_lr_factor(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * factor, 0.001 * factor])


@pytest.mark.parametrize("dim", [0, 1])
def test_moments_of_chosen_places_are_forgotten_and_all_others_kept(dim: int) -> None:
    weights = start()
    optimizer = torch.optim.Adam([weights], lr=0.01)
    trained(optimizer, weights, gradients(3, 2.0))
    before = {name: value.clone() for name, value in optimizer.state[weights].items()}
    clear_moments(optimizer, weights, dim, torch.tensor([1, 3]))
    for name in ("exp_avg", "exp_avg_sq"):
        kept, was = optimizer.state[weights][name].unbind(dim), before[name].unbind(dim)
        assert [bool((now == 0).all()) for now in kept] == [place in (1, 3) for place in range(len(kept))]
        assert all(torch.equal(kept[place], was[place]) for place in range(len(kept)) if place not in (1, 3))
    assert optimizer.state[weights]["step"] == before["step"] == 3


def test_there_is_nothing_to_forget_before_the_first_step() -> None:
    weights = start()
    optimizer = torch.optim.Adam([weights])
    clear_moments(optimizer, weights, 0, torch.tensor([0]))
    assert not optimizer.state


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


def test_normalized_rows_have_norm_1_and_a_zero_row_stays_zero() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-1e-3, 0.0]])
    normalize_rows(rows)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))
