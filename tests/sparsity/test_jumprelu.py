"""JumpReLU against its definition: values, and straight-through gradients as explicit sums over the kernel."""

import math

import numpy as np
import pytest
import torch

from lmsae import sparsity
from lmsae.sparsity.config import JumpReLUConfig
from lmsae.sparsity.jumprelu import JumpReLU

EPS = 0.6
GENERATOR = torch.Generator().manual_seed(0)
PRE = torch.randn(40, 3, generator=GENERATOR, dtype=torch.float64)
GRAD = torch.randn(40, 3, generator=GENERATOR, dtype=torch.float64)
THETA = np.array([0.2, 0.5, 1.3])


def jumprelu() -> JumpReLU:
    act_fn = sparsity.build(JumpReLUConfig(jumprelu_bandwidth=EPS, jumprelu_init_threshold=0.1), 3).double()
    assert isinstance(act_fn, JumpReLU)
    with torch.no_grad():
        act_fn.log_threshold.copy_(torch.from_numpy(np.log(THETA)))
    return act_fn


def kernel_sum(grad: np.ndarray, latent: int) -> float:
    """sum over tokens of grad * 1[|pre - theta| < eps/2], one number at a time."""
    pre = PRE.numpy()
    return sum(grad[token, latent] for token in range(len(pre)) if abs(pre[token, latent] - THETA[latent]) < EPS / 2)


def test_codes_are_pre_where_it_is_above_the_threshold() -> None:
    pre = PRE.numpy()
    np.testing.assert_array_equal(jumprelu()(PRE).detach(), np.where(pre > THETA, pre, 0))


def test_the_step_is_one_where_pre_is_above_the_threshold() -> None:
    np.testing.assert_array_equal(jumprelu().step(PRE).detach(), (PRE.numpy() > THETA).astype(float))


def test_a_value_exactly_at_the_threshold_does_not_fire() -> None:
    act_fn = jumprelu()
    at = act_fn.threshold.detach()[None]
    assert act_fn(at).tolist() == [[0, 0, 0]]
    assert act_fn.step(at).tolist() == [[0, 0, 0]]


def test_the_value_path_moves_thresholds_by_the_kernel() -> None:
    act_fn, pre = jumprelu(), PRE.clone().requires_grad_()
    (act_fn(pre) * GRAD).sum().backward()
    grad = GRAD.numpy()
    # d codes / d theta = -theta/eps 1[...], and d theta / d log_threshold = theta.
    expected = [-THETA[i] / EPS * kernel_sum(grad, i) * THETA[i] for i in range(3)]
    assert act_fn.log_threshold.grad is not None
    np.testing.assert_allclose(act_fn.log_threshold.grad, expected, rtol=1e-12)
    np.testing.assert_array_equal(pre.grad, np.where(PRE.numpy() > THETA, grad, 0))


def test_the_step_moves_thresholds_by_the_kernel_and_pre_not_at_all() -> None:
    act_fn, pre = jumprelu(), PRE.clone().requires_grad_()
    (act_fn.step(pre) * GRAD).sum().backward()
    expected = [-1 / EPS * kernel_sum(GRAD.numpy(), i) * THETA[i] for i in range(3)]
    assert act_fn.log_threshold.grad is not None
    np.testing.assert_allclose(act_fn.log_threshold.grad, expected, rtol=1e-12)
    assert pre.grad is None


def test_some_values_lie_inside_the_kernel_and_some_outside() -> None:
    inside = np.abs(PRE.numpy() - THETA) < EPS / 2
    assert 0 < inside.sum(0).min() < inside.sum(0).max() < len(inside)


def test_leading_dimensions_are_summed_over() -> None:
    flat, folded = jumprelu(), jumprelu()
    (flat(PRE) * GRAD).sum().backward()
    (folded(PRE.view(4, 10, 3)) * GRAD.view(4, 10, 3)).sum().backward()
    torch.testing.assert_close(folded.log_threshold.grad, flat.log_threshold.grad)


@pytest.mark.parametrize("value", [0.001, 0.1, 2.0])
def test_thresholds_start_where_the_config_says(value: float) -> None:
    act_fn = sparsity.build(JumpReLUConfig(jumprelu_init_threshold=value), 4)
    assert isinstance(act_fn, JumpReLU)
    assert act_fn.threshold.tolist() == pytest.approx([value] * 4)
    assert act_fn.log_threshold.tolist() == pytest.approx([math.log(value)] * 4)
