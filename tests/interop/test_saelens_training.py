"""Losses beside those of SAELens' training classes, with the same weights: equal, or in which relation they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lmsae.dictionary.dictionary import Dictionary
from lmsae.interop.saelens import load
from lmsae.losses import (
    L0,
    L1,
    AuxK,
    Forward,
    GatedAux,
    Loss,
    Lp,
    Nested,
    PreAct,
    Tanh,
    TargetL0Gemma,
    TrainingStep,
    reconstruction_loss,
)
from tests.architectures import parts, randomize
from tests.interop.peers import assert_computes_the_same, saelens

WIDTH, LATENTS, K = 6, 24, 4
X = 2 * torch.randn(48, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
NONE_DEAD = torch.zeros(LATENTS, dtype=torch.bool)


def ours_of(architecture: str, **columns: Any) -> Any:
    """A dictionary in training, in float64, with random weights."""
    config, _ = parts(architecture, WIDTH, LATENTS, normalize_activations="none", **columns)
    made, generator = randomize(Dictionary(config).double()), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.sparsity.parameters():
            parameter.copy_(0.5 * torch.rand(parameter.shape, generator=generator))
    return made.train()


def theirs_of(architecture: str, ours: Any, **options: Any) -> Any:
    """SAELens' training class with the same weights."""
    from sae_lens.registry import get_sae_training_class

    sae, config = get_sae_training_class(architecture)
    made: Any = sae(config(d_in=WIDTH, d_sae=LATENTS, dtype="float64", **options))
    made.double()
    weights = {"threshold" if "threshold" in name else name: value for name, value in parameters(ours).items()}
    made.load_state_dict({**made.state_dict(), **weights})
    if "threshold" in weights:  # SAELens keeps it in float32
        made.threshold.data = weights["threshold"].detach().clone()
    return made


def parameters(dictionary: Any) -> dict[str, nn.Parameter]:
    return {name.split(".")[-1]: value for name, value in dictionary.named_parameters()}


def their_step(theirs: Any, coefficient: float = 1.0, dead: Tensor | None = None, x: Tensor = X) -> Any:
    from sae_lens.saes.sae import TrainStepInput

    coefficients = {"l1": coefficient, "l0": coefficient}
    return theirs.training_forward_pass(
        TrainStepInput(x, coefficients, dead, n_training_steps=0, is_logging_step=False)
    )


def term(ours: Any, loss: Loss, forward: Forward, dead: Tensor = NONE_DEAD) -> Tensor:
    return loss(ours.geometry, ours.sparsity, forward, TrainingStep(sparsity_warm_up=1.0, dead=dead))


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def gradients(loss: Tensor, module: Any) -> dict[str, Tensor]:
    """By SAELens' names of parameters."""
    own = parameters(module)
    found = torch.autograd.grad(loss, list(own.values()), retain_graph=True, materialize_grads=True)
    names = ["threshold" if "threshold" in name else name for name in own]
    return dict(zip(names, found, strict=True))


def assert_same_loss_and_gradients(mine: Tensor, ours: Any, other: Tensor, theirs: Any) -> None:
    same(mine, other)
    wanted = gradients(other, theirs)
    found = gradients(mine, ours)
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        same(value, wanted[name])


def test_standard_has_the_loss_and_gradients_of_saelens() -> None:
    ours = ours_of("standard_new")
    theirs = theirs_of("standard", ours)
    forward = ours.training_pass(X, X)
    mine = reconstruction_loss(forward) + term(ours, L1(l1_coefficient=0.3), forward)
    assert_same_loss_and_gradients(mine, ours, their_step(theirs, 0.3).loss, theirs)


@pytest.mark.parametrize("p", [0.5, 2.0])
def test_lp_is_that_of_saelens(p: float) -> None:
    ours = ours_of("standard_new")
    theirs = theirs_of("standard", ours, lp_norm=p)
    mine = term(ours, Lp(lp_coefficient=0.3, p=p), ours.training_pass(X, X))
    same(mine, their_step(theirs, 0.3).losses["l1_loss"])


