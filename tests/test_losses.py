"""Every loss term and every named architecture's forward pass, against NumPy in float64 written from the formulas."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.catalog import CATALOG
from lmsae.dictionary.dictionary import Dictionary
from lmsae.losses import L0, L1, AuxK, Forward, Progress, reconstruction_loss
from tests.architectures import parts, randomise

WIDTH, D_SAE, TOKENS, K = 4, 10, 7, 3
X = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
NONE_DEAD = Progress(1.0, torch.zeros(D_SAE, dtype=torch.bool))
DEAD = torch.tensor([i in (1, 4, 5, 8) for i in range(D_SAE)])
SOME_DEAD = Progress(1.0, DEAD)


def dictionary(name: str, **columns: object) -> Dictionary:
    """Random weights in float64, thresholds that cut in the middle of pre."""
    made = randomise(Dictionary(parts(name, WIDTH, D_SAE, k=K, jumprelu_init_threshold=0.3, **columns)[0]).double())
    return made.train()


@dataclass
class Expected:
    """The forward pass in NumPy."""

    pre: np.ndarray
    codes: np.ndarray
    reconstruction: np.ndarray


def weights(of: Dictionary) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in of.geometry.named_parameters()}


def keep_largest(positive: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest values of a flat array, zeros elsewhere."""
    kept = np.zeros_like(positive)
    chosen = np.argsort(-positive)[:count]
    kept[chosen] = positive[chosen]
    return kept


def relu(pre: np.ndarray) -> np.ndarray:
    return np.maximum(pre, 0)


ACT_FNS = {
    "relu": relu,
    "topk": lambda pre: np.stack([keep_largest(token, K) for token in relu(pre)]),
    "batchtopk": lambda pre: keep_largest(relu(pre).ravel(), K * len(pre)).reshape(pre.shape),
    "jumprelu": lambda pre: np.where(pre > 0.3, pre, 0),
}


