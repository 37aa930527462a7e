"""Laws of every activation function, for any pre-activations: what a token's codes may depend on, and what they are."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from lmsae import sparsity
from lmsae.geometry.config import SAEConfig, Widths
from lmsae.geometry.sae import SAE
from lmsae.sparsity.config import ACT_FNS, JumpReLUConfig

LATENTS, WIDTH = 12, 4
KINDS = [*ACT_FNS, "jumprelu_direct"]
EVERY = pytest.mark.parametrize("kind", KINDS)
# Eighths, so that sums and products below are exact, ties are common, and equal means equal to the bit.
EIGHTHS = st.integers(-32, 32).map(lambda n: n / 8)
GROUPS = st.sampled_from([1, 2])
KS = st.sampled_from([1, 2, 3, 6])


def pres(most: int = 6) -> st.SearchStrategy[Tensor]:
    shape = st.tuples(st.integers(1, most), st.just(LATENTS))
    return hnp.arrays(np.float64, shape, elements=EIGHTHS).map(torch.from_numpy)


def build(kind: str, k: int, groups: int, parameters: Tensor | None = None) -> Any:
    """An activation function, its parameters those it starts with or of these values."""
    if kind == "jumprelu_direct":
        config: Any = JumpReLUConfig(jumprelu_threshold="direct")
    else:
        config = ACT_FNS[kind].model_validate({"k": k} if "k" in ACT_FNS[kind].model_fields else {})
    made = sparsity.build(config, LATENTS, groups).double()
    if parameters is not None:
        with torch.no_grad():
            for parameter, values in zip(made.parameters(), parameters, strict=False):
                parameter.copy_(values)
    return made


def geometry(decoder: Tensor) -> nn.Module:
    """An SAE that encodes by its decoder."""
    widths = Widths(reads=(decoder.shape[1],), writes=(decoder.shape[1],))
    sae = SAE(SAEConfig(tied_encoder=True), widths, LATENTS, encoder_bias=False)
    with torch.no_grad():
        sae.double().W_dec.copy_(decoder)
    return sae


HALVES = hnp.arrays(np.float64, (LATENTS, WIDTH), elements=st.sampled_from([-0.5, 0.5])).map(torch.from_numpy)
"""Decoder rows of norm 1 of which many overlap."""
APART = torch.eye(LATENTS, dtype=torch.float64)
"""Decoder rows of which no two overlap."""
PARAMETERS = hnp.arrays(np.float64, (3, LATENTS), elements=EIGHTHS).map(torch.from_numpy)


@EVERY
@given(
    seen=pres(), pre=pres(), mates=pres(), decoder=HALVES, parameters=PARAMETERS, k=KS, groups=GROUPS, data=st.data()
)
def test_at_inference_codes_of_a_token_do_not_depend_on_its_batch_mates(
    kind: str,
    seen: Tensor,
    pre: Tensor,
    mates: Tensor,
    decoder: Tensor,
    parameters: Tensor,
    k: int,
    groups: int,
    data: st.DataObject,
) -> None:
    act_fn, sae = build(kind, k, groups, parameters), geometry(decoder)
    act_fn.observe(act_fn(seen, sae))
    act_fn.eval()
    alone = torch.cat([act_fn(token, sae) for token in pre.split(1)])
    everyone = torch.cat([pre, 100 * mates])
    order = torch.tensor(data.draw(st.permutations(range(len(everyone)))))
    found = torch.empty_like(everyone).index_copy(0, order, act_fn(everyone[order], sae))
    assert torch.equal(found[: len(pre)], alone)


@EVERY
@pytest.mark.parametrize("training", [True, False])
@given(seen=pres(), pre=pres(), k=KS, groups=GROUPS)
def test_codes_are_some_of_relu_of_pre_or_with_their_signs_some_of_pre(
    kind: str, training: bool, seen: Tensor, pre: Tensor, k: int, groups: int
) -> None:
    """Where a gate has learned nothing yet, and no latent explains a part of another."""
    act_fn, sae = build(kind, k, groups), geometry(APART)
    act_fn.observe(act_fn(seen, sae))
    codes = act_fn.train(training)(pre, sae)
    whole = pre if act_fn.signed else pre.relu()
    assert ((codes == whole) | (codes == 0)).all()


@EVERY
@given(pre=pres(), decoder=HALVES, parameters=PARAMETERS, k=KS, groups=GROUPS)
def test_codes_are_negative_only_where_they_have_signs(
    kind: str, pre: Tensor, decoder: Tensor, parameters: Tensor, k: int, groups: int
) -> None:
    act_fn = build(kind, k, groups, parameters)
    assert act_fn.signed or (act_fn(pre, geometry(decoder)) >= 0).all()


@pytest.mark.parametrize("kind", [kind for kind in ACT_FNS if "k" in ACT_FNS[kind].model_fields])
@given(pre=pres(), decoder=HALVES, k=KS, groups=GROUPS)
def test_in_training_there_are_at_most_k_codes_a_token_on_average(
    kind: str, pre: Tensor, decoder: Tensor, k: int, groups: int
) -> None:
    act_fn = build(kind, k, groups)
    joined = ACT_FNS[kind].joins_groups or ACT_FNS[kind].needs_tied_encoder
    assert (act_fn(pre, geometry(decoder)) != 0).sum() <= k * len(pre) * (1 if joined else groups)
