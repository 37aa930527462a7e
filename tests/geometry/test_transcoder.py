"""Transcoders against their formula in float64, and bit for bit against the geometries that they collapse to."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.geometry.config import GeometryConfig, SAEConfig, SkipTranscoderConfig, TranscoderConfig
from tests.geometry.filling import filled, noise, weights
from tests.geometry.linear_cases import LATENTS, case

X, TARGET = noise(6, 3), noise(6, 4, seed=2)
CODES = noise(6, LATENTS, seed=3)


@pytest.mark.parametrize("name", ["transcoder", "skip transcoder"])
def test_pre_never_sees_b_dec(name: str) -> None:
    module = case(name)
    w = weights(module)
    assert w["W_enc"].shape == (3, LATENTS)
    np.testing.assert_allclose(module.encode(X).detach(), X.numpy() @ w["W_enc"] + w["b_enc"], rtol=0, atol=1e-14)


def test_a_gate_multiplies_pre() -> None:
    module = case("transcoder, gate")
    w = weights(module)
    gate = 1 / (1 + np.exp(-(X.numpy() @ w["W_glu"] + w["b_glu"])))
    expected = (X.numpy() @ w["W_enc"] + w["b_enc"]) * gate
    np.testing.assert_allclose(module.encode(X).detach(), expected, rtol=0, atol=1e-14)


def test_a_reconstruction_lives_in_the_output_space() -> None:
    module = case("transcoder")
    w = weights(module)
    expected = CODES.numpy() @ w["W_dec"] + w["b_dec"]
    assert expected.shape == TARGET.shape
    np.testing.assert_allclose(module.decode(CODES, X).detach(), expected, rtol=0, atol=1e-14)


def test_the_skip_passes_the_input_on() -> None:
    module = case("skip transcoder")
    w = weights(module)
    assert w["W_skip"].shape == (4, 3)
    base = np.array([w["W_skip"] @ x + w["b_dec"] for x in X.numpy()])
    np.testing.assert_allclose(module.base(X).detach(), base, rtol=0, atol=1e-14)
    expected = CODES.numpy() @ w["W_dec"] + base
    np.testing.assert_allclose(module.decode(CODES, X).detach(), expected, rtol=0, atol=1e-13)


def outcome(config: GeometryConfig, x: Tensor, target: Tensor, **parameters: float) -> dict[str, Tensor]:
    """pre, the reconstruction, and all gradients of a squared error, some parameters filled with one value."""
    module = filled(config, (x.shape[1],), (target.shape[1],), LATENTS, dtype=torch.float32)
    with torch.no_grad():
        for name, value in parameters.items():
            module.get_parameter(name).fill_(value)
    pre = module.encode(x.float())
    reconstruction = module.decode(pre.relu(), x.float())
    (reconstruction - target.float()).pow(2).sum().backward()
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    return {"pre": pre, "reconstruction": reconstruction} | gradients


@pytest.mark.parametrize("glu", [True, False])
def test_a_transcoder_of_a_hook_point_to_itself_is_an_sae_that_does_not_subtract_b_dec(glu: bool) -> None:
    mine = outcome(TranscoderConfig(glu_encoder=glu), X, X)
    simpler = outcome(SAEConfig(apply_b_dec_to_input=False, glu_encoder=glu), X, X)
    assert mine.keys() == simpler.keys()
    assert all(torch.equal(mine[name], simpler[name]) for name in simpler)


@pytest.mark.parametrize("glu", [True, False])
def test_a_skip_transcoder_whose_skip_is_zero_is_a_transcoder(glu: bool) -> None:
    mine = outcome(SkipTranscoderConfig(glu_encoder=glu), X, TARGET, W_skip=0.0)
    simpler = outcome(TranscoderConfig(glu_encoder=glu), X, TARGET)
    assert mine.keys() == simpler.keys() | {"W_skip"}
    assert mine["W_skip"].any()
    assert all(torch.equal(mine[name], simpler[name]) for name in simpler)