def expected(of: Dictionary, act_fn: str) -> Expected:
    w = weights(of)
    pre = (X.numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    codes = ACT_FNS[act_fn](pre)
    return Expected(pre, codes, codes @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize("name", CATALOG)
def test_a_forward_pass_is_the_formula(name: str) -> None:
    made = dictionary(name)
    forward, numpy = made.training_pass(X, X), expected(made, CATALOG[name].act_fn)
    assert 0 < (numpy.codes != 0).sum() < numpy.codes.size
    np.testing.assert_allclose(forward.pre.detach(), numpy.pre, rtol=0, atol=1e-14)
    np.testing.assert_allclose(forward.codes.detach(), numpy.codes, rtol=0, atol=1e-14)
    np.testing.assert_allclose(forward.reconstruction.detach(), numpy.reconstruction, rtol=0, atol=1e-14)


def test_reconstruction_is_summed_over_dimensions_and_averaged_over_tokens() -> None:
    made = dictionary("topk")
    error = expected(made, "topk").reconstruction - X.numpy()
    by_token = [sum(component**2 for component in token) for token in error]
    assert reconstruction_loss(made.training_pass(X, X)).item() == pytest.approx(sum(by_token) / TOKENS, rel=1e-13)


@pytest.mark.parametrize("warm_up", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", ["standard", "standard_new", "topk", "batchtopk", "jumprelu"])
def test_l1_is_the_mean_sum_of_codes_times_decoder_norms(name: str, warm_up: float) -> None:
    made = dictionary(name)
    numpy = expected(made, CATALOG[name].act_fn)
    norms = np.sqrt((weights(made)["W_dec"] ** 2).sum(1))
    penalty = np.mean([sum(abs(f) * norm for f, norm in zip(token, norms, strict=True)) for token in numpy.codes])
    loss = L1(l1_coefficient=0.7)(made.geometry, made.sparsity, made.training_pass(X, X), Progress(warm_up, DEAD))
    assert loss.item() == pytest.approx(0.7 * warm_up * penalty, rel=1e-13)


@pytest.mark.parametrize("warm_up", [0.0, 0.25, 1.0])
def test_l0_is_the_mean_count_of_active_latents(warm_up: float) -> None:
    made = dictionary("jumprelu")
    count = np.mean([(token > 0.3).sum() for token in expected(made, "jumprelu").pre])
    loss = L0(l0_coefficient=0.7)(made.geometry, made.sparsity, made.training_pass(X, X), Progress(warm_up, DEAD))
    assert loss.item() == pytest.approx(0.7 * warm_up * count, rel=1e-13)


def auxk(made: Dictionary, loss: AuxK, progress: Progress) -> tuple[Forward, Tensor]:
    forward = made.training_pass(X, X)
    return forward, loss(made.geometry, made.sparsity, forward, progress)


def auxiliary_codes(numpy: Expected, k: int) -> np.ndarray:
    """The k largest positive pre of dead latents, (tokens, d_sae)."""
    return np.stack([keep_largest(relu(token) * DEAD.numpy(), k) for token in numpy.pre])


@pytest.mark.parametrize(("k_aux", "used"), [(1, 1), (3, 3), (100, 4), (None, WIDTH // 2)])
@pytest.mark.parametrize("name", ["topk", "batchtopk"])
def test_auxk_is_the_formula(name: str, k_aux: int | None, used: int) -> None:
    made = dictionary(name)
    numpy = expected(made, name)
    error = X.numpy() - numpy.reconstruction
    error_hat = auxiliary_codes(numpy, used) @ weights(made)["W_dec"]
    ratio = ((error - error_hat) ** 2).sum() / (error**2).sum()
    scale = (X.numpy() ** 2).sum(1).mean()
    _, loss = auxk(made, AuxK(aux_k_coefficient=0.5, k_aux=k_aux), SOME_DEAD)
    assert loss.item() == pytest.approx(0.5 * scale * ratio, rel=1e-12)


def test_auxk_is_1_32nd_of_the_squared_norm_when_dead_latents_write_nothing() -> None:
    made = dictionary("topk")
    with torch.no_grad():
        made.geometry.W_dec[DEAD] = 0
    _, loss = auxk(made, AuxK(), SOME_DEAD)
    assert loss.item() == pytest.approx((X**2).sum(1).mean().item() / 32, rel=1e-13)


def test_auxk_is_zero_and_moves_nothing_while_no_latent_is_dead() -> None:
    made = dictionary("topk")
    _, loss = auxk(made, AuxK(), NONE_DEAD)
    assert loss.item() == 0
    assert not loss.requires_grad


def test_the_gradients_of_auxk_are_those_worked_out_by_hand() -> None:
    # loss = c * sum ||e - f W||^2 with c = alpha * mean||y||^2 / sum ||e||^2, and e a constant. So with r = e - f W:
    # d/dW = -2c f^T r, d/df = -2c r W^T, and from f = pre where it was chosen, to W_enc, b_enc and b_dec.
    made = dictionary("topk")
    numpy, w = expected(made, "topk"), weights(made)
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
    _, loss = auxk(made, AuxK(aux_k_coefficient=0.5, k_aux=2), SOME_DEAD)
    loss.backward()
    for name, parameter in made.geometry.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad, by_hand[name], rtol=0, atol=1e-12, err_msg=name)


def test_auxk_reaches_encoder_and_decoder_of_dead_latents_only() -> None:
    made = dictionary("topk")
    geometry = made.geometry
    with torch.no_grad():
        geometry.b_enc[DEAD] += 1  # so that every dead latent has a positive pre somewhere
    _, loss = auxk(made, AuxK(k_aux=4), SOME_DEAD)
    loss.backward()
    for grad in (geometry.W_enc.grad, geometry.W_dec.grad, geometry.b_enc.grad):
        assert grad is not None
        by_latent = grad.T if grad.shape == (WIDTH, D_SAE) else grad.view(D_SAE, -1)
        assert (by_latent[DEAD] != 0).any(1).all()
        assert (by_latent[~DEAD] == 0).all()


def test_auxk_gives_b_dec_nothing_where_the_encoder_does_not_read_it() -> None:
    made = dictionary("topk", apply_b_dec_to_input=False)
    _, loss = auxk(made, AuxK(), SOME_DEAD)
    loss.backward()
    assert made.geometry.b_dec.grad is None or not made.geometry.b_dec.grad.any()


@pytest.mark.parametrize("name", CATALOG)
def test_a_forward_pass_and_its_losses_change_nothing(name: str) -> None:
    made, objective = dictionary(name), parts(name, WIDTH, D_SAE)[1]
    made.sparsity.observe(torch.rand(3, D_SAE, dtype=torch.float64))
    before, x = copy.deepcopy(made.state_dict()), X.clone()
    forward = made.training_pass(x, x)
    terms = [loss(made.geometry, made.sparsity, forward, SOME_DEAD) for loss in objective.losses]
    torch.stack([reconstruction_loss(forward), *terms]).sum().backward()
    assert torch.equal(x, X)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("name", CATALOG)
def test_gradients_reach_every_parameter(name: str) -> None:
    made, objective = dictionary(name), parts(name, WIDTH, D_SAE)[1]
    forward = made.training_pass(X, X)
    terms = [loss(made.geometry, made.sparsity, forward, SOME_DEAD) for loss in objective.losses]
    torch.stack([reconstruction_loss(forward), *terms]).sum().backward()
    for parameter_name, parameter in made.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name
