"""Auxiliary losses against NumPy in float64: their values, and which gradients they give."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.losses import AuxK, Forward, GatedAux, GhostGrads, Loss, MultiTopK, PreAct, TrainingStep, reconstruction_loss
from tests.losses.numpy_sae import (
    D_SAE,
    DEAD,
    THETA,
    TOKENS,
    WIDTH,
    Expected,
    K,
    X,
    dictionary,
    expected,
    gradient,
    keep_largest,
    mean_squared_error,
    parameter,
    progress,
    relu,
    topk,
    weights,
)

NONE_DEAD = progress(dead=torch.zeros(D_SAE, dtype=torch.bool))
SOME_DEAD = progress()


def call(loss: Loss, made: Dictionary, at: TrainingStep = SOME_DEAD) -> tuple[Forward, Tensor]:
    forward = made.training_pass(X, X)
    return forward, loss(made.geometry, made.sparsity, forward, at)


def assert_gradients(made: Dictionary, by_hand: dict[str, np.ndarray]) -> None:
    """Gradients of the geometry's parameters; those not named are 0."""
    for name, one in made.geometry.named_parameters():
        grad = torch.zeros_like(one) if one.grad is None else one.grad
        wanted = by_hand.get(name, np.zeros(one.shape))
        np.testing.assert_allclose(grad, wanted, rtol=0, atol=1e-12, err_msg=name)


def auxiliary_codes(numpy: Expected, k: int, units: np.ndarray | float = 1.0) -> np.ndarray:
    """The k largest positive pre * units of dead latents, over units, (tokens, d_sae)."""
    return np.stack([keep_largest(relu(token * units) * DEAD.numpy(), k) for token in numpy.pre]) / units


