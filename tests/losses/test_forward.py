"""Common to all losses: the pass that they see, what they change, what learns from them, and their precision."""

import copy
import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from lmsae.dictionary.dictionary import Dictionary
from lmsae.losses import LOSSES, Forward, Loss, LossConfig, TrainingStep, reconstruction_loss
from tests.losses.numpy_sae import ACT_FN_NEEDED, ACT_FNS, D_SAE, X, dictionary, expected, parameter, progress, small

BASIC = {"W_enc", "b_enc", "W_dec"}
LEARNS = {
    "l1": BASIC,  # W_dec by its norms
    "lp": BASIC,
    "tanh": BASIC,
    "tanh_quad": BASIC,
    "p_anneal": {"W_enc", "b_enc"},
    "l0": {"log_threshold"},
    "target_l0": {"log_threshold"},
    "target_l0_gemma": {"log_threshold"},
    "pre_act": BASIC | {"log_threshold"},
    "aux_k": BASIC,
    "ghost_grads": BASIC,
    "multi_topk": BASIC | {"b_dec"},
    "gated_aux": {"W_enc", "W_dec", "b_gate"},  # W_dec by its norms alone
    "nested": BASIC | {"b_dec"},
    "nested_sampled": BASIC | {"b_dec"},
    "e2e_kl": BASIC | {"b_dec"},
    "e2e_ce": BASIC | {"b_dec"},
}
"""The parameters that get a gradient from a loss, where b_dec is not subtracted from the input."""
SPARSIFYING = [kind for kind, loss in LOSSES.items() if loss.sparsifies]


@dataclasses.dataclass
class NoLayers:
    """A language model that predicts dimensions of what it reads, by a softmax; each next token is dimension 0."""

    reconstruction: torch.Tensor

    def divergence(self) -> torch.Tensor:
        clean = X.log_softmax(-1)
        return (clean.exp() * (clean - self.reconstruction.log_softmax(-1))).sum(-1).mean()

    def cross_entropy(self) -> torch.Tensor:
        return -self.reconstruction.log_softmax(-1)[:, 0].mean()


def with_codes(forward: Forward, values: torch.Tensor) -> Forward:
    """The pass with other codes, that are their own pre."""
    return dataclasses.replace(forward, codes=dataclasses.replace(forward.codes, values=values, pre=values), pre=values)


def value(loss: Loss, of: Dictionary, forward: Forward, at: TrainingStep) -> torch.Tensor:
    if loss.needs_model:
        forward = dataclasses.replace(forward, model=NoLayers(forward.reconstruction))
    return loss(of.geometry, of.sparsity, forward, at)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("act_fn", ACT_FNS)
def test_a_forward_pass_is_the_formula(act_fn: str, scaled: bool) -> None:
    made = dictionary(act_fn, scaled=scaled)
    forward, numpy = made.training_pass(X, X), expected(made)
    assert 0 < (numpy.codes != 0).sum() < numpy.codes.size
    assert forward.codes.norms_in_pre is scaled
    pre = numpy.pre * numpy.norms if scaled else numpy.pre
    np.testing.assert_allclose(forward.pre.detach(), pre, rtol=0, atol=1e-14)
    np.testing.assert_allclose(forward.codes.values.detach(), numpy.codes, rtol=0, atol=1e-14)
    np.testing.assert_allclose(forward.reconstruction.detach(), numpy.reconstruction, rtol=0, atol=1e-14)


def test_every_loss_can_be_named_in_a_spec_by_its_kind() -> None:
    in_union = get_args(get_args(LossConfig)[0])
    assert {model.model_fields["kind"].default: model for model in in_union} == LOSSES
    assert LEARNS.keys() == LOSSES.keys()
    for kind in LOSSES:
        loss = small(kind)[0]
        assert TypeAdapter(LossConfig).validate_python(loss.model_dump()) == loss


