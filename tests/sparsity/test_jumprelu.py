"""JumpReLU against its definition: values, and straight-through gradients as explicit sums over the kernel."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from lmsae import sparsity
from lmsae.sparsity.config import JumpReLUConfig, ReLUConfig
from lmsae.sparsity.jumprelu import JumpReLU

EPS = 0.6
GENERATOR = torch.Generator().manual_seed(0)
PRE = torch.randn(40, 3, generator=GENERATOR, dtype=torch.float64)
GRAD = torch.randn(40, 3, generator=GENERATOR, dtype=torch.float64)
THETA = np.array([0.2, 0.5, 1.3])


PARAMETERIZATIONS = ("log", "direct")
RAW = {"log": np.log(THETA), "direct": THETA}
SLOPE = {"log": THETA, "direct": np.ones(3)}
"""d theta / d parameter."""


def build(kind: Literal["log", "direct"], raw: Any, **fields: Any) -> tuple[JumpReLU, nn.Parameter]:
    """A jumprelu and its only parameter, which has the values `raw`."""
    act_fn = sparsity.build(JumpReLUConfig(jumprelu_threshold=kind, **fields), len(raw)).double()
    assert isinstance(act_fn, JumpReLU)
    (parameter,) = act_fn.parameters()
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(raw, dtype=torch.float64))
    return act_fn, parameter


@pytest.fixture(params=PARAMETERIZATIONS)
def kind(request: pytest.FixtureRequest) -> Literal["log", "direct"]:
    return request.param


def jumprelu(kind: Literal["log", "direct"] = "log") -> tuple[JumpReLU, nn.Parameter]:
    return build(kind, RAW[kind], jumprelu_bandwidth=EPS)


def kernel_sum(grad: np.ndarray, latent: int) -> float:
    """sum over tokens of grad * 1[|pre - theta| < eps/2], one number at a time."""
    pre = PRE.numpy()
    return sum(grad[token, latent] for token in range(len(pre)) if abs(pre[token, latent] - THETA[latent]) < EPS / 2)


def test_codes_are_pre_where_it_is_above_the_threshold(kind: Any) -> None:
    pre = PRE.numpy()
    np.testing.assert_array_equal(jumprelu(kind)[0](PRE).detach(), np.where(pre > THETA, pre, 0))


def test_the_step_is_one_where_pre_is_above_the_threshold(kind: Any) -> None:
    np.testing.assert_array_equal(jumprelu(kind)[0].step(PRE).detach(), (PRE.numpy() > THETA).astype(float))


def test_a_value_exactly_at_the_threshold_does_not_fire(kind: Any) -> None:
    act_fn, _ = jumprelu(kind)
    at = act_fn.threshold.detach()[None]
    assert act_fn(at).tolist() == [[0, 0, 0]]
    assert act_fn.step(at).tolist() == [[0, 0, 0]]


def test_the_value_path_moves_thresholds_by_the_kernel(kind: Any) -> None:
    (act_fn, parameter), pre = jumprelu(kind), PRE.clone().requires_grad_()
    (act_fn(pre) * GRAD).sum().backward()
    grad = GRAD.numpy()
    # d codes / d theta = -theta/eps 1[...], times d theta / d parameter.
    expected = [-THETA[i] / EPS * kernel_sum(grad, i) * SLOPE[kind][i] for i in range(3)]
    assert parameter.grad is not None
    np.testing.assert_allclose(parameter.grad, expected, rtol=1e-12)
    np.testing.assert_array_equal(pre.grad, np.where(PRE.numpy() > THETA, grad, 0))


def test_the_step_moves_thresholds_by_the_kernel_and_pre_not_at_all(kind: Any) -> None:
    (act_fn, parameter), pre = jumprelu(kind), PRE.clone().requires_grad_()
    (act_fn.step(pre) * GRAD).sum().backward()
    expected = [-1 / EPS * kernel_sum(GRAD.numpy(), i) * SLOPE[kind][i] for i in range(3)]
    assert parameter.grad is not None
    np.testing.assert_allclose(parameter.grad, expected, rtol=1e-12)
    assert pre.grad is None


def test_the_threshold_itself_is_differentiable(kind: Any) -> None:
    act_fn, parameter = jumprelu(kind)
    (act_fn.threshold * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert parameter.grad is not None
    np.testing.assert_allclose(parameter.grad, SLOPE[kind] * [1, 2, 3], rtol=1e-12)


def test_some_values_lie_inside_the_kernel_and_some_outside() -> None:
    inside = np.abs(PRE.numpy() - THETA) < EPS / 2
    assert 0 < inside.sum(0).min() < inside.sum(0).max() < len(inside)


def test_leading_dimensions_are_summed_over(kind: Any) -> None:
    (flat, flat_parameter), (folded, folded_parameter) = jumprelu(kind), jumprelu(kind)
    (flat(PRE) * GRAD).sum().backward()
    (folded(PRE.view(4, 10, 3)) * GRAD.view(4, 10, 3)).sum().backward()
    torch.testing.assert_close(folded_parameter.grad, flat_parameter.grad)


def test_a_direct_threshold_below_zero_acts_as_zero_and_can_come_back() -> None:
    act_fn, parameter = build("direct", [-0.1, 0.0, 0.3], jumprelu_bandwidth=0.4)
    assert act_fn.threshold.tolist() == [0, 0, 0.3]
    pre = torch.tensor([[-0.05, -0.05, 0.2], [0.15, 0.15, 0.4], [0.3, 0.3, 0.6]], dtype=torch.float64)
    assert act_fn(pre).tolist() == [[0, 0, 0], [0.15, 0.15, 0.4], [0.3, 0.3, 0.6]]
    act_fn.step(pre).sum().backward()
    # Two values of each lie within 0.2 of the threshold; less L0 means thresholds that rise.
    assert parameter.grad is not None
    assert parameter.grad.tolist() == pytest.approx([-2 / 0.4] * 3)


@settings(deadline=None)
@given(pre=hnp.arrays(np.float64, (5, 3), elements=st.floats(-3, 3)), theta=st.floats(1e-4, 2))
def test_both_parameterizations_give_the_same_codes(pre: np.ndarray, theta: float) -> None:
    log, _ = build("log", np.full(3, np.log(theta)))
    direct, _ = build("direct", log.threshold.detach())
    assert torch.equal(log(torch.from_numpy(pre)), direct(torch.from_numpy(pre)))


@pytest.mark.parametrize(("kind", "raw"), [("direct", 0.0), ("log", -800.0)])
def test_at_a_threshold_of_zero_it_is_relu(kind: Any, raw: float) -> None:
    act_fn, _ = build(kind, [raw] * 3)
    assert torch.equal(act_fn(PRE), sparsity.build(ReLUConfig(), 3)(PRE))


@pytest.mark.parametrize("value", [0.001, 0.1, 2.0])
def test_thresholds_start_where_the_config_says(kind: Any, value: float) -> None:
    act_fn = sparsity.build(JumpReLUConfig(jumprelu_threshold=kind, jumprelu_init_threshold=value), 4)
    assert isinstance(act_fn, JumpReLU)
    assert act_fn.threshold.tolist() == pytest.approx([value] * 4)


def test_the_optimizer_knows_the_parameter_by_its_name(kind: Any) -> None:
    (name,) = dict(jumprelu(kind)[0].named_parameters())
    assert name.endswith("threshold")
