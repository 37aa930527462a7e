"""The reconstruction loss and its nested kinds, against NumPy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import CLTConfig, Widths
from lmsae.losses import Forward, Loss, Nested, NestedSampled, TrainingStep, reconstruction_loss
from lmsae.sparsity.config import ReLUConfig
from tests.losses.numpy_sae import D_SAE, DEAD, X, dictionary, expected, gradient, mean_squared_error, progress, weights


def call(loss: Loss, made: Dictionary, forward: Forward, at: TrainingStep | None = None) -> torch.Tensor:
    return loss(made.geometry, made.sparsity, forward, at or progress())


def test_reconstruction_is_summed_over_dimensions_and_averaged_over_tokens() -> None:
    made = dictionary("topk")
    wanted = mean_squared_error(expected(made).reconstruction)
    assert reconstruction_loss(made.training_pass(X, X)).item() == pytest.approx(wanted, rel=1e-13)


def by_prefix(made: Dictionary, size: int) -> float:
    """The reconstruction loss of the first `size` latents, in NumPy."""
    w, codes = weights(made), expected(made).codes
    return mean_squared_error(codes[:, :size] @ w["W_dec"][:size] + w["b_dec"])


@pytest.mark.parametrize("act_fn", ["batchtopk", "jumprelu"])
def test_nested_is_the_mean_over_prefixes(act_fn: str) -> None:
    made = dictionary(act_fn)
    wanted = np.mean([by_prefix(made, size) for size in (2, 5, 10)])
    got = call(Nested(matryoshka_prefixes=(0.2, 0.5, 1.0)), made, made.training_pass(X, X))
    assert got.item() == pytest.approx(wanted, rel=1e-12)


def test_nested_with_one_full_prefix_is_plain_reconstruction_bit_for_bit() -> None:
    made = dictionary("batchtopk")
    forward = made.training_pass(X, X)
    grads = []
    for loss in (reconstruction_loss(forward), call(Nested(matryoshka_prefixes=(1.0,)), made, forward)):
        made.zero_grad()
        loss.backward(retain_graph=True)
        grads.append([loss.detach(), *(parameter.grad for parameter in made.geometry.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_gradients_of_nested_are_those_of_each_prefix_decoded_alone() -> None:
    made, sizes = dictionary("batchtopk"), (1, 4, 10)
    forward = made.training_pass(X, X)
    call(Nested(matryoshka_prefixes=(0.1, 0.4, 1.0)), made, forward).backward(retain_graph=True)
    nested = [gradient(made, name) for name in weights(made)]
    made.zero_grad()
    for size in sizes:
        first = (torch.arange(D_SAE) < size).double()
        decoded = made.geometry.decode(forward.codes.values * first, X)
        (decoded - X).pow(2).sum(1).mean().div(3).backward(retain_graph=True)
    for got, name in zip(nested, weights(made), strict=True):
        torch.testing.assert_close(got, gradient(made, name), rtol=1e-12, atol=1e-12)


def test_a_prefix_of_a_cross_layer_transcoder_is_taken_in_each_layer() -> None:
    config = DictionaryConfig(
        widths=Widths(reads=(3, 3), writes=(3, 3)), d_sae=8, geometry=CLTConfig(), act_fn=ReLUConfig()
    )
    made, generator = Dictionary(config).double().train(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x, y = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    forward, w = made.training_pass(x, y), weights(made)
    codes, losses = forward.codes.values.detach().numpy(), []
    for size in (2, 8):
        first, second = codes[:, :size], codes[:, 8 : 8 + size]
        to_both, to_second = w["W_dec.0"][:size], w["W_dec.1"][:size]
        one = first @ to_both[:, :3] + w["b_dec"][:3]
        two = first @ to_both[:, 3:] + second @ to_second + w["b_dec"][3:]
        losses.append(((np.hstack([one, two]) - y.numpy()) ** 2).sum(1).mean())
    got = call(Nested(matryoshka_prefixes=(0.25, 1.0)), made, forward)
    assert got.item() == pytest.approx(np.mean(losses), rel=1e-12)


def test_prefixes_are_ordered_and_always_hold_the_whole() -> None:
    assert Nested.model_validate({"matryoshka_prefixes": "0.5 0.25 0.25"}).matryoshka_prefixes == (0.25, 0.5, 1.0)
    assert Nested().sizes(64) == [2, 6, 14, 30, 64]


def test_prefixes_that_come_to_the_same_number_of_latents_count_once() -> None:
    assert Nested(matryoshka_prefixes=(0.001, 0.1, 1.0)).sizes(10) == [1, 10]


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (0.5, 1.5), (-0.1,), "half", float("nan")])
def test_a_prefix_that_is_no_share_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        Nested.model_validate({"matryoshka_prefixes": wrong})


def test_sampled_prefixes_are_a_function_of_seed_and_step() -> None:
    loss = NestedSampled(matryoshka_sampled=5)
    assert loss.sizes(1000, 0, 7) == loss.sizes(1000, 0, 7)
    drawn = [tuple(loss.sizes(1000, seed, step)) for seed in range(3) for step in range(10)]
    assert len(set(drawn)) == 30


@given(count=st.integers(1, 12), latents=st.integers(1, 50), step=st.integers(0, 1000))
def test_sampled_prefixes_are_as_many_as_wanted_and_hold_the_whole(count: int, latents: int, step: int) -> None:
    sizes = NestedSampled(matryoshka_sampled=count).sizes(latents, 0, step)
    assert sizes == sorted(set(sizes))
    assert len(sizes) == min(count, latents)
    assert sizes[0] >= 1
    assert sizes[-1] == latents


@pytest.mark.parametrize("share", [0.01, 0.09, 0.25, 0.81])
def test_a_sampled_prefix_is_at_most_m_of_n_with_probability_root_m_over_n(share: float) -> None:
    loss = NestedSampled(matryoshka_sampled=2)
    drawn = np.array([loss.sizes(10_000, 0, step)[0] for step in range(4000)])
    assert (drawn <= share * 10_000).mean() == pytest.approx(share**0.5, abs=0.025)  # 3 standard errors


def test_sampled_is_nested_over_the_prefixes_drawn() -> None:
    made, loss = dictionary("batchtopk"), NestedSampled(matryoshka_sampled=3)
    at = TrainingStep(1.0, DEAD, step=4, steps=10, seed=2)
    wanted = np.mean([by_prefix(made, size) for size in loss.sizes(D_SAE, 2, 4)])
    assert call(loss, made, made.training_pass(X, X), at).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("loss", [Nested(), NestedSampled()])
def test_nested_stands_for_the_reconstruction_loss(loss: Loss) -> None:
    assert loss.replaces_reconstruction
