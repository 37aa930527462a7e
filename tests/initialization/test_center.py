"""Centers: the geometric median is the point that it claims to be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies

from lmsae.initialization.center import compute_center, compute_geometric_median

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(101, 5, generator=GENERATOR, dtype=torch.float64) @ torch.diag(torch.arange(1.0, 6).double()) + 7


def mean_distance(x: np.ndarray, point: np.ndarray) -> float:
    return float(np.linalg.norm(x - point, axis=1).mean())


@settings(max_examples=30, deadline=None)
@given(seed=strategies.integers(0, 1000), count=strategies.integers(3, 40), width=strategies.integers(2, 6))
def test_pulls_towards_all_points_cancel_at_the_geometric_median(seed: int, count: int, width: int) -> None:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    away = x.numpy() - compute_geometric_median(x).numpy()
    distances = np.linalg.norm(away, axis=1)
    apart = distances > 1e-6
    pull = np.linalg.norm((away[apart] / distances[apart, None]).sum(0))
    # At a point of the data the others' pulls may sum to as much as 1 (Vardi and Zhang 2000, equation 2.4).
    assert pull < (1e-4 if apart.all() else 1 + 1e-4)


def test_no_point_nearby_has_a_smaller_mean_distance() -> None:
    x, median = X.numpy(), compute_geometric_median(X).numpy()
    least = mean_distance(x, median)
    steps = 1e-3 * np.concatenate([np.eye(5), -np.eye(5)])
    assert all(mean_distance(x, median + step) > least for step in steps)
    assert mean_distance(x, x.mean(0)) > least + 1e-3


def test_outliers_move_the_mean_and_not_the_geometric_median() -> None:
    wild = X.clone()
    wild[:20] = 1e6
    assert (compute_geometric_median(wild) - compute_geometric_median(X)).norm() < 10
    assert (wild.mean(0) - X.mean(0)).norm() > 1e5


@pytest.mark.parametrize("start", [0.0, 10.0])
def test_a_start_on_a_point_of_the_data_is_left_where_it_is_not_the_median(start: float) -> None:
    # The mean is the point at the origin, and the median lies among the three on the right.
    right = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.2, 0.0]], dtype=torch.float64)
    left = torch.tensor([[-3.2, 0.0]], dtype=torch.float64)
    x = torch.cat([torch.zeros(1, 2, dtype=torch.float64), right, left]) + start
    median = compute_geometric_median(x).numpy()
    around = [median + 1e-4 * np.array([np.cos(a), np.sin(a)]) for a in np.linspace(0, 2 * np.pi, 16)]
    assert all(mean_distance(x.numpy(), point) >= mean_distance(x.numpy(), median) for point in around)
    assert np.linalg.norm(median - start) > 0.1


def test_a_point_that_is_most_of_the_data_is_its_geometric_median() -> None:
    x = torch.tensor([[2.0, 3.0]] * 6 + [[9.0, 9.0], [-5.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(compute_geometric_median(x), x[0], rtol=0, atol=1e-6)
    assert torch.equal(compute_geometric_median(x[:6]), x[0])


@pytest.mark.parametrize("kind", ["mean", "zero", "geometric_median"])
def test_each_hook_point_has_its_own_center(kind: str) -> None:
    both = compute_center(kind, torch.cat([X, 3 * X[:, :2]], dim=1), (5, 2))
    torch.testing.assert_close(
        both, torch.cat([compute_center(kind, X, (5,)), compute_center(kind, 3 * X[:, :2], (2,))])
    )


def test_the_mean_is_the_mean_and_zero_is_zero() -> None:
    np.testing.assert_allclose(compute_center("mean", X, (5,)), X.numpy().mean(0))
    assert not compute_center("zero", X, (5,)).any()
