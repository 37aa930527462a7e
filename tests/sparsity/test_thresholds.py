"""Threshold conversion: the jumprelu that a trained activation function becomes, and refusals with their reason."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae import sparsity
from lmsae.errors import ExportError
from lmsae.sparsity.config import (
    ACT_FNS,
    AbsTopKConfig,
    ActFnConfig,
    BatchLayerTopKConfig,
    BatchTopKConfig,
    GroupMaxConfig,
    JumpReLUConfig,
    LayerTopKConfig,
    TopKConfig,
)
from lmsae.sparsity.thresholds import to_jumprelu

LATENTS, LAYERS = 24, 3
GENERATOR = torch.Generator().manual_seed(0)
BATCHES = torch.randn(5, 30, LATENTS, generator=GENERATOR)
PRE = torch.randn(40, LATENTS, generator=GENERATOR)
FAMILY = [TopKConfig(k=4), BatchTopKConfig(k=4), LayerTopKConfig(k=9), BatchLayerTopKConfig(k=9), GroupMaxConfig(k=4)]


def trained(config: ActFnConfig, groups: int = LAYERS) -> Any:
    act_fn = sparsity.build(config, LATENTS, groups)
    for batch in BATCHES:
        act_fn.observe(act_fn(batch))
    return act_fn.eval()


def converted(config: ActFnConfig, act_fn: Any) -> Any:
    into, state = to_jumprelu(config, act_fn)
    jumprelu = sparsity.build(into, LATENTS, LAYERS)
    jumprelu.load_state_dict(state)
    return jumprelu


def fires_above(pre: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(pre > threshold, pre, 0.0)


@pytest.mark.parametrize("groups", [1, LAYERS])
@pytest.mark.parametrize("config", [BatchTopKConfig(k=4), BatchLayerTopKConfig(k=9)])
def test_codes_of_batchtopk_at_inference_stay_exactly_the_same(config: ActFnConfig, groups: int) -> None:
    act_fn = trained(config, groups)
    codes = act_fn(PRE)
    assert torch.equal(converted(config, act_fn)(PRE), codes)
    assert 0 < (codes > 0).sum() < PRE.numel() / 2


@pytest.mark.parametrize("config", FAMILY, ids=lambda config: config.kind)
def test_every_latent_gets_the_threshold_that_its_layer_learned(config: ActFnConfig) -> None:
    act_fn = trained(config)
    jumprelu = converted(config, act_fn)
    assert (jumprelu.threshold > 0).all()
    assert torch.equal(jumprelu.threshold, act_fn.threshold)
    assert torch.equal(jumprelu(PRE), fires_above(PRE, act_fn.threshold))
    per_layer = jumprelu.threshold.view(LAYERS, -1)
    assert torch.equal(per_layer, per_layer[:, :1].expand_as(per_layer))
    assert len(per_layer[:, 0].unique()) == (1 if config.joins_groups else LAYERS)


def count_by_group(codes: Tensor, act_fn: Any) -> Tensor:
    return codes.view(-1, act_fn.groups, act_fn.width).count_nonzero((0, 2))


@pytest.mark.parametrize("sizes", [[150], [1, 100, 49], [30] * 5])
@pytest.mark.parametrize("groups", [1, LAYERS])
@pytest.mark.parametrize("config", FAMILY, ids=lambda config: config.kind)
def test_a_calibrated_threshold_lets_as_many_codes_be_active_as_selection_keeps(
    config: ActFnConfig, groups: int, sizes: list[int]
) -> None:
    """In each group, whatever training's estimate was, and however the tokens come in parts."""
    act_fn, pre = trained(config, groups), BATCHES.flatten(0, 1)
    estimated = act_fn.threshold
    act_fn.calibrate(150, pre.split(sizes))
    kept = sum(count_by_group(act_fn.train()(part), act_fn) for part in pre.split(sizes))
    assert isinstance(kept, Tensor)
    assert torch.equal(count_by_group(fires_above(pre, act_fn.threshold), act_fn), kept)
    assert not torch.equal(act_fn.threshold, estimated)


def test_where_selection_leaves_no_positive_value_out_the_calibrated_threshold_is_0() -> None:
    act_fn = trained(TopKConfig(k=LATENTS), 1)
    act_fn.calibrate(150, BATCHES)
    assert not act_fn.threshold.any()


def test_a_group_in_which_nothing_fires_keeps_its_threshold() -> None:
    act_fn, silent = trained(BatchTopKConfig(k=2)), BATCHES.clone()
    silent[..., : LATENTS // LAYERS] = -1
    before = act_fn.threshold.view(LAYERS, -1)[:, 0]
    act_fn.calibrate(150, silent)
    after = act_fn.threshold.view(LAYERS, -1)[:, 0]
    assert (after == before).tolist() == [True, False, False]


def test_negative_codes_have_no_jumprelu() -> None:
    config = AbsTopKConfig(k=2)
    with pytest.raises(ExportError, match=r"abstopk .* its codes may be negative"):
        to_jumprelu(config, sparsity.build(config, LATENTS))


@pytest.mark.parametrize("kind", sorted(set(ACT_FNS) - {config.kind for config in FAMILY}))
def test_what_learns_no_threshold_is_refused_by_name(kind: str) -> None:
    config: Any = ACT_FNS[kind].model_validate({"k": 2} if "k" in ACT_FNS[kind].model_fields else {})
    with pytest.raises(ExportError, match=f"{kind} cannot be converted to jumprelu: {config.not_jumprelu_because}"):
        to_jumprelu(config, sparsity.build(config, LATENTS))


@pytest.mark.parametrize("config", FAMILY, ids=lambda config: config.kind)
def test_what_was_never_trained_is_refused(config: ActFnConfig) -> None:
    with pytest.raises(ExportError, match="no latent ever fired"):
        to_jumprelu(config, sparsity.build(config, LATENTS))


def test_a_layer_that_never_fired_is_refused() -> None:
    act_fn = sparsity.build(BatchTopKConfig(k=1), LATENTS, LAYERS)
    codes = torch.ones(2, LAYERS, LATENTS // LAYERS)
    codes[:, 1] = 0
    act_fn.observe(codes.flatten(1))
    with pytest.raises(ExportError, match="in some layer"):
        to_jumprelu(BatchTopKConfig(k=1), act_fn)


def test_the_state_is_all_that_the_jumprelu_has() -> None:
    into, state = to_jumprelu(TopKConfig(k=4), trained(TopKConfig(k=4)))
    assert into == JumpReLUConfig(jumprelu_threshold="direct")
    assert state.keys() == sparsity.build(into, LATENTS).state_dict().keys()
