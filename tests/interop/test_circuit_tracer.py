"""Folders of circuit-tracer, as a reader that is written from the description of the format computes them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.interop import circuit_tracer
from lmsae.interop.circuit_tracer import Member, arrange
from tests.interop.circuit_tracer_reader import read_config, read_layers, run_clt, run_layer
from tests.interop.peers import LATENTS, WIDTH, activations, fitted

READ, WRITTEN = "ln2.hook_normalized", "hook_mlp_out"
KINDS: dict[str, dict[str, Any]] = {
    "relu": {"act_fn": "relu", "losses": ("l1",)},
    "jumprelu": {"act_fn": "jumprelu", "losses": ("l0",)},
    "jumprelu of itself": {"act_fn": "jumprelu", "losses": ("l0",), "jumprelu_threshold": "direct"},
    "batchtopk": {"act_fn": "batchtopk", "losses": ("aux_k",)},
}
UNITS = ("none", "dataset", "whiten")


def made(architecture: str, kind: str = "relu", **columns: Any) -> Dictionary:
    return fitted(architecture, out_width=WIDTH, **{**KINDS[kind], **columns})


def member(dictionary: Dictionary, *layers: int, name: str = "mine", model: str = "gpt2") -> Member:
    reads, writes = ([f"blocks.{layer}.{hook}" for layer in layers] for hook in (READ, WRITTEN))
    return Member(name, dictionary.config, model, reads, writes)


def write_set(dictionaries: Sequence[Dictionary], folder: Path) -> Path:
    named = [member(one, layer, name=f"row {layer}") for layer, one in enumerate(dictionaries)]
    arrangement = arrange(named[::-1], len(named))  # in whatever order they are named
    for layer, one in enumerate(arrangement.members):
        assert one.name == f"row {layer}"
        circuit_tracer.write_layer(dictionaries[layer], layer, folder, has_skip=arrangement.has_skip)
    circuit_tracer.write_config(arrangement, folder, "my-set")
    return folder


def assert_close(found: np.ndarray, wanted: torch.Tensor) -> None:
    np.testing.assert_allclose(found, wanted.double().numpy(), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder"])
def test_a_set_computes_the_same_codes_and_outputs(tmp_path: Path, architecture: str, kind: str, unit: str) -> None:
    ours = [made(architecture, kind, normalize_activations=unit), made(architecture)]
    folder, x = write_set(ours, tmp_path), activations()
    for weights, one in zip(read_layers(folder), ours, strict=True):
        codes, output = run_layer(weights, x.double().numpy())
        assert 0 < (codes != 0).mean() < 1
        assert_close(codes, one.encode(x))
        assert_close(output, one(x))
    assert read_config(folder) == {
        "model_kind": "transcoder_set",
        "model_name": "gpt2",
        "feature_input_hook": READ,
        "feature_output_hook": WRITTEN,
        "scan": "my-set",
    }


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", [*KINDS, "batchlayertopk"])
def test_a_clt_computes_the_same_codes_and_outputs_at_every_layer(tmp_path: Path, kind: str, unit: str) -> None:
    columns = KINDS.get(kind) or {"act_fn": kind, "losses": ("aux_k",)}
    ours = fitted("clt", out_width=WIDTH, normalize_activations=unit, **columns)
    arrangement = arrange([member(ours, 0, 1)], 2)
    circuit_tracer.write_clt(ours, tmp_path)
    circuit_tracer.write_config(arrangement, tmp_path, "mine")
    x = torch.cat([activations(), activations().flip(0)], dim=1)
    codes, outputs = run_clt(tmp_path, list(np.split(x.double().numpy(), 2, axis=1)))
    assert_close(np.concatenate(codes, 1), ours.encode(x))
    assert_close(np.concatenate(outputs, 1), ours(x))
    assert read_config(tmp_path)["model_kind"] == "cross_layer_transcoder"


def test_latents_selected_by_norm_have_their_norms_in_the_codes(tmp_path: Path) -> None:
    ours = made("transcoder", "jumprelu", sparsity_include_decoder_norm=True)
    (weights,), x = read_layers(write_set([ours], tmp_path)), activations()
    codes, output = run_layer(weights, x.double().numpy())
    assert_close(codes, ours.encode(x) * ours.geometry.norms())
    assert_close(output, ours(x))


def test_a_transcoder_beside_skip_transcoders_has_a_skip_of_zeros(tmp_path: Path) -> None:
    ours = [made("transcoder"), made("skip_transcoder")]
    layers = read_layers(write_set(ours, tmp_path))
    assert [weights["W_skip"].any() for weights in layers] == [False, True]
    assert_close(run_layer(layers[0], activations().double().numpy())[1], ours[0](activations()))


def test_relu_is_written_without_thresholds(tmp_path: Path) -> None:
    layers = read_layers(write_set([made("transcoder"), made("transcoder", "jumprelu")], tmp_path))
    assert ["activation_function.threshold" in weights for weights in layers] == [False, True]
    assert layers[1]["activation_function.threshold"].shape == (LATENTS,)


@pytest.mark.parametrize(
    ("architecture", "columns", "why"),
    [
        ("topk", {}, "this is a sae. Train one that reads what the MLP reads"),
        ("lorsa", {}, "this is a lorsa"),
        ("transcoder", {}, "this is topk. --convert writes it as a jumprelu"),
        ("transcoder", {"act_fn": "gated", "losses": ("gated_aux",)}, "gated cannot be a jumprelu: it learns no thres"),
        ("transcoder", {"act_fn": "relu", "losses": ("l1",), "glu_encoder": True}, "no gate on the encoder"),
    ],
)
def test_kinds_without_a_counterpart_are_refused(architecture: str, columns: dict[str, Any], why: str) -> None:
    config = fitted(architecture, out_width=WIDTH, **columns).config
    with pytest.raises(ExportError, match=rf"mine: .*{why}"):
        arrange([Member("mine", config, "gpt2", [f"blocks.0.{READ}"], [f"blocks.0.{WRITTEN}"])], 1)


@pytest.mark.parametrize("unit", ["token", "layer_norm"])
def test_scales_of_each_token_are_refused(tmp_path: Path, unit: str) -> None:
    with pytest.raises(ExportError, match="every token is divided by a number of its own"):
        write_set([made("transcoder", normalize_activations=unit)], tmp_path)


def test_every_layer_of_the_model_has_one_dictionary() -> None:
    one = made("transcoder")
    with pytest.raises(ExportError, match=r"each of the model's 4 layers, .* for layer 1, 3\. Add rows"):
        arrange([member(one, 0), member(one, 2)], 4)
    with pytest.raises(ExportError, match="layer 1 has a and b"):
        arrange([member(one, 0), member(one, 1, name="a"), member(one, 1, name="b")], 2)
    with pytest.raises(ExportError, match=r"layer 2, 3\."):
        arrange([member(fitted("clt", out_width=WIDTH, **KINDS["relu"]), 0, 1)], 4)


def test_what_does_not_make_one_set_is_refused() -> None:
    one, clt = made("transcoder"), fitted("clt", out_width=WIDTH, **KINDS["relu"])
    here = member(one, 0)
    wide = replace(member(one, 1), config=one.config.model_copy(update={"d_sae": 2 * LATENTS}))
    for others, why in [
        ([member(one, 1, model="other")], "has one model for all layers, and these have gpt2 and other"),
        ([replace(member(one, 1), reads=["blocks.1.hook_resid_mid"])], "has one hook point to read for all layers"),
        ([replace(member(one, 1), writes=["blocks.0.hook_mlp_out"])], "mine reads layer 1 and writes layer 0"),
        ([wide], f"these have {LATENTS} latents of width {WIDTH} and {2 * LATENTS} latents"),
        ([member(clt, 0, 1)], "folder of its own"),
    ]:
        with pytest.raises(ExportError, match=why):
            arrange([*others, here] if "folder of its own" in why else [here, *others], 2)
    with pytest.raises(ExportError, match="mine reads layer 1 as its number 0; wanted: layers in order"):
        arrange([member(clt, 1, 0)], 2)
    narrow = fitted("transcoder", **KINDS["relu"])
    with pytest.raises(ExportError, match="one width for all hook points"):
        arrange([member(narrow, 0)], 1)