@pytest.mark.parametrize(("k_aux", "used"), [(1, 1), (3, 3), (100, 4), (None, WIDTH // 2)])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("act_fn", ["topk", "batchtopk"])
def test_auxk_is_the_formula(act_fn: str, scaled: bool, k_aux: int | None, used: int) -> None:
    made = dictionary(act_fn, scaled=scaled)
    numpy = expected(made)
    error = X.numpy() - numpy.reconstruction
    error_hat = auxiliary_codes(numpy, used, numpy.norms if scaled else 1.0) @ weights(made)["W_dec"]
    ratio = ((error - error_hat) ** 2).sum() / (error**2).sum()
    scale = (X.numpy() ** 2).sum(1).mean()
    _, loss = call(AuxK(aux_k_coefficient=0.5, k_aux=k_aux), made)
    assert loss.item() == pytest.approx(0.5 * scale * ratio, rel=1e-12)


def test_auxk_is_1_32nd_of_the_squared_norm_when_dead_latents_write_nothing() -> None:
    made = dictionary("topk")
    with torch.no_grad():
        parameter(made, "W_dec")[DEAD] = 0
    _, loss = call(AuxK(), made)
    assert loss.item() == pytest.approx((X**2).sum(1).mean().item() / 32, rel=1e-13)


@pytest.mark.parametrize("model", [AuxK, GhostGrads])
def test_what_revives_dead_latents_is_zero_and_moves_nothing_while_none_is_dead(model: type[Loss]) -> None:
    _, loss = call(model(), dictionary("topk"), NONE_DEAD)
    assert loss.item() == 0
    assert not loss.requires_grad


def test_the_gradients_of_auxk_are_those_worked_out_by_hand() -> None:
    # loss = c * sum ||e - f W||^2 with c = alpha * mean||y||^2 / sum ||e||^2, and e a constant. So with r = e - f W:
    # d/dW = -2c f^T r, d/df = -2c r W^T, and from f = pre where it was chosen, to W_enc, b_enc and b_dec.
    made = dictionary("topk")
    numpy, w = expected(made), weights(made)
    error, codes = X.numpy() - numpy.reconstruction, auxiliary_codes(numpy, 2)
    left = error - codes @ w["W_dec"]
    c = 0.5 * (X.numpy() ** 2).sum(1).mean() / (error**2).sum()
    to_pre = -2 * c * (left @ w["W_dec"].T) * (codes > 0)
    by_hand = {
        "W_dec": -2 * c * codes.T @ left,
        "W_enc": (X.numpy() - w["b_dec"]).T @ to_pre,
        "b_enc": to_pre.sum(0),
        # b_dec is subtracted before the encoder and moves pre; through the decoder or the error it gets nothing.
        "b_dec": -w["W_enc"] @ to_pre.sum(0),
    }
    call(AuxK(aux_k_coefficient=0.5, k_aux=2), made)[1].backward()
    assert_gradients(made, by_hand)


@pytest.mark.parametrize("loss", [AuxK(k_aux=4), GhostGrads()], ids=lambda loss: loss.kind)
def test_what_revives_dead_latents_reaches_encoder_and_decoder_of_dead_latents_only(loss: Loss) -> None:
    made = dictionary("topk")
    with torch.no_grad():
        parameter(made, "b_enc")[DEAD] += 1  # so that every dead latent has a positive pre somewhere
    call(loss, made)[1].backward()
    for grad in (gradient(made, name) for name in ("W_enc", "W_dec", "b_enc")):
        by_latent = grad.T if grad.shape == (WIDTH, D_SAE) else grad.view(D_SAE, -1)
        assert (by_latent[DEAD] != 0).any(1).all()
        assert (by_latent[~DEAD] == 0).all()


@pytest.mark.parametrize("scaled", [False, True])
def test_the_gradients_of_ghost_gradients_are_those_worked_out_by_hand(scaled: bool) -> None:
    # loss = c * mean ||s g W - e||^2 with g = exp(pre) of dead latents, and c, s (one a token) and e constants.
    made = dictionary("relu", scaled=scaled, apply_b_dec_to_input=False)
    numpy, w = expected(made), weights(made)
    error = X.numpy() - numpy.reconstruction
    units = numpy.norms if scaled else np.ones(D_SAE)
    codes = np.exp(numpy.pre * units) / units * DEAD.numpy()
    ghost = codes @ w["W_dec"]
    s = np.linalg.norm(error, axis=1, keepdims=True) / (2 * np.linalg.norm(ghost, axis=1, keepdims=True))
    left = s * ghost - error
    c = (error**2).sum() / (left**2).sum()
    to_codes = 2 * c / TOKENS * s * (left @ w["W_dec"].T)
    to_selected = to_codes * codes  # d exp(pre * norm) / norm by d (pre * norm), times norm
    to_norms = (to_codes * codes * (numpy.pre - 1 / units)).sum(0) * DEAD.numpy() if scaled else np.zeros(D_SAE)
    by_hand = {
        "W_dec": 2 * c / TOKENS * (s * codes).T @ left + (to_norms / numpy.norms)[:, None] * w["W_dec"],
        "W_enc": X.numpy().T @ (to_selected * units),
        "b_enc": (to_selected * units).sum(0),
    }
    forward, loss = call(GhostGrads(), made)
    loss.backward()
    assert_gradients(made, by_hand)
    assert loss.item() == pytest.approx(reconstruction_loss(forward).item(), rel=1e-12)


def test_ghost_gradients_do_not_overflow() -> None:
    made = dictionary("topk").float()
    with torch.no_grad():
        parameter(made, "b_enc").fill_(1000)
    forward = made.training_pass(X.float(), X.float())
    loss = GhostGrads()(made.geometry, made.sparsity, forward, SOME_DEAD)
    loss.backward()
    assert loss.isfinite()
    assert gradient(made, "W_enc").isfinite().all()


@pytest.mark.parametrize("scaled", [False, True])
def test_pre_act_multiplies_what_is_missing_to_the_threshold_by_the_norm_once(scaled: bool) -> None:
    made = dictionary("jumprelu", scaled=scaled)
    numpy = expected(made)
    short = relu(THETA - numpy.pre * numpy.norms) if scaled else relu(THETA - numpy.pre) * numpy.norms
    _, loss = call(PreAct(pre_act_coefficient=0.7), made)
    assert loss.item() == pytest.approx(0.7 * short.sum(1).mean(), rel=1e-13)


def test_pre_act_has_anthropics_coefficient() -> None:
    assert PreAct().pre_act_coefficient == 3e-6


def test_pre_act_lifts_latents_below_their_thresholds_and_lowers_the_thresholds() -> None:
    made = dictionary("jumprelu")
    call(PreAct(), made)[1].backward()
    below = torch.from_numpy((expected(made).pre < THETA).any(0))
    assert (gradient(made, "b_enc")[below] < 0).all()
    assert (gradient(made, "log_threshold")[below] > 0).all()


def gate(made: Dictionary) -> np.ndarray:
    """ReLU(pi), in the units that latents are selected in."""
    numpy = expected(made)
    units = numpy.norms if made.config.sparsity_include_decoder_norm else 1.0
    return relu(numpy.pre * units + weights(made)["b_gate"])


@pytest.mark.parametrize("warm_up", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("scaled", [False, True])
def test_gated_aux_is_the_formula(scaled: bool, warm_up: float) -> None:
    made = dictionary("gated", scaled=scaled)
    w, norms, opening = weights(made), expected(made).norms, gate(made)
    codes = opening / norms if scaled else opening
    wanted = 0.7 * warm_up * (codes * norms).sum(1).mean() + mean_squared_error(codes @ w["W_dec"] + w["b_dec"])
    _, loss = call(GatedAux(l1_coefficient=0.7), made, progress(warm_up=warm_up))
    assert loss.item() == pytest.approx(wanted, rel=1e-12)


def test_the_gradients_of_gated_aux_are_those_worked_out_by_hand() -> None:
    # The penalty moves pi and norms; the reconstruction moves pi alone, for its decoder is frozen.
    made = dictionary("gated", apply_b_dec_to_input=False)
    w, norms, opening = weights(made), expected(made).norms, gate(made)
    left = opening @ w["W_dec"] + w["b_dec"] - X.numpy()
    to_pi = (0.7 * norms / TOKENS + 2 / TOKENS * left @ w["W_dec"].T) * (opening > 0)
    by_hand = {
        "W_enc": X.numpy().T @ to_pi,
        "W_dec": 0.7 * (opening.mean(0) / norms)[:, None] * w["W_dec"],
    }
    call(GatedAux(l1_coefficient=0.7), made)[1].backward()
    assert_gradients(made, by_hand)
    np.testing.assert_allclose(gradient(made, "b_gate"), to_pi.sum(0), rtol=0, atol=1e-12)
    assert parameter(made, "r_mag").grad is None
    assert parameter(made, "b_mag").grad is None


def test_gated_aux_leaves_the_decoder_ready_to_learn() -> None:
    made = dictionary("gated")
    before = {name: id(one) for name, one in made.geometry.named_parameters()}
    call(GatedAux(l1_coefficient=0.7), made)
    assert {name: id(one) for name, one in made.geometry.named_parameters()} == before
    assert all(one.requires_grad for one in made.geometry.parameters())


def test_gated_aux_without_its_penalty_is_the_reconstruction_loss_where_gate_and_magnitude_agree() -> None:
    made = dictionary("gated")
    with torch.no_grad():
        for one in made.sparsity.parameters():
            one.zero_()
    forward, loss = call(GatedAux(l1_coefficient=0.7), made, progress(warm_up=0.0))
    assert torch.equal(loss, reconstruction_loss(forward))


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("scaled", [False, True])
def test_multi_topk_reconstructs_with_more_active_latents(scaled: bool, factor: int) -> None:
    made = dictionary("topk", scaled=scaled)
    numpy, w = expected(made), weights(made)
    units = numpy.norms if scaled else 1.0
    codes = topk(numpy.pre * units, factor * K) / units
    wanted = 0.5 * mean_squared_error(codes @ w["W_dec"] + w["b_dec"])
    _, loss = call(MultiTopK(multi_topk_coefficient=0.5, multi_topk_factor=factor), made)
    assert loss.item() == pytest.approx(wanted, rel=1e-12)


def test_multi_topk_has_the_papers_weight_and_factor() -> None:
    assert MultiTopK().multi_topk_coefficient == 1 / 8
    assert MultiTopK().multi_topk_factor == 4


def test_multi_topk_follows_k_where_it_has_a_schedule() -> None:
    made = dictionary("topk")
    numpy, w = expected(made), weights(made)
    wanted = 0.5 * mean_squared_error(topk(numpy.pre, 2) @ w["W_dec"] + w["b_dec"])
    forward = made.training_pass(X, X, k=1)
    assert ((forward.codes.values != 0).sum(1) <= 1).all()
    multi = MultiTopK(multi_topk_coefficient=0.5, multi_topk_factor=2)
    loss = multi(made.geometry, made.sparsity, forward, SOME_DEAD)
    assert loss.item() == pytest.approx(wanted, rel=1e-12)
