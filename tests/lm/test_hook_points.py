import json
import subprocess
import sys

import pytest
from transformers import AutoConfig

from lmsae.errors import HookPointError, SourceError
from lmsae.lm.families import FAMILIES
from lmsae.lm.hook_points import hook_points, layer_of, locate, max_context, require
from lmsae.lm.huggingface import load

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 12, "n_embd": 768, "n_inner": None, "n_positions": 1024}
PYTHIA = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "max_position_embeddings": 2048,
    "use_parallel_residual": True,
}


def test_the_hook_points_of_gpt2_are_these_and_this_wide():
    layer = {
        "hook_resid_pre": 768,
        "ln1.hook_normalized": 768,
        "attn.hook_z": 768,
        "hook_attn_out": 768,
        "hook_resid_mid": 768,
        "ln2.hook_normalized": 768,
        "mlp.hook_post": 3072,
        "hook_mlp_out": 768,
        "hook_resid_post": 768,
    }
    wanted = [(f"blocks.{i}.{kind}", width) for i in range(2) for kind, width in layer.items()]
    assert list(hook_points(GPT2).items()) == wanted


def test_widths_foretold_from_config_json_are_those_of_real_activations(family, model_folder, tokens):
    config = json.loads((model_folder(family) / "config.json").read_text())
    foretold = hook_points(config)
    read = load(model_folder(family), "float32", "cpu").read(tokens, list(foretold))
    assert {name: tuple(activations.shape) for name, activations in read.items()} == {
        name: (*tokens.shape, width) for name, width in foretold.items()
    }
    assert max_context(config) == (None if family in ("bloom", "mamba") else 64)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_size_that_config_json_leaves_out_is_what_transformers_takes_for_it(model_type):
    # With two heads, hidden_size / heads is no family's own default.
    whole = AutoConfig.for_model(model_type, num_attention_heads=2).to_dict()
    whole = whole.get("text_config", whole) | {"model_type": model_type}
    sparse = {name: value for name, value in whole.items() if name not in ("head_dim", "use_parallel_residual")}
    assert hook_points(sparse) == hook_points(whole)


def test_a_parallel_model_says_why_it_has_no_resid_mid():
    with pytest.raises(HookPointError, match="parallel attention"):
        require("blocks.1.hook_resid_mid", PYTHIA)
    assert require("blocks.1.hook_resid_mid", PYTHIA | {"use_parallel_residual": False}) == 512


def test_a_misspelled_hook_point_is_met_with_the_nearest_names():
    with pytest.raises(HookPointError, match=r"did you mean .*blocks\.3\.hook_resid_post"):
        require("blocks.3.resid_post", PYTHIA)


def test_a_layer_too_far_is_met_with_how_many_there_are():
    with pytest.raises(HookPointError, match=r"6 layers: blocks\.0 to blocks\.5"):
        require("blocks.6.hook_resid_post", PYTHIA)


def test_a_family_without_names_is_met_with_how_to_name_its_modules():
    config = {"model_type": "stablelm", "hidden_size": 8}
    assert hook_points(config) == {}
    with pytest.raises(HookPointError, match=r"family stablelm have no hook point .*: name a module of transformers"):
        require("blocks.0.hook_resid_post", config)
    assert require("model.layers.0", config) == 8
    with pytest.raises(SourceError, match=r"names no model family \(model_type = None\)"):
        hook_points({"hidden_size": 8})


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"model_type": "falcon"}, {"hook_resid_mid", "ln2.hook_normalized"}),
        ({"model_type": "falcon", "new_decoder_architecture": True}, {"hook_resid_mid"}),
        ({"model_type": "falcon", "parallel_attn": False}, set()),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, {"hook_resid_mid"}),
        (
            {"model_type": "bloom", "slow_but_exact": True, "pretraining_tp": 2},
            {"attn.hook_z", "hook_attn_out", "mlp.hook_post", "hook_mlp_out"},
        ),
    ],
)
def test_a_model_lacks_the_hook_points_that_its_config_json_takes_from_it(config, missing):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    there = {name.removeprefix("blocks.0.") for name in hook_points(sizes | config)}
    assert set(FAMILIES["falcon"].hook_points) - there == missing


def test_bloom_and_falcon_are_read_by_the_older_names_of_their_sizes_too():
    config = {"model_type": "bloom", "n_embed": 8, "n_layer": 2, "num_attention_heads": 2}
    assert len(hook_points(config)) == 18
    assert hook_points(config)["blocks.1.mlp.hook_post"] == 32


def test_a_config_json_without_a_size_is_met_with_its_name():
    with pytest.raises(SourceError, match="hidden_size"):
        hook_points({name: value for name, value in PYTHIA.items() if name != "hidden_size"})


def test_a_hook_point_knows_its_layer():
    assert layer_of("blocks.11.attn.hook_z") == 11
    with pytest.raises(HookPointError, match="ln_final"):
        layer_of("ln_final.hook_scale")


def test_planning_needs_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers', 'transformer_lens', 'huggingface_hub'}"
    code = f"import sys, lmsae.lm, lmsae.lm.resolving, lmsae.lm.hook_points; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("transformer.h.1", GPT2, "its output is blocks.1.hook_resid_post and its input is blocks.1.hook_resid_pre"),
        ("h.0.attn.c_proj:in", GPT2, "its input is blocks.0.attn.hook_z"),
        ("gpt_neox.layers.2.mlp", PYTHIA, "its output is blocks.2.hook_mlp_out"),
        ("gpt_neox.layers.2.post_attention_layernorm", PYTHIA, "its output is blocks.2.ln2.hook_normalized"),
    ],
)
def test_the_name_of_a_module_in_transformers_is_answered_with_the_hook_points_there(name, config, said):
    with pytest.raises(HookPointError, match=rf"{name}', which names a module; {said}$"):
        require(name, config)


@pytest.mark.parametrize(
    ("name", "side"),
    [("transformer.h.1.attn.c_attn", "out"), ("transformer.h.1.attn.c_attn:in", "in"), ("transformer.wte", "out")],
)
def test_a_module_that_carries_no_hook_point_is_one_by_its_own_name(name, side):
    assert require(name, GPT2) == 768
    assert locate(name, GPT2) == (name.partition(":")[0], side)


@pytest.mark.parametrize("name", ["blocks.0.attn", "wte", "transformer.h.1:out", "transformer..h", "1.h", "h.1:in:in"])
def test_what_is_no_name_of_a_module_is_no_hook_point(name):
    with pytest.raises(HookPointError, match=rf"has no hook point '{name}'"):
        require(name, GPT2)
