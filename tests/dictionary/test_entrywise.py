"""Training steps at few entries: the same codes, losses and gradients as dense ones, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae import entries
from lmsae.catalog import CATALOG, Objective
from lmsae.dictionary.dictionary import Dictionary
from lmsae.losses import Forward, Progress, reconstruction_loss
from tests.architectures import parts, randomise

TOKENS, WIDTH, LATENTS = 40, 6, 32

CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in CATALOG} | {
    "selected by norm": ("batchtopk", {"sparsity_include_decoder_norm": True}),
    "abstopk by norm": ("abstopk", {"sparsity_include_decoder_norm": True}),
    "a gated encoder": ("topk", {"glu_encoder": True}),
    "a tied encoder": ("topk", {"tied_encoder": True}),
    "x as it is": ("jumprelu", {"apply_b_dec_to_input": False}),
    "direct thresholds": ("jumprelu", {"jumprelu_threshold": "direct"}),
    "tanh": ("jumprelu", {"losses": ("tanh",)}),
    "a target": ("jumprelu", {"losses": ("target_l0",), "target_l0": 3.0, "target_l0_coefficient": 0.3}),
    "sampled prefixes": ("batchtopk", {"losses": ("nested_sampled",)}),
    "a gated transcoder": ("transcoder", {"act_fn": "gated", "losses": ("gated_aux",)}),
}
DENSE = {"matching_pursuit", "clt", "lorsa", "molt"}
"""Entries of the catalog that have no entrywise pass, for their geometry or their activation function."""


@pytest.fixture(autouse=True)
def however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small dictionaries have no few entries: never fall back."""
    monkeypatch.setattr(entries, "FEW", 1.0)
    monkeypatch.setattr(entries, "FEW_OF_HALVES", 1.0)


def made(case: str) -> tuple[Dictionary, Objective]:
    name, columns = CASES[case]
    config, objective = parts(name, WIDTH, LATENTS, **columns)
    return randomise(Dictionary(config)).double().train(), objective


def batch(dictionary: Dictionary) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(TOKENS, sum(dictionary.config.reads), generator=generator, dtype=torch.float64)
    if dictionary.config.geometry.autoencodes:
        return x, x
    return x, torch.randn(TOKENS, sum(dictionary.config.writes), generator=generator, dtype=torch.float64)


def learned(dictionary: Dictionary, objective: Objective, forward: Forward) -> dict[str, Tensor]:
    """Every loss and gradient of a step in which a third of the latents are dead."""
    dead = torch.arange(LATENTS) % 3 == 0
    losses = {"reconstruction": reconstruction_loss(forward)}
    for loss in objective.losses:
        memory = {name: value.double() for name, value in loss.memory().items()}
        progress = Progress(0.7, dead, step=3, steps=10, memory=memory)
        losses[loss.kind] = loss(dictionary.geometry, dictionary.sparsity, forward, progress)
    gradients = torch.autograd.grad(
        torch.stack(list(losses.values())).sum(), list(dictionary.parameters()), materialize_grads=True
    )
    return losses | dict(zip((name for name, _ in dictionary.named_parameters()), gradients, strict=True))


def test_every_catalog_entry_has_an_entrywise_pass_or_is_known_to_have_none() -> None:
    without = {name for name in CATALOG if not made(name)[0].entrywise}
    assert without == DENSE
    assert {name for name in CATALOG if not all(loss.entrywise for loss in made(name)[1].losses)} == {"clt", "molt"}


@pytest.mark.parametrize("case", [case for case in CASES if case not in DENSE])
def test_losses_and_gradients_are_those_of_the_dense_pass(case: str) -> None:
    dictionary, objective = made(case)
    x, target = batch(dictionary)
    sparse, dense = dictionary.entrywise_pass(x, target), dictionary.training_pass(x, target)
    assert sparse.entries is not None
    whole = torch.zeros_like(dense.codes).index_put((sparse.entries.row, sparse.entries.latents), sparse.codes)
    torch.testing.assert_close(whole, dense.codes)
    assert torch.equal(sparse.fired(), dense.fired())
    found, wanted = (learned(dictionary, objective, forward) for forward in (sparse, dense))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)
    assert any(value.abs().sum() > 0 for name, value in wanted.items() if name.startswith("geometry"))


@pytest.mark.parametrize("case", ["batchtopk", "selected by norm", "groupmax"])
def test_the_threshold_learned_is_that_of_the_dense_pass(case: str) -> None:
    (first, _), (second, _) = made(case), made(case)
    x, target = batch(first)
    first.observe(first.entrywise_pass(x, target))
    second.observe(second.training_pass(x, target))
    state = second.sparsity.state_dict()
    for name, value in first.sparsity.state_dict().items():
        torch.testing.assert_close(value, state[name])
    assert state["threshold_weight"].sum() > 0


def test_where_entries_are_many_the_pass_is_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "FEW", 0.01)
    dictionary, _ = made("standard_new")
    assert dictionary.entrywise_pass(*batch(dictionary)).entries is None


def test_under_autocast_the_codes_that_count_have_the_precision_of_the_weights() -> None:
    dictionary, _ = made("topk")
    dictionary.float()
    x, target = (part.float() for part in batch(dictionary))
    with torch.autocast("cpu", torch.bfloat16):
        forward = dictionary.entrywise_pass(x, target)
    assert forward.entries is not None
    assert forward.pre.dtype == torch.bfloat16
    exact = dictionary.geometry.encode(x)[forward.entries.row, forward.entries.latents].relu()
    torch.testing.assert_close(forward.codes, exact)
