"""The SAE geometry against its formula in float64, and its options against each other."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.geometry.config import SAEConfig
from lmsae.geometry.geometry import Geometry
from tests.geometry.filling import filled, noise, weights
from tests.geometry.linear_cases import LATENTS, case

X = noise(6, 3)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("encoder_bias", [True, False])
def test_pre_is_the_input_less_b_dec_times_the_encoder(subtract: bool, encoder_bias: bool) -> None:
    module = filled(SAEConfig(apply_b_dec_to_input=subtract), (3,), (3,), LATENTS, encoder_bias=encoder_bias)
    w = weights(module)
    assert ("b_enc" in w) == encoder_bias
    centered = X.numpy() - w["b_dec"] if subtract else X.numpy()
    expected = centered @ w["W_enc"] + w.get("b_enc", 0)
    np.testing.assert_allclose(module.encode(X).detach(), expected, rtol=0, atol=1e-14)


def test_a_tied_encoder_is_the_decoder_transposed() -> None:
    module = case("sae, tied")
    w = weights(module)
    assert w.keys() == {"b_enc", "W_dec", "b_dec"}
    expected = (X.numpy() - w["b_dec"]) @ w["W_dec"].T + w["b_enc"]
    np.testing.assert_allclose(module.encode(X).detach(), expected, rtol=0, atol=1e-14)


def test_the_gate_reads_the_input_as_it_is_and_scales_all_of_pre() -> None:
    module = case("sae, gate")
    w = weights(module)
    plain = (X.numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    expected = plain * sigmoid(X.numpy() @ w["W_glu"] + w["b_glu"])
    np.testing.assert_allclose(module.encode(X).detach(), expected, rtol=0, atol=1e-14)


def test_a_reconstruction_is_the_sum_of_rows_and_bias() -> None:
    module = case("sae")
    codes = torch.tensor([[0.0, 2.0, 0.0, 0.0, 3.0]], dtype=torch.float64)
    w = weights(module)
    expected = 2 * w["W_dec"][1] + 3 * w["W_dec"][4] + w["b_dec"]
    np.testing.assert_allclose(module.decode(codes, X[:1])[0].detach(), expected, rtol=0, atol=1e-14)


def test_a_contribution_is_what_the_chosen_latents_write_without_bias() -> None:
    module = case("sae")
    codes = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    w = weights(module)
    expected = 2 * w["W_dec"][4] + 3 * w["W_dec"][1]
    contribution = module.write(codes, torch.tensor([4, 1]), X[:1])
    np.testing.assert_allclose(contribution[0].detach(), expected, rtol=0, atol=1e-14)


def test_norms_are_those_of_decoder_rows() -> None:
    module = case("sae")
    expected = np.sqrt((weights(module)["W_dec"] ** 2).sum(1))
    np.testing.assert_allclose(module.norms().detach(), expected, rtol=1e-15)


@pytest.mark.parametrize("name", ["sae", "sae, tied", "sae, b_dec not subtracted"])
def test_overlaps_are_how_far_pre_falls_when_a_latent_is_explained_away(name: str) -> None:
    module = case(name)
    latents = torch.tensor([[3, 0], [1, 1], [4, 2]])
    fall = module.encode(X.view(3, 2, 3)) - module.encode(X.view(3, 2, 3) - module.W_dec[latents])
    torch.testing.assert_close(module.overlaps(latents), fall, rtol=1e-12, atol=1e-12)


def outcome(module: Geometry, x: Tensor) -> dict[str, Tensor]:
    """pre, the reconstruction, and all gradients of a squared error."""
    pre = module.encode(x)
    reconstruction = module.decode(pre.relu(), x)
    (reconstruction - x).pow(2).sum().backward()
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    return {"pre": pre, "reconstruction": reconstruction} | gradients


@pytest.mark.parametrize("subtract", [True, False])
def test_a_gate_that_is_wide_open_changes_no_bit(subtract: bool) -> None:
    plain, gated = (
        filled(SAEConfig(glu_encoder=glu, apply_b_dec_to_input=subtract), (3,), (3,), LATENTS, dtype=torch.float32)
        for glu in (False, True)
    )
    with torch.no_grad():
        gated.get_parameter("W_glu").zero_()
        gated.get_parameter("b_glu").fill_(100)
    x = X.float()
    without, with_gate = outcome(plain, x), outcome(gated, x)
    assert with_gate.keys() == without.keys() | {"W_glu", "b_glu"}
    assert all(torch.equal(with_gate[name], without[name]) for name in without)


def test_a_tied_encoder_computes_what_an_equal_one_of_its_own_does() -> None:
    tied, untied = (
        filled(SAEConfig(tied_encoder=tied), (3,), (3,), LATENTS, dtype=torch.float32) for tied in (True, False)
    )
    with torch.no_grad():
        untied.get_parameter("W_enc").copy_(tied.get_parameter("W_dec").T)
    one, other = outcome(tied, X.float()), outcome(untied, X.float())
    assert torch.equal(one["pre"], other["pre"])
    assert torch.equal(one["reconstruction"], other["reconstruction"])
    torch.testing.assert_close(one["W_dec"], other["W_dec"] + other["W_enc"].T)


def test_a_tied_encoder_that_was_folded_is_a_parameter_of_the_untied_kind() -> None:
    tied, untied = case("sae, tied"), case("sae")
    tied.fold_norms()
    assert SAEConfig(tied_encoder=True).model_copy(update=SAEConfig.folded) == SAEConfig()
    untied.load_state_dict(tied.state_dict())
    assert torch.equal(untied.encode(X), tied.encode(X))
