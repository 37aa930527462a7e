"""A dictionary reads and writes raw activations, and comes back from disk as it was."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from lmsae.dictionary.config import Normalization
from lmsae.dictionary.dictionary import CONFIG, WEIGHTS, Dictionary
from lmsae.geometry.config import GEOMETRIES
from lmsae.sparsity.config import ACT_FNS, JumpReLUConfig
from tests.dictionary.grid import Case, activations, cases, every_third, trained, why_no_fold

BY_TOKEN = [case for case in cases((False,)) if case.normalization == "dataset" and case.geometry != "lorsa"]


def test_every_part_of_a_dictionary_is_in_the_grid() -> None:
    configs = [case.config for case in cases()]
    assert {config.geometry.kind for config in configs} == GEOMETRIES.keys()
    assert {config.act_fn.kind for config in configs} == ACT_FNS.keys()
    assert {config.normalize_activations for config in configs} == {*get_args(Normalization)}
    thresholds = {config.act_fn.jumprelu_threshold for config in configs if config.act_fn.kind == "jumprelu"}
    assert thresholds == {*get_args(JumpReLUConfig.model_fields["jumprelu_threshold"].annotation)}


@pytest.mark.parametrize("case", every_third(cases()), ids=str)
def test_it_works_in_the_units_of_training_and_speaks_raw_activations(case: Case) -> None:
    made = trained(case, torch.float64)
    x, target = activations(case, torch.float64)
    x_units, target_units = made.normalize(x, target)
    forward = made.training_pass(x_units, target_units)
    assert torch.equal(made.encode(x), forward.codes.values)
    like = x if made.config.geometry.autoencodes else None
    torch.testing.assert_close(made(x), made.write.restore(forward.reconstruction, like))
    # The loss in training's units is zero just where the raw output is the raw target.
    torch.testing.assert_close(made.write.restore(target_units, like), target)


CHOSEN = torch.tensor([7, 0, 11])


@pytest.mark.parametrize("case", every_third(cases()), ids=str)
def test_the_codes_of_some_latents_are_those_among_all(case: Case) -> None:
    made, (x, _) = trained(case, torch.float64), activations(case, torch.float64)
    torch.testing.assert_close(made.encode_latents(x, CHOSEN), made.encode(x)[..., CHOSEN])


@pytest.mark.parametrize("act_fn", ["relu", "gated", "jumprelu", "batchtopk"])
def test_other_latents_are_not_computed_where_each_code_stands_alone(act_fn: str) -> None:
    made, (x, _) = trained(Case("sae", act_fn)), activations(Case("sae", act_fn))
    wanted = made.encode_latents(x, CHOSEN)
    others = [latent for latent in range(made.geometry.latents) if latent not in CHOSEN]
    with torch.no_grad():
        made.geometry.get_parameter("W_enc")[:, others] = torch.nan
    assert torch.equal(made.encode_latents(x, CHOSEN), wanted)
    assert wanted.isfinite().all()


@pytest.mark.parametrize("case", every_third(cases()), ids=str)
def test_a_change_of_codes_is_decoded_as_the_difference_of_two_reconstructions(case: Case) -> None:
    made, (x, _) = trained(case, torch.float64), activations(case, torch.float64)
    codes = made.encode(x)
    changed, change = codes.clone(), torch.randn(*x.shape[:-1], len(CHOSEN), dtype=torch.float64)
    changed[..., CHOSEN] += change
    torch.testing.assert_close(
        made.decode_change(change, CHOSEN, x), made.decode(changed, x) - made.decode(codes, x), atol=1e-9, rtol=1e-7
    )
    assert not made.decode_change(0 * change, CHOSEN, x).any()


@pytest.mark.parametrize("act_fn", ["topk", "batchtopk", "groupmax"])
def test_the_learned_threshold_is_in_the_units_that_latents_are_selected_in(act_fn: str) -> None:
    made = trained(Case("sae", act_fn, include_norm=True)).train()
    x = activations(Case("sae", act_fn))[0]
    forward = made.training_pass(*made.normalize(x, x))
    smallest = forward.pre[forward.codes.values != 0].min()  # of the one batch that it has observed
    assert not torch.allclose(smallest, forward.codes.values[forward.codes.values != 0].min(), rtol=0.01)
    torch.testing.assert_close(made.sparsity.threshold, smallest.expand(made.geometry.latents))


@pytest.mark.parametrize("case", every_third(cases()), ids=str)
def test_saving_what_was_loaded_gives_the_same_bytes_and_outputs(case: Case, tmp_path: Path) -> None:
    x, _ = activations(case)
    made, first, second = trained(case), tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    made.save(first)
    loaded = Dictionary.load(first)
    loaded.save(second)
    for file in (CONFIG, WEIGHTS):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.encode(x), made.encode(x))
    assert torch.equal(loaded(x), made(x))


@pytest.mark.parametrize("case", every_third([case for case in cases((False,)) if why_no_fold(case) is None]), ids=str)
def test_a_folded_dictionary_survives_the_disk(case: Case, tmp_path: Path) -> None:
    x, _ = activations(case)
    folded = trained(case).fold_normalizers()
    folded.save(tmp_path)
    torch.testing.assert_close(Dictionary.load(tmp_path)(x), folded(x))
    again = tmp_path / "again"
    again.mkdir()
    Dictionary.load(tmp_path).save(again)
    assert (again / WEIGHTS).read_bytes() == (tmp_path / WEIGHTS).read_bytes()


@pytest.mark.parametrize("case", BY_TOKEN, ids=str)
def test_codes_of_a_token_do_not_depend_on_its_batch_mates(case: Case) -> None:
    made = trained(case, torch.float64)
    x, _ = activations(case, torch.float64)
    alone = torch.cat([made.encode(token) for token in x.split(1)])
    torch.testing.assert_close(made.encode(x), alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", [case for case in cases((True,)) if case.normalization == "none"], ids=str)
def test_selecting_by_norm_is_what_the_formula_says(case: Case) -> None:
    made = trained(case, torch.float64)
    x, _ = activations(case, torch.float64)
    norms = made.geometry.norms()
    torch.testing.assert_close(made.encode(x) * norms, made.sparsity(made.geometry.encode(x) * norms, made.geometry))
