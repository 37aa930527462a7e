"""Codes at few entries answer every question of a loss as dense codes do, in float64."""

import pytest
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.codes import Codes, DenseCodes, EntryCodes
from lmsae.kernels import entries
from tests.losses.numpy_sae import ACT_FNS, D_SAE, DEAD, TOKENS, X, dictionary

PER_LATENT = torch.rand(D_SAE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
ENTRYWISE = sorted(ACT_FNS)
BOTH = pytest.mark.parametrize("scaled", [False, True])


@pytest.fixture(autouse=True)
def however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small dictionaries have no few entries: never fall back."""
    monkeypatch.setattr(entries, "SPARSE_SHARE", 1.0)


def both(act_fn: str, *, scaled: bool, k: int | None = None) -> tuple[Dictionary, DenseCodes, EntryCodes]:
    """The codes of one dictionary on X, dense and at entries."""
    made = dictionary(act_fn, scaled=scaled)
    dense, few = made.training_pass(X, X, k=k).codes, made.entrywise_pass(X, X, k=k).codes
    assert isinstance(dense, DenseCodes)
    assert isinstance(few, EntryCodes)
    return made, dense, few


def assert_same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("act_fn", ENTRYWISE)
def test_values_sums_and_firing_are_those_of_dense_codes(act_fn: str, scaled: bool) -> None:
    _, dense, few = both(act_fn, scaled=scaled)
    assert_same(few.entries.to_dense(few.values), dense.values)
    assert_same(few.average(few.magnitudes), dense.average(dense.magnitudes))
    assert_same(few.average_weighted(few.values, PER_LATENT), dense.average_weighted(dense.values, PER_LATENT))
    assert torch.equal(few.find_fired(), dense.find_fired())
    assert few.norms_in_pre is dense.norms_in_pre is scaled


@BOTH
@pytest.mark.parametrize("act_fn", ENTRYWISE)
def test_pre_is_brought_to_codes_and_sizes_alike(act_fn: str, scaled: bool) -> None:
    made, dense, few = both(act_fn, scaled=scaled)
    for convert in (Codes.to_codes, Codes.to_sizes):
        found = few.entries.to_dense(convert(few, few.pre, made.geometry))
        chosen = few.entries.to_dense(torch.ones_like(few.pre)) != 0
        assert_same(found, convert(dense, dense.pre, made.geometry).where(chosen, 0.0))


@BOTH
@pytest.mark.parametrize("act_fn", ENTRYWISE)
def test_reconstructions_are_those_of_dense_codes(act_fn: str, scaled: bool) -> None:
    made, dense, few = both(act_fn, scaled=scaled)
    assert_same(few.decode(made.geometry, few.values, X), dense.decode(made.geometry, dense.values, X))


@pytest.mark.parametrize("sizes", [[D_SAE], [1, D_SAE], [2, 5, D_SAE]])
@pytest.mark.parametrize("act_fn", ENTRYWISE)
def test_every_stretch_but_the_last_is_written_apart(act_fn: str, sizes: list[int]) -> None:
    made, dense, few = both(act_fn, scaled=False)
    found, wanted = (list(codes.write_stretches(made.geometry, X, sizes)) for codes in (few, dense))
    assert len(found) == len(wanted) == len(sizes) - 1
    for start, stop, one, other in zip([0, *sizes], sizes, found, wanted, strict=False):
        assert_same(one, other)
        assert_same(other, dense.values[:, start:stop] @ made.geometry.get_parameter("W_dec")[start:stop])


@BOTH
@pytest.mark.parametrize("act_fn", ENTRYWISE)
def test_other_latents_write_by_their_own_pre(act_fn: str, scaled: bool) -> None:
    made, dense, few = both(act_fn, scaled=scaled)
    dead = DEAD.nonzero().squeeze(1)
    chosen = torch.rand(TOKENS, len(dead), generator=torch.Generator().manual_seed(5)).topk(2, dim=1).indices
    found, wanted = (codes.write_chosen(made.geometry, X, dead, chosen) for codes in (few, dense))
    assert_same(found, wanted)
    selected = torch.zeros_like(dense.pre).scatter(1, dead[chosen], 1.0) * dense.pre.relu()
    norms = made.geometry.norms() if scaled else 1.0
    assert_same(wanted, (selected / norms) @ made.geometry.get_parameter("W_dec"))


@pytest.mark.parametrize("k", [1, 2, D_SAE])
@pytest.mark.parametrize("act_fn", ["topk", "batchtopk"])
def test_a_pass_takes_another_k_dense_and_at_entries(act_fn: str, k: int) -> None:
    _, dense, few = both(act_fn, scaled=False, k=k)
    assert_same(few.entries.to_dense(few.values), dense.values)
    assert (dense.values != 0).sum() <= k * TOKENS
    assert len(few.values) == k * TOKENS
    assert dictionary(act_fn).training_pass(X, X, k=k).k == k


@pytest.mark.parametrize("act_fn", ["relu", "jumprelu", "gated"])
def test_a_pass_with_another_k_needs_an_activation_function_that_takes_it(act_fn: str) -> None:
    made = dictionary(act_fn)
    for forward in (made.training_pass, made.entrywise_pass):
        with pytest.raises(TypeError, match="TakesAnyK"):
            forward(X, X, k=2)
