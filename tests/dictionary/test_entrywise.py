"""Training steps at few entries: the same codes, losses and gradients as dense ones, in float64."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae import sparsity
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.codes import DenseCodes, EntryCodes
from lmsae.kernels import entries
from lmsae.losses import LOSSES, Forward, TrainingStep, reconstruction_loss
from lmsae.planning.catalog import CATALOG
from lmsae.sparsity.config import ACT_FNS
from lmsae.sparsity.sparsity import EntrywiseSparsity
from lmsae.training.objective import Objective
from tests.architectures import parts, randomize

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
    "prefixes of several hook points": ("crosscoder", {"act_fn": "batchtopk", "losses": ("nested", "aux_k")}),
    "sampled prefixes": ("batchtopk", {"losses": ("nested_sampled",)}),
    "a gated transcoder": ("transcoder", {"act_fn": "gated", "losses": ("gated_aux",)}),
    "a gated skip transcoder": ("skip_transcoder", {"act_fn": "gated", "losses": ("gated_aux",)}),
}
DENSE = {"matching_pursuit", "clt", "lorsa", "molt"}
"""Entries of the catalog that have no entrywise pass, for their geometry or their activation function."""

ENTRYWISE = {kind: loss for kind, loss in LOSSES.items() if loss.entrywise}
SELECTING: dict[str, dict[str, Any]] = {
    "relu": {"losses": ("l1",)},
    "gated": {"losses": ("gated_aux",)},
    "jumprelu": {"losses": ("l1",), "jumprelu_init_threshold": 0.5},
    "direct": {"act_fn": "jumprelu", "losses": ("l1",), "jumprelu_init_threshold": 0.5, "jumprelu_threshold": "direct"},
    "topk": {},
    "batchtopk": {},
    "abstopk": {},
    "groupmax": {},
}
"""Every activation function with an entrywise pass, and the loss without which a row of it is refused."""


def combine(selecting: str, loss: str) -> dict[str, Any] | None:
    """The columns of a row with this loss; None where they do not go together."""
    columns = {"act_fn": selecting, "losses": (), **SELECTING[selecting]}
    if not set(ENTRYWISE[loss].needs) <= set(ACT_FNS[columns["act_fn"]].offers):
        return None
    return columns | {
        "losses": tuple(dict.fromkeys((*columns["losses"], loss))),
        "unit_norm_decoder": ENTRYWISE[loss].needs_unit_rows,
        "target_l0": 3.0,
        "target_l0_coefficient": 0.3,
    }


GRID = [(selecting, loss) for selecting in SELECTING for loss in ENTRYWISE if combine(selecting, loss)]
BY_NORM = [(selecting, loss, True) for selecting, loss in GRID if selecting != "gated"]  # with which it is refused


@pytest.fixture(autouse=True)
def however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small dictionaries have no few entries: never fall back."""
    monkeypatch.setattr(entries, "SPARSE_SHARE", 1.0)
    monkeypatch.setattr(entries, "SPARSE_SHARE_OF_HALVES", 1.0)


def made(case: str) -> tuple[Dictionary, Objective]:
    name, columns = CASES[case]
    config, objective = parts(name, WIDTH, LATENTS, **columns)
    return randomize(Dictionary(config)).double().train(), objective


def batch(dictionary: Dictionary) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(TOKENS, sum(dictionary.config.widths.reads), generator=generator, dtype=torch.float64)
    if dictionary.config.geometry.autoencodes:
        return x, x
    return x, torch.randn(TOKENS, sum(dictionary.config.widths.writes), generator=generator, dtype=torch.float64)


def learned(dictionary: Dictionary, objective: Objective, forward: Forward) -> dict[str, Tensor]:
    """Every loss and gradient of a step in which a third of the latents are dead."""
    dead = torch.arange(LATENTS) % 3 == 0
    losses = {"reconstruction": reconstruction_loss(forward)}
    for loss in objective.losses:
        memory = {name: value.double() for name, value in loss.memory().items()}
        progress = TrainingStep(0.7, dead, step=3, steps=10, memory=memory)
        losses[loss.kind] = loss(dictionary.geometry, dictionary.sparsity, forward, progress)
    gradients = torch.autograd.grad(
        torch.stack(list(losses.values())).sum(), list(dictionary.parameters()), materialize_grads=True
    )
    return losses | dict(zip((name for name, _ in dictionary.named_parameters()), gradients, strict=True))


