"""What the real SAELens computes from an exported folder, beside what lmsae computes."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lmsae.dictionary.as_jumprelu import convert_to_jumprelu
from lmsae.errors import ExportError, FolderError
from lmsae.interop.saelens import ARCHITECTURES, export, load, obstacle
from lmsae.lm.resolving import resolve, weights_folder
from lmsae.planning.catalog import CATALOG
from tests.interop.peers import (
    LATENTS,
    MADE,
    NORMALIZATIONS,
    OUT_WIDTH,
    PROVENANCE,
    REFUSED_UNITS,
    WIDTH,
    activations,
    assert_computes_the_same,
    assert_same,
    exported,
    fitted,
    made_as,
    rewritten,
    saelens,
)

JUMPRELU_FIRST = "make it a jumprelu first: `lmsae convert KEY FOLDER`"
STAY = r"open it with lmsae instead: Dictionary.load\(folder\)"
REFUSED = {
    "groupmax": f"no sae with groupmax, .*; {JUMPRELU_FIRST}",
    "transcoder": f"no transcoder with topk, only with relu, jumprelu; {JUMPRELU_FIRST}",
    "skip_transcoder": f"no skip_transcoder with topk, only with relu, jumprelu; {JUMPRELU_FIRST}",
    "crosscoder": f"has no crosscoder; {STAY}",
    "clt": f"has no clt; {STAY}",
    "lorsa": f"has no lorsa; {STAY}",
    "molt": f"has no molt; {STAY}",
}
"""Entries of the catalog that SAELens cannot compute, and what the refusal says. A new entry stands here or in MADE."""
EVERY = pytest.mark.parametrize("name", MADE)
UNITS = list(product(MADE, NORMALIZATIONS))


def refusal(name: str, normalization: str) -> str | None:
    return next((said for pattern, said in REFUSED_UNITS.items() if fnmatch(f"{name}/{normalization}", pattern)), None)


def files(folder: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_every_architecture_of_the_catalog_is_exported_or_refused_here() -> None:
    assert CATALOG.keys() == {name for name in MADE if "-" not in name} | REFUSED.keys()
    assert not MADE.keys() & REFUSED.keys()


def test_every_architecture_of_saelens_is_compared_here_but_temporal() -> None:
    from sae_lens.registry import SAE_CLASS_REGISTRY

    assert SAE_CLASS_REGISTRY.keys() == ARCHITECTURES.keys() | {"temporal"}
    assert {theirs for theirs, _ in MADE.values()} == ARCHITECTURES.keys()


@pytest.mark.parametrize(("name", "normalization"), [unit for unit in UNITS if refusal(*unit) is None])
def test_saelens_computes_the_same_codes_and_outputs(tmp_path: Path, name: str, normalization: str) -> None:
    ours = made_as(name, normalize_activations=normalization)
    theirs = saelens(exported(ours, tmp_path))
    assert theirs.cfg.architecture() == MADE[name][0]
    # Rows that are also the encoder keep norm 1, and codes take the scale.
    scaled = (name, normalization) == ("matching_pursuit", "dataset")
    assert_computes_the_same(theirs, ours, 1 / ours.read.affine().scale[0] if scaled else 1.0)


@pytest.mark.parametrize(("name", "normalization"), [unit for unit in UNITS if refusal(*unit)])
def test_a_normalization_that_saelens_cannot_compute_is_refused(tmp_path: Path, name: str, normalization: str) -> None:
    with pytest.raises(ExportError, match=f"{refusal(name, normalization)}.*; {STAY}"):
        exported(made_as(name, normalize_activations=normalization), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("name", [name for name in MADE if name not in ("gated", "matching_pursuit")])
def test_latents_selected_by_norm_have_their_norms_in_saelens_codes(tmp_path: Path, name: str) -> None:
    ours = made_as(name, sparsity_include_decoder_norm=True)
    assert_computes_the_same(saelens(exported(ours, tmp_path)), ours, ours.geometry.norms())


@pytest.mark.parametrize("name", ["standard_new", "gated", "topk", "abstopk", "jumprelu", "batchtopk"])
@pytest.mark.parametrize("option", [{"apply_b_dec_to_input": False}, {"tied_encoder": True}], ids=str)
def test_options_of_an_sae_are_kept_or_folded(tmp_path: Path, name: str, option: dict[str, Any]) -> None:
    ours = made_as(name, **option)
    assert_computes_the_same(saelens(exported(ours, tmp_path)), ours)


@EVERY
@pytest.mark.parametrize("normalization", ["none", "dataset", "token"])
def test_load_gives_back_what_was_written_and_writing_it_again_gives_the_same_bytes(
    tmp_path: Path, name: str, normalization: str
) -> None:
    ours, density = made_as(name, normalize_activations=normalization), torch.linspace(0, 1, LATENTS)
    if obstacle(ours.config):
        assert refusal(name, normalization)
        return
    export(ours, tmp_path / "first", provenance=PROVENANCE, density=density)
    again = load(tmp_path / "first")
    export(again, tmp_path / "second", provenance=PROVENANCE, density=density)
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert again.config.act_fn.kind == ours.config.act_fn.kind
    assert_same(again(activations()), ours(activations()))
    if normalization == "none":  # nothing is folded, and so nothing is rounded: thresholds least of all
        assert torch.equal(again.encode(activations()), ours.encode(activations()))


@EVERY
@pytest.mark.parametrize("normalization", ["none", "token"])
def test_a_folder_of_saelens_computes_here_what_it_computes_there(
    tmp_path: Path, name: str, normalization: str
) -> None:
    ours = made_as(name, normalize_activations=normalization)
    if obstacle(ours.config):
        assert refusal(name, normalization)
        return
    saelens(exported(ours, tmp_path / "ours")).save_model(tmp_path / "theirs")
    folder = rewritten(tmp_path / "theirs")
    assert_computes_the_same(saelens(folder), load(folder))


def test_a_topk_dictionary_that_is_refused_can_be_converted_and_exported(tmp_path: Path) -> None:
    for name in ("groupmax", "transcoder", "skip_transcoder"):
        converted = convert_to_jumprelu(fitted(name))
        assert_computes_the_same(saelens(exported(converted, tmp_path / name)), converted)


@pytest.mark.parametrize("name", ["batchtopk", "jumprelu"])
def test_a_latent_exactly_at_its_threshold_is_silent_in_both(tmp_path: Path, name: str) -> None:
    ours: Any = made_as(name, normalize_activations="none")
    for weight in (ours.geometry.W_enc, ours.geometry.b_enc, ours.geometry.b_dec):
        weight.zero_()
    ours.geometry.W_enc[0] = 1.0
    at, above = ours.sparsity.threshold[0], torch.nextafter(ours.sparsity.threshold[0], torch.tensor(torch.inf))
    x = torch.zeros(2, WIDTH)
    x[:, 0] = torch.stack([at, above])
    theirs = saelens(exported(ours, tmp_path))
    with torch.inference_mode():
        assert (ours.encode(x)[:, 0] != 0).tolist() == [False, True]
        assert (theirs.encode(x)[:, 0] != 0).tolist() == [False, True]


@pytest.mark.parametrize("name", ["topk", "abstopk"])
def test_selection_that_saelens_rescales_by_decoder_norms_is_read_exactly(tmp_path: Path, name: str) -> None:
    folder = rewritten(exported(made_as(name), tmp_path), rescale_acts_by_decoder_norm=True)
    assert_computes_the_same(saelens(folder), load(folder))


def test_decoder_rows_keep_their_norms(tmp_path: Path) -> None:
    ours = made_as("topk", normalize_activations="none")
    exported(ours, tmp_path)
    assert torch.equal(load_file(tmp_path / "sae_weights.safetensors")["W_dec"], cast(Tensor, ours.geometry.W_dec))


def test_matching_pursuit_keeps_its_unit_rows_in_any_units(tmp_path: Path) -> None:
    exported(made_as("matching_pursuit", normalize_activations="dataset"), tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    assert weights.keys() == {"W_dec", "b_dec"}
    assert_same(weights["W_dec"].norm(dim=1), torch.ones(LATENTS))


def test_the_folder_says_where_the_dictionary_comes_from(tmp_path: Path) -> None:
    export(made_as("topk"), tmp_path, provenance=PROVENANCE, density=torch.tensor([0.0, 1.0] * 12))
    metadata = saelens(tmp_path).cfg.metadata
    assert {name: metadata[name] for name in PROVENANCE} == PROVENANCE
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["k"], config["normalize_activations"]) == ("topk", 4, "none")
    sparsity = load_file(tmp_path / "sparsity.safetensors")["sparsity"]
    assert_same(sparsity[:2], torch.tensor([-10.0, 0.0]))


def test_a_transcoder_says_both_its_widths_and_where_saelens_puts_its_output(tmp_path: Path) -> None:
    theirs = saelens(exported(made_as("transcoder-relu"), tmp_path))
    assert (theirs.cfg.d_in, theirs.cfg.d_out, theirs.cfg.apply_b_dec_to_input) == (WIDTH, OUT_WIDTH, False)
    assert theirs.cfg.metadata.hook_name_out == PROVENANCE["hook_name_out"]


@pytest.mark.parametrize("normalization", ["dataset", "token"])
def test_saelens_flattens_attention_heads_as_lmsae_does(tmp_path: Path, normalization: str) -> None:
    ours = made_as("topk", normalize_activations=normalization)
    theirs = saelens(exported(ours, tmp_path, hook_name="blocks.0.attn.hook_z"))
    heads = activations(count=6).view(2, 3, 2, WIDTH // 2)
    with torch.inference_mode():
        assert_same(theirs(heads), ours(heads.flatten(2)).view_as(heads))


@pytest.mark.parametrize("name", REFUSED)
def test_what_saelens_has_not_is_refused_with_what_to_do_instead(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=REFUSED[name]):
        exported(fitted(name), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("topk", {"glu_encoder": True}, rf"no gate on the encoder \(glu_encoder\); {STAY}"),
        ("transcoder-relu", {"glu_encoder": True}, "no gate on the encoder"),
        ("transcoder-relu", {"act_fn": "gated", "losses": ("gated_aux",)}, f"no transcoder with gated, .*; {STAY}"),
        ("transcoder-relu", {"act_fn": "abstopk", "losses": ()}, f"no transcoder with abstopk, .*; {STAY}"),
        ("matching_pursuit", {"apply_b_dec_to_input": False}, f"leaves b_dec out where .*; {STAY}"),
        ("gated", {"apply_b_dec_to_input": False, "normalize_activations": "whiten"}, "has no b_enc to take up"),
    ],
)
def test_an_option_that_saelens_has_not_is_refused_by_name(
    tmp_path: Path, name: str, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        exported(made_as(name, **columns), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_matching_pursuit_with_an_encoder_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="this one has an encoder of its own"):
        exported(made_as("matching_pursuit").fold_normalizers(), tmp_path)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("topk", {"architecture": "temporal"}, "standard, gated, topk, .*; this is 'temporal'"),
        ("topk", {"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ("topk", {"normalize_activations": "expected_average_only_in"}, "whose scale is folded into the weights"),
        ("topk", {"metadata": {"sae_lens_version": "5.9.1"}}, "older than SAELens 6; .* save it again"),
        ("topk", {"metadata": {}}, "older than SAELens 6"),
        ("skip_transcoder-relu", {"normalize_activations": "constant_norm_rescale"}, "W_skip reads tokens as they are"),
        ("matching_pursuit", {"stop_on_duplicate_support": True}, r"has stop_on_duplicate_support False, and .* True"),
        ("matching_pursuit", {"residual_threshold": 0.01}, r"has residual_threshold 0.0, and .* 0.01"),
        ("standard", {"architecture": "jumprelu"}, "jumprelu has the weights .*threshold, but"),
    ],
)
def test_a_folder_without_counterpart_is_refused_with_the_reason(
    tmp_path: Path, name: str, fields: dict[str, Any], message: str
) -> None:
    folder = rewritten(exported(made_as(name), tmp_path), **fields)
    with pytest.raises(FolderError, match=message):
        load(folder)


def test_a_matching_pursuit_without_a_number_of_steps_takes_as_many_as_there_are_dimensions(tmp_path: Path) -> None:
    folder = rewritten(exported(made_as("matching_pursuit"), tmp_path), max_iterations=None)
    assert_computes_the_same(saelens(folder), load(folder))


def test_a_negative_threshold_of_others_acts_as_relu(tmp_path: Path) -> None:
    folder = rewritten(exported(made_as("jumprelu"), tmp_path))
    weights = load_file(folder / "sae_weights.safetensors")
    save_file({**weights, "threshold": weights["threshold"] * -1}, folder / "sae_weights.safetensors")
    with torch.inference_mode():
        assert_same(load(folder)(activations()), saelens(folder)(activations()))


def test_a_token_of_zeros_is_no_number_in_saelens_and_stays_small_here(tmp_path: Path) -> None:
    # The one input on which an exported dictionary differs: SAELens divides it by its norm, 0.
    ours = made_as("topk", normalize_activations="token")
    with torch.inference_mode():
        assert ours(torch.zeros(1, WIDTH)).abs().max() < 1e-4
        assert saelens(exported(ours, tmp_path))(torch.zeros(1, WIDTH)).isnan().all()


def notes(folder: Path) -> str:
    return (folder / "notes.txt").read_text()


def test_the_folder_says_what_differs_there(tmp_path: Path) -> None:
    plain, token, heads = (tmp_path / name for name in ("plain", "token", "heads"))
    exported(made_as("topk"), plain)
    exported(made_as("topk", normalize_activations="token"), token)
    exported(made_as("topk"), heads, hook_name="blocks.0.attn.hook_z")
    assert ("NaN" in notes(plain), "n_heads" in notes(plain)) == (False, False)
    assert ("NaN" in notes(token), "n_heads" in notes(token)) == (True, False)
    assert ("NaN" in notes(heads), "n_heads" in notes(heads)) == (False, True)
    assert all("run_with_hooks" in notes(folder) for folder in (plain, token, heads))


def test_saelens_takes_flat_heads_once_it_is_told_so(tmp_path: Path) -> None:
    ours = made_as("topk")
    theirs = saelens(exported(ours, tmp_path, hook_name="blocks.0.attn.hook_z"))
    flat = activations(count=6)
    with torch.inference_mode():
        with pytest.raises(RuntimeError):
            theirs(flat)
        theirs.turn_off_forward_pass_hook_z_reshaping()
        assert_same(theirs(flat), ours(flat))


@pytest.mark.parametrize("kind", ["hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_z"])
def test_saelens_bridge_calls_hooks_of_these_names_in_compatibility_mode_alone(kind: str) -> None:
    from sae_lens import SAETransformerBridge

    folder, met = str(weights_folder(resolve("builtin:stdlib-4m"))), []
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    bridge: Any = SAETransformerBridge.boot_transformers(folder, device="cpu", hf_model=model)
    hooks = [(f"blocks.1.{kind}", lambda value, hook: met.append(value))]
    with torch.inference_mode():
        bridge.run_with_hooks(torch.arange(2, 10)[None], fwd_hooks=hooks)
        assert met == []
        bridge.enable_compatibility_mode(no_processing=True)
        bridge.run_with_hooks(torch.arange(2, 10)[None], fwd_hooks=hooks)
    assert len(met) == 1
