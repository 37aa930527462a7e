"""Latents in groups, the layers of a cross-layer transcoder: selected from in each, or over all of them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from lmsae import sparsity
from lmsae.sparsity.config import (
    AbsTopKConfig,
    ActFnConfig,
    BatchLayerTopKConfig,
    BatchTopKConfig,
    GroupMaxConfig,
    LayerTopKConfig,
    TopKConfig,
)

LAYERS, WIDTH = 3, 8
PRE = torch.randn(20, LAYERS * WIDTH, generator=torch.Generator().manual_seed(0))
PRES = hnp.arrays(np.float32, (4, LAYERS * WIDTH), elements=st.floats(-3, 3, width=32))


def build(config: ActFnConfig, groups: int = LAYERS) -> Any:
    return sparsity.build(config, groups * WIDTH, groups)


def alone(config: ActFnConfig, pre: Tensor) -> Tensor:
    """The codes of each layer, of an activation function that knows no other layer."""
    return torch.cat([build(config, 1)(layer) for layer in pre.split(WIDTH, dim=-1)], dim=-1)


@pytest.mark.parametrize("config", [TopKConfig(k=2), BatchTopKConfig(k=2), AbsTopKConfig(k=2), GroupMaxConfig(k=2)])
@settings(deadline=None, max_examples=40)
@given(pre=PRES)
def test_each_layer_is_selected_from_as_if_alone(config: ActFnConfig, pre: np.ndarray) -> None:
    tokens = torch.from_numpy(pre)
    assert torch.equal(build(config)(tokens).abs().sort().values, alone(config, tokens).abs().sort().values)


@pytest.mark.parametrize("config", [TopKConfig(k=2), BatchTopKConfig(k=2), AbsTopKConfig(k=2), GroupMaxConfig(k=2)])
def test_each_layer_keeps_the_same_latents_as_if_alone(config: ActFnConfig) -> None:
    assert torch.equal(build(config)(PRE), alone(config, PRE))
    assert torch.equal(build(config)(PRE.view(4, 5, -1)), alone(config, PRE).view(4, 5, -1))


@settings(deadline=None)
@given(pre=PRES, k=st.integers(1, LAYERS * WIDTH))
def test_over_layers_k_is_the_total_of_a_token(pre: np.ndarray, k: int) -> None:
    codes = build(LayerTopKConfig(k=k))(torch.from_numpy(pre)).numpy()
    positive = np.maximum(pre, 0)
    assert ((codes == positive) | (codes == 0)).all()
    np.testing.assert_array_equal(np.sort(codes, 1)[:, ::-1][:, :k], np.sort(positive, 1)[:, ::-1][:, :k])
    assert ((codes != 0).sum(1) <= k).all()


@settings(deadline=None)
@given(pre=PRES, k=st.integers(1, LAYERS * WIDTH))
def test_over_batch_and_layers_k_times_b_is_the_total(pre: np.ndarray, k: int) -> None:
    codes = build(BatchLayerTopKConfig(k=k))(torch.from_numpy(pre)).numpy()
    count = k * len(pre)
    expected = np.sort(np.maximum(pre, 0).ravel())[::-1][:count]
    np.testing.assert_array_equal(np.sort(codes.ravel())[::-1][:count], expected)
    assert (codes != 0).sum() <= count


@pytest.mark.parametrize(
    ("layers", "plain"),
    [(LayerTopKConfig(k=3), TopKConfig(k=3)), (BatchLayerTopKConfig(k=3), BatchTopKConfig(k=3))],
)
def test_with_one_layer_selecting_over_layers_changes_nothing(layers: ActFnConfig, plain: ActFnConfig) -> None:
    pre, one, other = PRE[:, :WIDTH], build(layers, 1), build(plain, 1)
    assert torch.equal(one(pre), other(pre))
    for act_fn in (one, other):
        act_fn.observe(act_fn(pre))
    assert torch.equal(one.eval()(pre), other.eval()(pre))


def test_each_layer_learns_a_threshold_of_its_own() -> None:
    act_fn = build(BatchTopKConfig(k=1))
    codes = torch.zeros(2, LAYERS, WIDTH)
    codes[0, 0, 3], codes[1, 0, 5], codes[1, 2, 0] = 0.5, 0.25, 4.0
    act_fn.observe(codes.flatten(1))
    assert act_fn.threshold.view(LAYERS, WIDTH).tolist() == [[0.25] * WIDTH, [0.0] * WIDTH, [4.0] * WIDTH]
    # A layer without any code keeps its threshold; the others average.
    act_fn.observe((codes * torch.tensor([2.0, 1.0, 0.0])[:, None]).flatten(1))
    expected = [(0.25 * 0.99 + 0.5) / 1.99, 0.0, 4.0]
    assert act_fn.threshold.view(LAYERS, WIDTH)[:, 0].tolist() == pytest.approx(expected)


def test_over_layers_there_is_one_threshold() -> None:
    act_fn = build(BatchLayerTopKConfig(k=2))
    act_fn.observe(act_fn(PRE))
    smallest = np.sort(PRE.relu().numpy().ravel())[-2 * len(PRE)]
    assert act_fn.threshold.tolist() == [smallest] * (LAYERS * WIDTH)
    assert torch.equal(act_fn.eval()(PRE), torch.where(smallest < PRE, PRE, 0.0))


def test_gradients_reach_what_was_kept_in_each_layer() -> None:
    pre = PRE.clone().requires_grad_()
    weight = torch.arange(float(pre.numel())).view_as(pre)
    codes = build(BatchTopKConfig(k=2))(pre)
    (codes * weight).sum().backward()
    assert pre.grad is not None
    assert torch.equal(pre.grad, torch.where(codes > 0, weight, 0.0))