def test_gated_differs_from_saelens_in_the_frozen_decoder_alone() -> None:
    # SAELens lets the auxiliary reconstruction train the decoder, which the paper (equation 8) freezes.
    ours = ours_of("gated")
    theirs = theirs_of("gated", ours)
    forward = ours.training_pass(X, X)
    mine = reconstruction_loss(forward) + term(ours, GatedAux(l1_coefficient=0.3), forward)
    other = their_step(theirs, 0.3).loss
    same(mine, other)
    opening = ours.sparsity.gate(forward.pre).relu().detach()
    W_dec, b_dec = (parameters(ours)[name] for name in ("W_dec", "b_dec"))
    through_decoder = mse_loss(opening @ W_dec + b_dec, X, reduction="sum") / len(X)
    extra = gradients(through_decoder, ours)
    wanted = gradients(other, theirs)
    for name, value in gradients(mine, ours).items():
        same(value + extra[name], wanted[name])
    assert extra["W_dec"].any()


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
@pytest.mark.parametrize("dead_latents", [2, 8])
def test_aux_k_is_that_of_saelens_in_units_of_the_residual(architecture: str, dead_latents: int) -> None:
    # Theirs is a plain squared error, and less than k_aux dead latents make it smaller; ours is a share of ||e||^2.
    ours = ours_of(architecture, k=K)
    dead = NONE_DEAD.clone()
    dead[:dead_latents] = True
    with torch.no_grad():
        parameters(ours)["b_enc"][dead] = 20.0
    theirs = theirs_of(architecture, ours, k=K, rescale_acts_by_decoder_norm=False)
    forward = ours.training_pass(X, X)
    mine = term(ours, AuxK(aux_k_coefficient=0.25), forward, dead)
    step = their_step(theirs, dead=dead)
    same(forward.codes.values, step.feature_acts)
    same(reconstruction_loss(forward), step.losses["mse_loss"])
    fewer = min(dead_latents / (WIDTH // 2), 1.0)
    relation = 0.25 * X.pow(2).sum(-1).mean() / (X - forward.reconstruction).pow(2).sum(-1).mean().detach() / fewer
    other = relation * step.losses["auxiliary_reconstruction_loss"]
    assert_same_loss_and_gradients(mine, ours, other, theirs)


def test_a_dead_latent_with_negative_pre_writes_nothing_in_aux_k_but_a_negative_code_in_saelens() -> None:
    ours = ours_of("topk", k=K)
    dead = torch.arange(LATENTS) < 8
    with torch.no_grad():
        parameters(ours)["b_enc"][dead] = -20.0
    theirs = theirs_of("topk", ours, k=K, rescale_acts_by_decoder_norm=False)
    mine = term(ours, AuxK(aux_k_coefficient=1.0), ours.training_pass(X, X), dead)
    same(mine, X.pow(2).sum(-1).mean())  # the whole residual is left
    step = their_step(theirs, dead=dead)
    residual = (X - step.sae_out).pow(2).sum(-1).mean()
    assert step.losses["auxiliary_reconstruction_loss"] > 2 * residual


def test_the_threshold_of_batchtopk_is_that_of_saelens_without_its_bias_towards_zero() -> None:
    # Theirs starts at 0 and nears the mean with 0.99^steps: after 100 steps it is still 37 % too low.
    ours = ours_of("batchtopk", k=K)
    theirs = theirs_of("batchtopk", ours, k=K, rescale_acts_by_decoder_norm=False)
    for step in range(1, 6):
        with torch.no_grad():
            ours.geometry.b_enc += 0.1
            theirs.b_enc += 0.1
        ours.observe(ours.training_pass(X, X))
        their_step(theirs)
        same(
            ours.sparsity.threshold_sum[0] / ours.sparsity.threshold_weight[0] * (1 - 0.99**step), theirs.topk_threshold
        )


def test_selection_by_norm_is_that_of_saelens_with_codes_divided_again() -> None:
    ours = ours_of("batchtopk", k=K, sparsity_include_decoder_norm=True)
    theirs = theirs_of("batchtopk", ours, k=K)
    forward, step = ours.training_pass(X, X), their_step(theirs)
    same(forward.codes.values * ours.geometry.norms(), step.feature_acts)
    same(forward.reconstruction, step.sae_out)


@pytest.mark.filterwarnings("ignore:WARNING. The final matryoshka level")
def test_matryoshka_is_the_mean_over_prefixes_of_which_saelens_takes_the_sum() -> None:
    ours = ours_of("matryoshka", k=K)
    theirs = theirs_of(
        "matryoshka_batchtopk", ours, k=K, matryoshka_widths=[6, 12, LATENTS], rescale_acts_by_decoder_norm=False
    )
    mine = term(ours, Nested(matryoshka_prefixes=(0.25, 0.5, 1.0)), ours.training_pass(X, X))
    assert_same_loss_and_gradients(3 * mine, ours, their_step(theirs).loss, theirs)


def jumprelu(**options: Any) -> tuple[Any, Any, Forward]:
    ours = ours_of("jumprelu", jumprelu_threshold="direct", jumprelu_bandwidth=0.3)
    theirs = theirs_of("jumprelu", ours, jumprelu_bandwidth=0.3, **options)
    return ours, theirs, ours.training_pass(X, X)


def test_jumprelu_with_its_l0_penalty_has_the_loss_and_gradients_of_saelens() -> None:
    ours, theirs, forward = jumprelu()
    mine = reconstruction_loss(forward) + term(ours, L0(l0_coefficient=0.3), forward)
    assert_same_loss_and_gradients(mine, ours, their_step(theirs, 0.3).loss, theirs)


def test_jumprelu_with_tanh_has_the_loss_and_gradients_of_saelens() -> None:
    ours, theirs, forward = jumprelu(jumprelu_sparsity_loss_mode="tanh", jumprelu_tanh_scale=4.0)
    mine = reconstruction_loss(forward) + term(ours, Tanh(tanh_coefficient=0.3, tanh_scale=4.0), forward)
    assert_same_loss_and_gradients(mine, ours, their_step(theirs, 0.3).loss, theirs)


def test_target_l0_of_gemma_steers_the_mean_and_that_of_saelens_each_token() -> None:
    # The mean over tokens of a square is the square of the mean and the variance: theirs also wants equal tokens.
    target = 5.0
    ours, theirs, forward = jumprelu(jumprelu_sparsity_loss_mode="quadratic", target_l0=target)
    mine = term(ours, TargetL0Gemma(target_l0=target, target_l0_coefficient=0.3), forward)
    variance = (forward.codes.values != 0).sum(-1).double().var(correction=0)
    assert variance > 0
    same(mine + 0.3 * 2 / target * variance, their_step(theirs, 0.3).losses["l0_loss"])


def test_pre_act_is_that_of_saelens_but_for_latents_that_are_alive() -> None:
    # Anthropic's formula, and ours, has all latents; SAELens only those that are dead.
    ours, theirs, forward = jumprelu(pre_act_loss_coefficient=0.01)
    mine = term(ours, PreAct(pre_act_coefficient=0.01), forward)
    same(mine, their_step(theirs, dead=~NONE_DEAD).losses["pre_act_loss"])
    half = torch.arange(LATENTS) < LATENTS // 2
    assert 0 < their_step(theirs, dead=half).losses["pre_act_loss"] < mine


@pytest.mark.filterwarnings("ignore:decoder_init_norm must be set to 1.0")
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("standard", {}),
        ("gated", {}),
        ("topk", {"k": K}),
        ("abstopk", {"k": K}),
        ("batchtopk", {"k": K}),
        ("matryoshka_batchtopk", {"k": K, "matryoshka_widths": [6, LATENTS]}),
        ("jumprelu", {}),
        ("matching_pursuit", {"max_iterations": 3, "residual_threshold": 0.0, "stop_on_duplicate_support": False}),
    ],
)
def test_what_saelens_saves_after_training_is_read_exactly(
    tmp_path: Path, architecture: str, options: dict[str, Any]
) -> None:
    from sae_lens.registry import get_sae_training_class

    sae, config = get_sae_training_class(architecture)
    trained: Any = sae(config(d_in=WIDTH, d_sae=LATENTS, **options))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.5 * torch.rand(parameter.shape, generator=generator) - 0.25)
    their_step(trained, x=X.float())  # from which batchtopk learns its threshold
    trained.save_inference_model(tmp_path)
    assert_computes_the_same(saelens(tmp_path), load(tmp_path))
