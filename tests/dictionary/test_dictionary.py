"""A dictionary reads and writes raw activations, folds without a change, and comes back from disk as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmsae.catalog import CATALOG
from lmsae.dictionary.dictionary import CONFIG, WEIGHTS, Dictionary
from tests.architectures import parts, randomise

WIDTH, D_SAE = 6, 20
X = torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(1)) * 10


def trained(name: str, scale_in: float = 0.1, scale_out: float = 0.1, subtract: bool = True) -> Dictionary:
    """Random weights, thresholds of its own for every latent, and statistics as training leaves them."""
    made = randomise(Dictionary(parts(name, WIDTH, D_SAE, apply_b_dec_to_input=subtract)[0]))
    made.set_scales(scale_in, scale_out)
    with torch.no_grad():
        for _, parameter in made.sparsity.named_parameters():
            parameter.copy_(torch.linspace(-2.0, 0.0, D_SAE))
    made.sparsity.observe(made.train().encode(X))
    return made.eval()


@pytest.mark.parametrize("name", CATALOG)
def test_it_works_in_the_units_of_training_and_speaks_raw_activations(name: str) -> None:
    made = trained(name, 0.25, 0.5)
    forward = made.training_pass(X * 0.25, X * 0.5)
    assert torch.equal(made.encode(X), forward.codes)
    assert torch.equal(made(X), forward.reconstruction / 0.5)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize(("scale_in", "scale_out"), [(1.0, 1.0), (0.1, 0.1), (0.3, 0.05), (2.0, 30.0)])
@pytest.mark.parametrize("name", CATALOG)
def test_folding_changes_neither_codes_nor_outputs(
    name: str, scale_in: float, scale_out: float, subtract: bool
) -> None:
    made = trained(name, scale_in, scale_out, subtract).double()
    folded, x = _folded_in_float64(made), X.double()
    codes = made.encode(x)
    assert (folded.scale_in.item(), folded.scale_out.item()) == (1, 1)
    assert 0 < (codes != 0).sum() < codes.numel()
    torch.testing.assert_close(folded.encode(x), codes, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(folded(x), made(x), rtol=1e-10, atol=1e-10)


def _folded_in_float64(made: Dictionary) -> Dictionary:
    torch.set_default_dtype(torch.float64)
    try:
        return made.folded()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", CATALOG)
def test_a_folded_copy_is_a_copy_in_the_same_mode(name: str) -> None:
    made = trained(name)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    folded = made.folded()
    with torch.no_grad():
        folded.geometry.W_dec.zero_()
    assert not folded.training
    assert made.train().folded().training
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


@pytest.mark.parametrize("name", CATALOG)
def test_what_is_loaded_gives_the_outputs_of_what_was_saved(name: str, tmp_path: Path) -> None:
    made = trained(name)
    made.save(tmp_path)
    loaded = Dictionary.load(tmp_path)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.encode(X), made.encode(X))
    assert torch.equal(loaded(X), made(X))


@pytest.mark.parametrize("name", CATALOG)
def test_saving_what_was_loaded_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    trained(name).save(first)
    Dictionary.load(first).save(second)
    for file in (CONFIG, WEIGHTS):
        assert (first / file).read_bytes() == (second / file).read_bytes()


@pytest.mark.parametrize("name", CATALOG)
def test_a_folded_dictionary_survives_the_disk(name: str, tmp_path: Path) -> None:
    made = trained(name)
    made.folded().save(tmp_path)
    torch.testing.assert_close(Dictionary.load(tmp_path)(X), made(X), rtol=1e-4, atol=1e-3)


def test_the_learned_threshold_is_part_of_what_is_saved(tmp_path: Path) -> None:
    made = trained("batchtopk")
    made.save(tmp_path)
    learned: Any = made.sparsity
    loaded: Any = Dictionary.load(tmp_path).sparsity
    assert loaded.threshold.item() == learned.threshold.item() > 0


@pytest.mark.parametrize("name", CATALOG)
def test_codes_of_a_token_do_not_depend_on_its_batch_mates(name: str) -> None:
    made = trained(name).double()
    x = X.double()
    alone = torch.cat([made.encode(token) for token in x.split(1)])
    torch.testing.assert_close(made.encode(x), alone, rtol=0, atol=1e-12)
