"""Folding takes normalizers and decoder norms into the weights without a change, or refuses."""

import fnmatch

import pytest
import torch

from lmsae.errors import ExportError
from tests.dictionary.grid import NO_FOLD, Case, activations, cases, every_third, trained, why_no_fold


def test_every_pattern_of_what_cannot_be_folded_has_a_case() -> None:
    assert [pattern for pattern in NO_FOLD if not fnmatch.filter(map(str, cases()), pattern)] == []


@pytest.mark.parametrize("case", every_third([case for case in cases() if why_no_fold(case) is None]), ids=str)
def test_folding_changes_neither_codes_nor_outputs(case: Case) -> None:
    made = trained(case, torch.float64)
    x, _ = activations(case, torch.float64)
    codes, norms = made.encode(x), made.geometry.norms()
    folded = made.fold_normalizers()
    assert folded.config.normalize_activations == "none"
    assert not folded.config.sparsity_include_decoder_norm
    assert 0 < (codes != 0).sum() < codes.numel()
    wanted = codes * norms if case.include_norm else codes
    torch.testing.assert_close(folded.encode(x), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded(x), made(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", every_third([case for case in cases() if why_no_fold(case)]), ids=str)
def test_what_has_no_exact_fold_is_refused_with_a_reason(case: Case) -> None:
    with pytest.raises(ExportError, match=why_no_fold(case)):
        trained(case).fold_normalizers()


@pytest.mark.parametrize(
    "case",
    [
        Case("sae", "jumprelu"),
        Case("sae", "jumprelu_direct"),
        Case("clt", "batchtopk", "whiten"),
        Case("sae_tied", "topk"),
    ],
)
def test_a_folded_copy_is_a_copy_in_the_same_mode(case: Case) -> None:
    made = trained(case)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    folded = made.fold_normalizers()
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert not folded.training
    assert made.train().fold_normalizers().training
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
