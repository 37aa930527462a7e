"""Dictionaries that start as the layer of the model that they stand for."""

import pytest
import torch

from lmsae.dictionary.config import Normalization
from lmsae.geometry.lorsa import Attention
from lmsae.initialization.from_model import Heads, Neurons
from tests.dictionary.grid import D_SAE, Case, activations
from tests.initialization.start import started

D_IN, D_OUT = 6, 5


def neurons(count: int) -> Neurons:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Neurons(W_in=draw(D_IN, count), b_in=draw(count), W_out=draw(count, D_OUT), b_out=draw(D_OUT))


def mlp(weights: Neurons, x: torch.Tensor) -> torch.Tensor:
    return (x @ weights.W_in + weights.b_in).relu() @ weights.W_out + weights.b_out


@pytest.mark.parametrize("include_norm", [False, True])
@pytest.mark.parametrize("unit_norm_decoder", [False, True])
@pytest.mark.parametrize("normalization", ["none", "dataset", "whiten"])
@pytest.mark.parametrize("geometry", ["transcoder", "skip_transcoder"])
def test_a_relu_transcoder_of_all_neurons_is_the_mlp(
    geometry: str, normalization: Normalization, unit_norm_decoder: bool, include_norm: bool
) -> None:
    case, weights = Case(geometry, "relu", normalization, include_norm), neurons(D_SAE)
    made, _ = started(
        case,
        dtype=torch.float64,
        unit_norm_decoder=unit_norm_decoder,
        model_weights=weights,
        b_enc="minus_mean_pre",
        encoder_factor=3,
    )
    x, _ = activations(case, torch.float64)
    torch.testing.assert_close(made(x), mlp(weights, x), rtol=1e-9, atol=1e-9)
    if unit_norm_decoder:
        torch.testing.assert_close(made.geometry.norms(), torch.ones(D_SAE, dtype=torch.float64))


def test_of_more_neurons_than_latents_the_first_are_taken() -> None:
    case, weights = Case("transcoder", "relu"), neurons(D_SAE + 7)
    made, _ = started(case, dtype=torch.float64, model_weights=weights)
    few = Neurons(weights.W_in[:, :D_SAE], weights.b_in[:D_SAE], weights.W_out[:D_SAE], weights.b_out)
    x, _ = activations(case, torch.float64)
    torch.testing.assert_close(made(x), mlp(few, x), rtol=1e-9, atol=1e-9)


def test_latents_beyond_the_neurons_start_as_all_do_otherwise() -> None:
    case, count = Case("transcoder", "relu"), D_SAE - 4
    made, _ = started(case, dtype=torch.float64, model_weights=neurons(count))
    plain, _ = started(case, dtype=torch.float64)
    whole, _ = started(case, dtype=torch.float64, model_weights=neurons(count))
    for name, dim in (("W_enc", 1), ("b_enc", 0), ("W_dec", 0)):
        ours, others = made.geometry.get_parameter(name), plain.geometry.get_parameter(name)
        rest = torch.arange(count, D_SAE)
        assert torch.equal(ours.index_select(dim, rest), others.index_select(dim, rest))
        assert torch.equal(ours, whole.geometry.get_parameter(name))
    # Without what the rest writes, it is the MLP.
    x, _ = activations(case, torch.float64)
    codes = made.encode(x)
    codes[:, count:] = 0
    torch.testing.assert_close(made.decode(codes, x), mlp(neurons(count), x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normalization", ["none", "dataset", "whiten"])
def test_a_lorsa_starts_with_the_attention_patterns_of_the_model(normalization: Normalization) -> None:
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)

    heads, d_head = 2, 4
    attention = Attention(
        draw(heads, D_IN, d_head),
        draw(heads, D_IN, d_head),
        draw(heads, D_IN, d_head),
        draw(heads, d_head, D_OUT),
        draw(heads, d_head),
        draw(heads, d_head),
    )
    case = Case("lorsa", "relu", normalization)
    made, tried = started(
        case, dtype=torch.float64, model_weights=Heads(attention), grid_search=True, tokens=40, unit_norm_decoder=True
    )
    x, _ = activations(case, torch.float64)
    units = made.read(x)
    for name, weights, bias in (("Q", attention.W_Q, attention.b_Q), ("K", attention.W_K, attention.b_K)):
        ours = torch.einsum("btd,hdk->bhtk", units, made.geometry.get_parameter(f"W_{name}"))
        ours = ours + made.geometry.get_parameter(f"b_{name}")[:, None]
        theirs = torch.einsum("btd,hdk->bhtk", x, weights) + bias[:, None]
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert len(tried) > 50
    torch.testing.assert_close(made.geometry.norms(), torch.ones(D_SAE, dtype=torch.float64))
