"""Penalties against NumPy in float64, and where one is another."""

import dataclasses

import numpy as np
import pytest
import torch

from lmsae.dictionary.dictionary import Dictionary
from lmsae.losses import L0, L1, Loss, Lp, Tanh, TanhQuad, TargetL0, TargetL0Gemma
from tests.losses.numpy_sae import ACT_FNS, THETA, TOKENS, X, dictionary, expected, gradient, parameter, progress


def penalty(loss: Loss, made: Dictionary) -> float:
    return loss(made.geometry, made.sparsity, made.training_pass(X, X), progress(loss)).item()


def sizes(made: Dictionary) -> np.ndarray:
    numpy = expected(made)
    return np.abs(numpy.codes) * numpy.norms


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("act_fn", ACT_FNS)
def test_l1_is_the_mean_sum_of_codes_times_decoder_norms(act_fn: str, scaled: bool) -> None:
    made = dictionary(act_fn, scaled=scaled)
    wanted = np.mean([sum(token) for token in sizes(made)])
    assert penalty(L1(l1_coefficient=0.7), made) == pytest.approx(0.7 * wanted, rel=1e-13)


@pytest.mark.parametrize("p", [0.3, 0.5, 1.0, 2.0])
def test_lp_is_the_mean_norm_of_a_tokens_sizes(p: float) -> None:
    made = dictionary("relu")
    wanted = np.mean([sum(size**p for size in token) ** (1 / p) for token in sizes(made)])
    assert penalty(Lp(lp_coefficient=0.7, p=p), made) == pytest.approx(0.7 * wanted, rel=1e-12)


def test_lp_at_p_1_is_l1() -> None:
    made = dictionary("relu")
    l1, lp = L1(l1_coefficient=0.7), Lp(lp_coefficient=0.7, p=1)
    assert penalty(lp, made) == pytest.approx(penalty(l1, made), rel=1e-14)


@pytest.mark.parametrize("p", [0.2, 0.5, 2.0])
def test_the_slope_of_lp_is_bounded_where_codes_are_0_or_almost(p: float) -> None:
    made = dictionary("relu")
    codes = torch.tensor([[0.0, 1e-300, 1e-30, 1e-7, 1e-5, 1e-2, 1.0, 2.0, 0.0, 0.0]] * TOKENS, dtype=torch.float64)
    codes.requires_grad_()
    with torch.no_grad():
        parameter(made, "W_dec").div_(made.geometry.norms()[:, None])
    forward = made.training_pass(X, X)
    forward = dataclasses.replace(forward, codes=dataclasses.replace(forward.codes, values=codes))
    Lp(lp_coefficient=1, p=p)(made.geometry, made.sparsity, forward, progress()).backward()
    assert codes.grad is not None
    assert not codes.grad[:, [0, 1, 2, 3, 8, 9]].any()
    norm = (torch.tensor([1e-5, 1e-2, 1.0, 2.0], dtype=torch.float64) ** p).sum() ** (1 / p - 1)
    by_hand = norm * torch.tensor([1e-5, 1e-2, 1.0, 2.0], dtype=torch.float64) ** (p - 1) / TOKENS
    torch.testing.assert_close(codes.grad[0, 4:8], by_hand, rtol=1e-10, atol=0)


def test_tanh_is_the_mean_sum_of_tanh_of_scaled_sizes() -> None:
    made = dictionary("jumprelu")
    wanted = np.mean([sum(np.tanh(3 * size) for size in token) for token in sizes(made)])
    assert penalty(Tanh(tanh_coefficient=0.7, tanh_scale=3), made) == pytest.approx(0.7 * wanted, rel=1e-13)


def test_tanh_has_anthropics_scale() -> None:
    assert Tanh(tanh_coefficient=1).tanh_scale == 4


def test_tanh_quad_charges_each_latents_rate_and_its_square() -> None:
    made = dictionary("jumprelu")
    rates = [np.mean([np.tanh(4 * size) for size in latent]) for latent in sizes(made).T]
    wanted = sum(rate * (1 + rate / 0.01) for rate in rates)
    assert penalty(TanhQuad(tanh_quad_coefficient=0.7), made) == pytest.approx(0.7 * wanted, rel=1e-13)


def l0(made: Dictionary) -> float:
    numpy = expected(made)
    selected_by = numpy.pre * numpy.norms if made.config.sparsity_include_decoder_norm else numpy.pre
    return float(np.mean([(token > THETA).sum() for token in selected_by]))


@pytest.mark.parametrize("scaled", [False, True])
def test_l0_is_the_mean_count_of_active_latents(scaled: bool) -> None:
    made = dictionary("jumprelu", scaled=scaled)
    assert penalty(L0(l0_coefficient=0.7), made) == pytest.approx(0.7 * l0(made), rel=1e-13)


def test_target_l0_is_the_square_of_the_relative_miss() -> None:
    made = dictionary("jumprelu")
    wanted = 0.7 * (l0(made) / 5 - 1) ** 2
    assert penalty(TargetL0(target_l0=5, target_l0_coefficient=0.7), made) == pytest.approx(wanted, rel=1e-12)


def test_target_l0_gemma_is_two_over_the_target_times_the_squared_miss() -> None:
    made = dictionary("jumprelu")
    wanted = 0.7 * 2 / 5 * (l0(made) - 5) ** 2
    assert penalty(TargetL0Gemma(target_l0=5, target_l0_coefficient=0.7), made) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("model", [TargetL0, TargetL0Gemma])
@pytest.mark.parametrize(("target", "direction"), [(0.5, -1), (9.5, 1)])
def test_a_target_moves_thresholds_towards_itself(model: type[Loss], target: float, direction: int) -> None:
    made = dictionary("jumprelu")
    loss = model.model_validate({"target_l0": target, "target_l0_coefficient": 1})
    loss(made.geometry, made.sparsity, made.training_pass(X, X), progress()).backward()
    grad = gradient(made, "log_threshold")
    assert grad.any()
    assert (direction * grad >= 0).all()  # too many active latents: a step down the slope raises thresholds
