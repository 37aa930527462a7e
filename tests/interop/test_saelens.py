"""What the real SAELens computes from an exported folder, beside what lmsae computes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsae.catalog import CATALOG, SaeSection, resolve, with_defaults
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.interop.saelens import export, load

WIDTH, LATENTS = 6, 24
# What each architecture needs beside its name. A new entry of the catalog must be added, and so is exported or refused.
PIECES: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 1.0},
    "standard_new": {"l1_coefficient": 1.0},
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "jumprelu": {"l0_coefficient": 1.0},
}
PROVENANCE = {
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_post",
    "context_size": 8,
    "prepend_bos": True,
    "dataset_path": "some-text",
    "lmsae_artifact": "train/0123456789abcdef",
}
EVERY = pytest.mark.parametrize("architecture", PIECES)


def dictionary(architecture: str, *, apply_b_dec_to_input: bool = True, scale: float = 1.0) -> Dictionary:
    """A dictionary with random weights, thresholds and bias, as the catalog makes it."""
    given = {**PIECES[architecture], "apply_b_dec_to_input": apply_b_dec_to_input}
    values = with_defaults({"hook_point": "blocks.0.hook_resid_post", "architecture": architecture, "d_sae": LATENTS})
    section = SaeSection(**{name: value for name, value in values.items() if name in SaeSection.model_fields})
    config, _ = resolve(section, given, frozenset(given), WIDTH)
    made = Dictionary(config)
    generator = torch.Generator().manual_seed(len(architecture))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            shift = -1.0 if name == "sparsity.log_threshold" else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 + shift)
        made.sparsity.observe(torch.full((1, LATENTS), 0.35))
    made.set_scales(scale, scale)
    return made.eval().requires_grad_(False)


def saelens(folder: Path) -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(folder)


def activations(count: int = 64) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(7))


def assert_same(found: Tensor, wanted: Tensor) -> None:
    # Both round in float32, in another order.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def files(folder: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_every_architecture_of_the_catalog_is_exported_or_refused_here() -> None:
    assert PIECES.keys() == CATALOG.keys()


@EVERY
@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
def test_saelens_computes_the_same_codes_and_reconstruction(
    tmp_path: Path, architecture: str, scale: float, apply_b_dec_to_input: bool
) -> None:
    ours = dictionary(architecture, apply_b_dec_to_input=apply_b_dec_to_input, scale=scale)
    export(ours, tmp_path, provenance=PROVENANCE, density=None)
    theirs = saelens(tmp_path)
    x = activations()
    with torch.inference_mode():
        codes = ours.encode(x)
        assert 0 < (codes != 0).float().mean() < 1
        assert_same(theirs.encode(x), codes)
        assert_same(theirs(x), ours(x))


@EVERY
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_load_gives_back_the_dictionary_and_saving_it_again_gives_the_same_bytes(
    tmp_path: Path, architecture: str, scale: float
) -> None:
    density = torch.linspace(0, 1, LATENTS)
    ours = dictionary(architecture, scale=scale)
    export(ours, tmp_path / "first", provenance=PROVENANCE, density=density)
    again = load(tmp_path / "first")
    export(again, tmp_path / "second", provenance=PROVENANCE, density=density)
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert again.config == ours.config
    assert_same(again(activations()), ours(activations()))


@EVERY
def test_a_folder_without_metadata_of_lmsae_computes_what_saelens_does(tmp_path: Path, architecture: str) -> None:
    export(dictionary(architecture), tmp_path, provenance=PROVENANCE, density=None)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["metadata"]["lmsae_dictionary"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with torch.inference_mode():
        assert_same(load(tmp_path)(activations()), saelens(tmp_path)(activations()))


@pytest.mark.parametrize("architecture", ["batchtopk", "jumprelu"])
def test_a_latent_exactly_at_its_threshold_is_silent_in_both(tmp_path: Path, architecture: str) -> None:
    ours = dictionary(architecture)
    with torch.no_grad():
        for weight in (ours.geometry.W_enc, ours.geometry.b_enc, ours.geometry.b_dec):
            weight.zero_()
        ours.geometry.W_enc[0] = 1.0
    threshold = cast(Tensor, ours.sparsity.threshold).expand(LATENTS)
    at, above = threshold[0].item(), torch.nextafter(threshold[0], torch.tensor(torch.inf)).item()
    x = torch.zeros(2, WIDTH)
    x[:, 0] = torch.tensor([at, above])
    export(ours, tmp_path, provenance=PROVENANCE, density=None)
    with torch.inference_mode():
        assert (ours.encode(x)[:, 0] != 0).tolist() == [False, True]
        assert (saelens(tmp_path).encode(x)[:, 0] != 0).tolist() == [False, True]


def test_topk_that_saelens_rescales_by_decoder_norms_is_read_exactly(tmp_path: Path) -> None:
    export(dictionary("topk"), tmp_path, provenance=PROVENANCE, density=None)
    config = json.loads((tmp_path / "cfg.json").read_text())
    config["rescale_acts_by_decoder_norm"] = True
    del config["metadata"]["lmsae_dictionary"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with torch.inference_mode():
        theirs = saelens(tmp_path)
        assert_same(load(tmp_path).encode(activations()), theirs.encode(activations()))
        assert_same(load(tmp_path)(activations()), theirs(activations()))


def test_decoder_rows_keep_their_norms(tmp_path: Path) -> None:
    ours = dictionary("topk")
    export(ours, tmp_path, provenance=PROVENANCE, density=None)
    assert torch.equal(load_file(tmp_path / "sae_weights.safetensors")["W_dec"], ours.geometry.W_dec)


def test_the_folder_says_where_the_dictionary_comes_from(tmp_path: Path) -> None:
    export(dictionary("topk", scale=0.37), tmp_path, provenance=PROVENANCE, density=torch.tensor([0.0, 1.0] * 12))
    metadata = saelens(tmp_path).cfg.metadata
    assert {name: metadata[name] for name in PROVENANCE} == PROVENANCE
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["k"], config["normalize_activations"]) == ("topk", 4, "none")
    sparsity = load_file(tmp_path / "sparsity.safetensors")["sparsity"]
    assert_same(sparsity[:2], torch.tensor([-10.0, 0.0]))


def test_saelens_flattens_attention_heads_as_lmsae_does(tmp_path: Path) -> None:
    ours = dictionary("topk")
    export(ours, tmp_path, provenance={**PROVENANCE, "hook_name": "blocks.0.attn.hook_z"}, density=None)
    heads = activations(6).view(2, 3, 2, WIDTH // 2)
    with torch.inference_mode():
        assert_same(saelens(tmp_path)(heads), ours(heads.flatten(2)).view_as(heads))


def test_two_different_scales_are_refused_with_both_numbers(tmp_path: Path) -> None:
    ours = dictionary("topk")
    ours.set_scales(1.0, 0.37)
    with pytest.raises(ExportError, match=r"read at 1 and written at 0\.37"):
        export(ours, tmp_path, provenance=PROVENANCE, density=None)
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("architecture", "gated", "standard, topk, jumprelu; this is 'gated'"),
        ("normalize_activations", "layer_norm", "normalize_activations is 'layer_norm'"),
    ],
)
def test_a_folder_without_counterpart_is_refused_with_the_reason(
    tmp_path: Path, field: str, value: str, message: str
) -> None:
    export(dictionary("topk"), tmp_path, provenance=PROVENANCE, density=None)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ExportError, match=message):
        load(tmp_path)


def test_a_negative_threshold_of_others_acts_as_relu(tmp_path: Path) -> None:
    export(dictionary("jumprelu"), tmp_path, provenance=PROVENANCE, density=None)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "threshold": weights["threshold"] * -1}, tmp_path / "sae_weights.safetensors")
    with torch.inference_mode():
        assert_same(load(tmp_path)(activations()), saelens(tmp_path)(activations()))