def test_there_is_an_activation_function_here_for_whatever_a_loss_may_need_of_one() -> None:
    assert ACT_FN_NEEDED.keys() == {need for loss in LOSSES.values() for need in loss.needs}
    assert all(need in ACT_FNS[act_fn].offers for need, act_fn in ACT_FN_NEEDED.items())


@pytest.mark.parametrize("kind", [kind for kind, loss in LOSSES.items() if loss.needs])
def test_a_loss_says_which_activation_function_it_needs(kind: str) -> None:
    loss, _ = small(kind)
    made = dictionary("relu")
    with pytest.raises(TypeError, match=f"{LOSSES[kind].needs[0].__name__} .* is needed, and ReLU is none"):
        value(loss, made, made.training_pass(X, X), progress(loss))


def test_a_column_of_two_losses_has_one_description() -> None:
    described: dict[str, str | None] = {}
    for model in LOSSES.values():
        for name, field in model.model_fields.items():
            if name != "kind":
                assert described.setdefault(name, field.description) == field.description
                assert field.description


@pytest.mark.parametrize("kind", LOSSES)
def test_only_what_should_learn_from_a_loss_gets_a_gradient(kind: str) -> None:
    loss, made = small(kind)
    value(loss, made, made.training_pass(X, X), progress(loss)).backward()
    moved = {name.split(".")[1] for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == LEARNS[kind]


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_changes_nothing(kind: str) -> None:
    loss, made = small(kind)
    at, before, x = progress(loss), copy.deepcopy(made.state_dict()), X.clone()
    remembered = copy.deepcopy(dict(at.memory))
    forward = made.training_pass(x, x)
    value(loss, made, forward, at).backward()
    assert torch.equal(x, X)
    assert all(torch.equal(one, before[name]) for name, one in made.state_dict().items())
    assert dict(at.memory) == remembered


@pytest.mark.parametrize("kind", LOSSES)
def test_only_what_makes_codes_sparse_is_warmed_up(kind: str) -> None:
    loss, made = small(kind)
    forward = made.training_pass(X, X)
    none, some, all_of_it = (value(loss, made, forward, progress(loss, warm_up=w)).item() for w in (0.0, 0.25, 1.0))
    assert some == pytest.approx(0.75 * none + 0.25 * all_of_it, rel=1e-12)
    assert (none != all_of_it) is loss.sparsifies
    if loss.sparsifies and kind != "gated_aux":
        assert none == 0


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_and_its_gradients_are_finite_where_no_latent_is_active(kind: str) -> None:
    loss, made = small(kind)
    with torch.no_grad():
        parameter(made, "b_gate" if kind == "gated_aux" else "b_enc").fill_(-100)
    forward = made.training_pass(X, X)
    assert not forward.codes.values.any()
    loss_value = value(loss, made, forward, progress(loss))
    assert loss_value.isfinite()
    if loss_value.requires_grad:
        loss_value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("kind", [*(kind for kind in SPARSIFYING if kind != "gated_aux"), "pre_act"])
def test_sums_are_in_float32_where_codes_come_in_bfloat16(kind: str) -> None:
    loss, made = small(kind)
    made.float()
    rounded = torch.rand(400, D_SAE, generator=torch.Generator().manual_seed(1)).bfloat16()
    forward = made.training_pass(X.float(), X.float())
    half, whole = (with_codes(forward, values) for values in (rounded, rounded.double()))
    wanted = value(loss, made.double(), whole, progress(loss)).item()
    got = value(loss, made.float(), half, progress(loss))
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("kinds", "act_fn"), [(["l1"], "relu"), (["aux_k"], "topk"), (["gated_aux"], "gated")])
def test_gradients_of_all_terms_together_reach_every_parameter(kinds: list[str], act_fn: str) -> None:
    made = dictionary(act_fn)
    forward = made.training_pass(X, X)
    terms = [value(small(kind)[0], made, forward, progress()) for kind in kinds]
    torch.stack([reconstruction_loss(forward), *terms]).sum().backward()
    for name, one in made.named_parameters():
        assert one.grad is not None, name
        assert one.grad.any(), name
