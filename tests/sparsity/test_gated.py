"""Gated against its formula, its gradients, and relu, which it is at the start."""

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lmsae import sparsity
from lmsae.sparsity.config import GatedConfig, ReLUConfig

B_GATE, R_MAG, B_MAG = np.array([[0.5, -0.5, 0.2, 0.0], [0.3, -0.2, 0.1, 0.0], [-0.4, 0.6, 0.1, 0.2]])
PRE = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 4)))


def gated() -> Any:
    act_fn = sparsity.build(GatedConfig(), 4).double()
    state = {"b_gate": B_GATE, "r_mag": R_MAG, "b_mag": B_MAG}
    act_fn.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return act_fn


def test_codes_are_the_magnitude_where_the_gate_is_open() -> None:
    pre = PRE.numpy()
    is_open = pre + B_GATE > 0
    magnitude = np.maximum(pre * np.exp(R_MAG) + B_MAG, 0)
    np.testing.assert_allclose(gated()(PRE).detach(), is_open * magnitude, rtol=1e-14)
    assert (is_open & (magnitude == 0)).any()
    assert (~is_open & (magnitude > 0)).any()


def test_the_gate_is_pre_and_its_bias() -> None:
    np.testing.assert_allclose(gated().gate(PRE).detach(), PRE.numpy() + B_GATE, rtol=1e-15)


def test_gradients_are_those_of_the_magnitude_alone() -> None:
    act_fn = gated()
    edges = np.stack([PRE.numpy() + B_GATE, PRE.numpy() * np.exp(R_MAG) + B_MAG])
    away = np.flatnonzero((np.abs(edges) > 1e-3).all((0, 2)))
    pre = PRE[away[:10]].requires_grad_()
    assert len(pre) == 10

    def codes(pre: torch.Tensor, r_mag: torch.Tensor, b_mag: torch.Tensor) -> Any:
        return torch.func.functional_call(act_fn, {"r_mag": r_mag, "b_mag": b_mag}, pre)

    assert torch.autograd.gradcheck(codes, (pre, act_fn.r_mag, act_fn.b_mag))
    act_fn(PRE).sum().backward()
    assert act_fn.b_gate.grad is None or not act_fn.b_gate.grad.any()


@settings(deadline=None)
@given(pre=hnp.arrays(np.float32, (6, 4), elements=st.floats(-3, 3, width=32)))
def test_at_the_start_it_is_relu(pre: np.ndarray) -> None:
    codes = [sparsity.build(config, 4)(torch.from_numpy(pre)) for config in (GatedConfig(), ReLUConfig())]
    assert torch.equal(*codes)
