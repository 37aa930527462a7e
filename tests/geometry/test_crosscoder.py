"""The crosscoder against its sums over hook points in float64, and bit for bit against the SAE of one hook point."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.geometry.config import CrosscoderConfig, GeometryConfig, SAEConfig
from tests.geometry.filling import filled, generator, noise, weights
from tests.geometry.linear_cases import LATENTS, case

STRETCHES = (slice(0, 3), slice(3, 5))
X, CODES = noise(6, 5), noise(6, LATENTS, seed=3)


def test_pre_is_a_sum_over_hook_points() -> None:
    module = case("crosscoder")
    w, x = weights(module), X.numpy()
    expected = w["b_enc"] + sum(x[:, at] @ w["W_enc"][at] for at in STRETCHES)
    np.testing.assert_allclose(module.encode(X).detach(), expected, rtol=0, atol=1e-14)


def test_a_gate_sees_all_hook_points() -> None:
    module = case("crosscoder, gate")
    w, x = weights(module), X.numpy()
    plain = w["b_enc"] + sum(x[:, at] @ w["W_enc"][at] for at in STRETCHES)
    gate = 1 / (1 + np.exp(-w["b_glu"] - sum(x[:, at] @ w["W_glu"][at] for at in STRETCHES)))
    np.testing.assert_allclose(module.encode(X).detach(), plain * gate, rtol=0, atol=1e-14)


def test_each_hook_point_has_a_reconstruction_of_its_own() -> None:
    module = case("crosscoder")
    w = weights(module)
    reconstruction = module.decode(CODES, X).detach().numpy()
    for at in STRETCHES:
        expected = CODES.numpy() @ w["W_dec"][:, at] + w["b_dec"][at]
        np.testing.assert_allclose(reconstruction[:, at], expected, rtol=0, atol=1e-14)


def test_a_norm_is_the_sum_of_those_at_each_hook_point() -> None:
    module = case("crosscoder")
    decoder = weights(module)["W_dec"]
    expected = sum(np.sqrt((decoder[:, at] ** 2).sum(1)) for at in STRETCHES)
    np.testing.assert_allclose(module.norms().detach(), expected, rtol=1e-14)


def test_directions_have_norm_one_at_each_hook_point() -> None:
    drawn = case("crosscoder").draw(generator(0))
    assert drawn.keys() == {"W_dec"}
    for at in STRETCHES:
        torch.testing.assert_close(drawn["W_dec"][:, at].norm(dim=1), torch.ones(LATENTS))


def outcome(config: GeometryConfig, x: Tensor) -> dict[str, Tensor]:
    """pre, the reconstruction, norms, and all gradients of a squared error and an L1 penalty."""
    module = filled(config, (5,), (5,), LATENTS, dtype=torch.float32)
    pre, norms = module.encode(x), module.norms()
    reconstruction = module.decode(pre.relu(), x)
    ((reconstruction - x).pow(2).sum() + (pre.relu() * norms).sum()).backward()
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    return {"pre": pre, "reconstruction": reconstruction, "norms": norms} | gradients


@pytest.mark.parametrize("glu", [True, False])
def test_a_crosscoder_of_one_hook_point_is_an_sae_that_does_not_subtract_b_dec(glu: bool) -> None:
    mine = outcome(CrosscoderConfig(glu_encoder=glu), X.float())
    simpler = outcome(SAEConfig(apply_b_dec_to_input=False, glu_encoder=glu), X.float())
    assert mine.keys() == simpler.keys()
    assert all(torch.equal(mine[name], simpler[name]) for name in simpler)


def test_what_one_hook_point_reads_moves_codes_that_write_all() -> None:
    module = case("crosscoder")
    x = X.clone().requires_grad_()
    module.decode(module.encode(x), x)[:, STRETCHES[1]].sum().backward()
    assert x.grad is not None
    assert x.grad[:, STRETCHES[0]].all()
