"""Laws of every activation function; none may be missing here."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae import sparsity
from lmsae.geometry.config import SAEConfig, Widths
from lmsae.geometry.sae import SAE
from lmsae.kernels import entries as kernels
from lmsae.sparsity.capabilities import HasGate, HasThreshold, TakesAnyK, require
from lmsae.sparsity.config import ACT_FNS

LATENTS = 16
SIGNED, OF_THEIR_OWN = {"abstopk"}, {"gated", "matching_pursuit"}
SCHEDULED = sorted(kind for kind, config in ACT_FNS.items() if TakesAnyK in config.offers)
PRE = torch.randn(40, LATENTS, generator=torch.Generator().manual_seed(0))
EVERY = pytest.mark.parametrize("kind", ACT_FNS)


def build(kind: str, groups: int = 1, k: int = 4) -> Any:
    config: Any = ACT_FNS[kind].model_validate({"k": k} if "k" in ACT_FNS[kind].model_fields else {})
    return sparsity.build(config, LATENTS, groups)


def geometry() -> SAE:
    sae = SAE(SAEConfig(tied_encoder=True), Widths(reads=(8,), writes=(8,)), LATENTS, encoder_bias=False)
    with torch.no_grad():
        sae.W_dec.copy_(
            torch.nn.functional.normalize(torch.randn(LATENTS, 8, generator=torch.Generator().manual_seed(0)), dim=1)
        )
    return sae


@EVERY
def test_the_config_names_its_kind_and_describes_its_columns(kind: str) -> None:
    fields = ACT_FNS[kind].model_fields
    assert fields["kind"].default == kind
    assert all(field.description for name, field in fields.items() if name != "kind")


@EVERY
def test_leading_dimensions_do_not_matter(kind: str) -> None:
    act_fn, sae = build(kind), geometry()
    assert torch.equal(act_fn(PRE.view(5, 8, LATENTS), sae).view(40, LATENTS), act_fn(PRE, sae))


@EVERY
def test_at_inference_a_token_does_not_see_its_batch_mates(kind: str) -> None:
    act_fn, sae = build(kind), geometry()
    act_fn.observe(act_fn(PRE, sae))
    act_fn.eval()
    alone = torch.cat([act_fn(token, sae) for token in PRE[:8].split(1)])
    torch.testing.assert_close(act_fn(torch.cat([PRE[:8], 100 * PRE]), sae)[:8], alone, rtol=1e-6, atol=1e-6)
    assert alone.any()


@EVERY
def test_codes_are_a_part_of_pre(kind: str) -> None:
    codes = build(kind)(PRE, geometry())
    positive = PRE.relu()
    if kind in OF_THEIR_OWN:
        assert (codes >= 0).all()
    elif kind in SIGNED:
        assert ((codes == PRE) | (codes == 0)).all()
    else:
        assert ((codes == positive) | (codes == 0)).all()


@EVERY
def test_calling_changes_no_state(kind: str) -> None:
    act_fn, sae = build(kind), geometry()
    act_fn.observe(act_fn(PRE, sae))
    before = copy.deepcopy(act_fn.state_dict())
    for training in (True, False):
        act_fn.train(training)(PRE, sae)
    assert before.keys() == act_fn.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in act_fn.state_dict().items())


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_a_saved_state_gives_the_same_codes(kind: str, training: bool) -> None:
    act_fn, sae = build(kind), geometry()
    act_fn.observe(act_fn(PRE, sae))
    again = build(kind)
    again.load_state_dict(act_fn.state_dict())
    assert torch.equal(again.train(training)(PRE, sae), act_fn.train(training)(PRE, sae))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", SCHEDULED)
def test_at_another_k_codes_are_those_of_a_function_with_that_k(kind: str, groups: int) -> None:
    for k in (1, 4, 100):
        assert torch.equal(build(kind, groups).select(PRE, k), build(kind, groups, k)(PRE))


@pytest.mark.parametrize("kind", SCHEDULED)
def test_another_k_is_that_of_one_pass_alone(kind: str) -> None:
    act_fn, plain = build(kind), build(kind)
    assert torch.equal(act_fn.select(PRE, 7), build(kind, k=7)(PRE))
    assert torch.equal(act_fn(PRE), plain(PRE))
    assert torch.equal(act_fn.eval()(PRE), plain.eval()(PRE))
    assert act_fn.k == plain.k == 4


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("kind", SCHEDULED)
def test_entries_chosen_with_another_k_hold_the_codes_of_that_k(kind: str, k: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(kernels, "SPARSE_SHARE", 1.0)
    act_fn = build(kind)
    chosen = act_fn.choose_entries(PRE, k)
    codes = chosen.to_dense(act_fn.activate_at(PRE[chosen.token_index, chosen.latents], chosen.latents))
    assert torch.equal(codes, act_fn.select(PRE, k))


@EVERY
@pytest.mark.parametrize("capability", [HasGate, HasThreshold, TakesAnyK])
def test_a_module_has_the_capabilities_that_its_config_offers_and_no_other(kind: str, capability: type) -> None:
    act_fn = build(kind)
    if capability in ACT_FNS[kind].offers:
        assert require(act_fn, capability) is act_fn
    else:
        with pytest.raises(
            TypeError, match=rf"{capability.__name__} .* is needed, and {type(act_fn).__name__} is none"
        ):
            require(act_fn, capability)


@EVERY
def test_gradients_reach_pre(kind: str) -> None:
    pre: Tensor = PRE.clone().requires_grad_()
    build(kind)(pre, geometry()).sum().backward()
    assert pre.grad is not None
    assert pre.grad.any()