def same_as_dense(dictionary: Dictionary, objective: Objective) -> dict[str, Tensor]:
    """The losses and gradients of a dense pass, after a check that a pass at few entries has the same and its codes."""
    x, target = batch(dictionary)
    sparse, dense = dictionary.entrywise_pass(x, target), dictionary.training_pass(x, target)
    assert isinstance(sparse.codes, EntryCodes)
    torch.testing.assert_close(sparse.codes.entries.to_dense(sparse.codes.values), dense.codes.values)
    assert torch.equal(sparse.codes.find_fired(), dense.codes.find_fired())
    found, wanted = (learned(dictionary, objective, forward) for forward in (sparse, dense))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)
    return wanted


def test_every_catalog_entry_has_an_entrywise_pass_or_is_known_to_have_none() -> None:
    without = {name for name in CATALOG if not made(name)[0].entrywise}
    assert without == DENSE
    assert {name for name in CATALOG if not all(loss.entrywise for loss in made(name)[1].losses)} == {"clt", "molt"}


@pytest.mark.parametrize("case", [case for case in CASES if case not in DENSE])
def test_losses_and_gradients_are_those_of_the_dense_pass(case: str) -> None:
    wanted = same_as_dense(*made(case))
    assert any(value.abs().sum() > 0 for name, value in wanted.items() if name.startswith("geometry"))


def subclasses(of: type) -> Iterator[type]:
    for cls in of.__subclasses__():
        yield cls
        yield from subclasses(cls)


def in_grid(selecting: str, loss: str, **columns: Any) -> tuple[Dictionary, Objective]:
    """A row of the grid; thresholds, gates and magnitudes, too, differ from latent to latent."""
    chosen = combine(selecting, loss)
    assert chosen is not None
    config, objective = parts("topk", WIDTH, LATENTS, **chosen | columns)
    dictionary, generator = randomize(Dictionary(config)).double().train(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in dictionary.sparsity.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return dictionary, objective


def test_the_grid_has_every_loss_and_every_activation_function_with_an_entrywise_pass() -> None:
    loss_of = {selecting: loss for selecting, loss in reversed(GRID)}
    assert loss_of.keys() == SELECTING.keys()
    assert {loss for _, loss in GRID} == ENTRYWISE.keys()
    config: Any
    for config in ACT_FNS.values():
        sparsity.build(config.model_construct(k=1), LATENTS)  # which imports it
    found = [cls for cls in subclasses(EntrywiseSparsity) if not inspect.isabstract(cls)]
    # Those over several processes (lmsae/training/sharded/) are held to these by tests of their own.
    classes = {cls for cls in found if cls.__module__.startswith("lmsae.sparsity.")}
    assert {type(in_grid(*row)[0].sparsity) for row in loss_of.items()} == classes


@pytest.mark.parametrize(("selecting", "loss", "by_norm"), [*((*row, False) for row in GRID), *BY_NORM])
def test_every_loss_is_the_same_with_every_activation_function(selecting: str, loss: str, by_norm: bool) -> None:
    dictionary, objective = in_grid(selecting, loss, sparsity_include_decoder_norm=by_norm)
    wanted = same_as_dense(dictionary, objective)
    assert wanted[loss].item() > 0


@pytest.mark.parametrize("selecting", ["jumprelu", "direct"])
def test_a_dead_latent_far_below_its_threshold_learns_from_auxk(selecting: str) -> None:
    dictionary, objective = in_grid(selecting, "aux_k", jumprelu_init_threshold=1e3)
    for forward in (dictionary.entrywise_pass(*batch(dictionary)), dictionary.training_pass(*batch(dictionary))):
        assert not forward.codes.find_fired().any()
        gradient = learned(dictionary, objective, forward)["geometry.W_enc"]
        assert gradient[:, ::3].any(0).sum() > LATENTS // 6
        assert not gradient[:, 1::3].any()


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
    monkeypatch.setattr(entries, "SPARSE_SHARE", 0.01)
    dictionary, _ = made("standard_new")
    assert isinstance(dictionary.entrywise_pass(*batch(dictionary)).codes, DenseCodes)


def test_under_autocast_the_codes_that_count_have_the_precision_of_the_weights() -> None:
    dictionary, _ = made("topk")
    dictionary.float()
    x, target = (part.float() for part in batch(dictionary))
    with torch.autocast("cpu", torch.bfloat16):
        forward = dictionary.entrywise_pass(x, target)
    assert isinstance(forward.codes, EntryCodes)
    chosen = forward.codes.entries
    assert forward.pre.dtype == torch.bfloat16
    exact = dictionary.geometry.encode(x)[chosen.token_index, chosen.latents].relu()
    torch.testing.assert_close(forward.codes.values, exact)
