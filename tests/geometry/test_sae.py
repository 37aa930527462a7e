"""The SAE geometry against its formula in float64, and the fold of scales into its weights."""

import numpy as np
import pytest
import torch

from lmsae import geometry
from lmsae.geometry.config import SAEConfig
from lmsae.geometry.sae import SAE


def sae(apply_b_dec_to_input: bool = True, seed: int = 0) -> SAE:
    """Random weights in float64: width 3, 5 latents."""
    made = geometry.build(SAEConfig(apply_b_dec_to_input=apply_b_dec_to_input), 3, 3, 5).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def arrays(module: SAE) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("subtract", [True, False])
def test_pre_is_the_input_less_b_dec_times_the_encoder(subtract: bool) -> None:
    module = sae(subtract)
    w = arrays(module)
    centred = X.numpy() - w["b_dec"] if subtract else X.numpy()
    np.testing.assert_allclose(module.encode(X).detach(), centred @ w["W_enc"] + w["b_enc"], rtol=0, atol=1e-14)


def test_a_reconstruction_is_the_sum_of_rows_and_bias() -> None:
    module = sae()
    codes = torch.tensor([[0.0, 2.0, 0.0, 0.0, 3.0]], dtype=torch.float64)
    w = arrays(module)
    expected = 2 * w["W_dec"][1] + 3 * w["W_dec"][4] + w["b_dec"]
    np.testing.assert_allclose(module.decode(codes, X[:1])[0].detach(), expected, rtol=0, atol=1e-14)


def test_a_contribution_is_what_the_chosen_latents_write_without_bias() -> None:
    module = sae()
    codes = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    w = arrays(module)
    expected = 2 * w["W_dec"][4] + 3 * w["W_dec"][1]
    contribution = module.contribution(codes, torch.tensor([4, 1]))
    np.testing.assert_allclose(contribution[0].detach(), expected, rtol=0, atol=1e-14)


def test_norms_are_those_of_decoder_rows() -> None:
    module = sae()
    expected = np.sqrt((arrays(module)["W_dec"] ** 2).sum(1))
    np.testing.assert_allclose(module.norms().detach(), expected, rtol=1e-15)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize(("scale_in", "scale_out"), [(1.0, 1.0), (0.25, 0.25), (3.0, 0.5), (0.1, 7.0)])
def test_a_fold_leaves_pre_and_the_raw_reconstruction_as_they_were(
    subtract: bool, scale_in: float, scale_out: float
) -> None:
    module, folded = sae(subtract), sae(subtract)
    folded.fold(scale_in, scale_out)
    pre = module.encode(X * scale_in)
    torch.testing.assert_close(folded.encode(X), pre, rtol=0, atol=1e-13)
    raw = module.decode(pre.relu(), X * scale_in) / scale_out
    torch.testing.assert_close(folded.decode(pre.relu(), X), raw, rtol=1e-13, atol=1e-13)


def test_any_leading_dimensions_will_do() -> None:
    module = sae()
    whole = module.decode(module.encode(X), X)
    torch.testing.assert_close(module.decode(module.encode(X.view(2, 2, 3)), X.view(2, 2, 3)), whole.view(2, 2, 3))
