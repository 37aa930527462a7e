"""Folding takes normalisers and decoder norms into the weights without a change, or refuses."""

from fnmatch import fnmatch

import pytest
import torch

from lmsae.errors import ExportError
from tests.dictionary.grid import Case, activations, cases, trained

# Geometry, activation function, normalisation, and what the refusal says.
REFUSED = {
    "*-*-token*": "number of its own",
    "*-*-layer_norm*": "number of its own",
    # A code multiplies x, so the mean that whitening takes from x would have to be multiplied by codes.
    "molt-*-whiten*": "multiplies its codes with its input",
    # The mean that whitening takes from x has no bias to go to, unless b_dec is subtracted from x.
    "sae_without_subtraction-gated-whiten": "no b_enc",
    "transcoder*-gated-whiten": "no b_enc",
    "skip_transcoder-gated-whiten": "no b_enc",
    "crosscoder-gated-whiten": "no b_enc",
    "clt-gated-whiten": "no b_enc",
    "lorsa-gated-whiten": "no b_enc",
}


def why_not(case: Case) -> str | None:
    """What the refusal to fold this case says, or None if it can be folded."""
    return next((reason for pattern, reason in REFUSED.items() if fnmatch(str(case), pattern)), None)


@pytest.mark.parametrize("case", [case for case in cases() if why_not(case) is None], ids=str)
def test_folding_changes_neither_codes_nor_outputs(case: Case) -> None:
    made = trained(case, torch.float64)
    x, _ = activations(case, torch.float64)
    codes, norms = made.encode(x), made.geometry.norms()
    folded = made.folded()
    assert folded.config.normalize_activations == "none"
    assert not folded.config.sparsity_include_decoder_norm
    assert 0 < (codes != 0).sum() < codes.numel()
    wanted = codes * norms if case.include_norm else codes
    torch.testing.assert_close(folded.encode(x), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded(x), made(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in cases() if why_not(case)], ids=str)
def test_what_has_no_exact_fold_is_refused_with_a_reason(case: Case) -> None:
    with pytest.raises(ExportError, match=why_not(case)):
        trained(case).folded()


@pytest.mark.parametrize(
    "case", [Case("sae", "jumprelu"), Case("clt", "batchtopk", "whiten"), Case("sae_tied", "topk")]
)
def test_a_folded_copy_is_a_copy_in_the_same_mode(case: Case) -> None:
    made = trained(case)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    folded = made.folded()
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert not folded.training
    assert made.train().folded().training
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
