"""Weights of a layer as dictionaries take them over, against what the model itself computes at its hook points."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import SourceError
from lmsae.geometry.config import LorsaConfig
from lmsae.geometry.lorsa import Lorsa
from lmsae.initialization.config import FROM_MODEL
from lmsae.initialization.from_model import Heads, Neurons
from lmsae.initialization.layer_weights import STANDS_FOR, fault, layer_weights
from lmsae.lm import huggingface, transformerlens
from lmsae.lm.hook_points import head_sizes
from lmsae.planning.catalog import GEOMETRIES
from tests.architectures import parts
from tests.lm.conftest import BRIDGED, CONFIGS, NOT_BRIDGED

BACKENDS = {"huggingface": huggingface, "transformerlens": transformerlens}
POST_NORMS = ("gemma2", "gemma3_text", "gemma3", "olmo2", "opt_post_norm", "mamba")
CLOSED = {
    "mlp": (*POST_NORMS, "mixtral", "qwen3_moe"),
    "attention": (*POST_NORMS, "qwen3", "qwen3_moe", "bloom", "falcon_sequential"),
}
OPEN = {
    part: [
        (backend, family)
        for family in CONFIGS
        if family not in closed
        for backend in BACKENDS
        if backend == "huggingface" or family in BRIDGED
    ]
    for part, closed in CLOSED.items()
}
ONE_NORM = ("phi", "falcon")
WIDTH, LAYER = 32, 2  # gpt_neo's layers 0 and 2 look at all positions, layer 1 at near ones only
TOLERANCE: dict[str, Any] = {"atol": 3e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def models(model_folder):
    made = {}

    def model(name, family):
        if (name, family) not in made:
            made[name, family] = BACKENDS[name].load(model_folder(family), "float32", "cpu")
        return made[name, family]

    return model


def at(kind: str) -> str:
    return f"blocks.{LAYER}.{kind}"


def dictionary(kind: str, config: dict, **columns) -> DictionaryConfig:
    """A dictionary that may take over the layer; a lorsa has a latent for each dimension of the heads' values."""
    if kind != "lorsa":
        return parts(kind, WIDTH, 48, **columns)[0]
    n_heads, d_head = head_sizes(config)
    rotary = config.get("rope_parameters") or {}
    sizes = {"lorsa_qk_heads": n_heads, "lorsa_d_qk": d_head, "lorsa_rotary": bool(rotary)}
    if rotary:
        sizes["lorsa_rotary_dim"] = int(d_head * rotary.get("partial_rotary_factor", 1))
        sizes["lorsa_rotary_base"] = rotary["rope_theta"]
    return with_geometry(parts("lorsa", WIDTH, n_heads * d_head)[0], **sizes | columns)


def with_geometry(config: DictionaryConfig, **columns) -> DictionaryConfig:
    geometry = {**config.geometry.model_dump(), **columns}
    return DictionaryConfig.model_validate({**config.model_dump(), "geometry": geometry})


def test_the_geometries_that_start_from_a_model_are_those_that_rows_may_ask_it_for() -> None:
    assert STANDS_FOR.keys() == FROM_MODEL.keys() <= GEOMETRIES.keys()


@pytest.mark.parametrize(("backend", "of"), OPEN["mlp"])
def test_neurons_compute_what_the_mlp_does(backend, models, of, tokens) -> None:
    model = models(backend, of)
    neurons = layer_weights(model, LAYER, dictionary("transcoder", model.config))
    assert isinstance(neurons, Neurons)
    norm = "ln1" if of in ONE_NORM else "ln2"
    read = model.read(tokens, [at(f"{norm}.hook_normalized"), at("mlp.hook_post"), at("hook_mlp_out")])
    x, hidden, out = read.values()
    torch.testing.assert_close(hidden @ neurons.W_out + neurons.b_out, out, **TOLERANCE)
    torch.testing.assert_close(hidden_of(of, neurons, x, model.weights), hidden, **TOLERANCE)


def hidden_of(family: str, neurons: Neurons, x: Tensor, weights) -> Tensor:
    """The MLP's hidden layer by its formula: act(x W_in + b_in), of gated MLPs times what is let through."""
    pre, functional = x @ neurons.W_in + neurons.b_in, torch.nn.functional
    up = weights.get(f"model.layers.{LAYER}.mlp.up_proj.weight")
    if family == "phi3":
        up = weights[f"model.layers.{LAYER}.mlp.gate_up_proj.weight"].chunk(2)[1]
    if family == "opt":
        return pre.relu()
    if up is None:
        return functional.gelu(pre, approximate="none" if family.startswith(("gpt_neox", "falcon")) else "tanh")
    act = functional.gelu(pre, approximate="tanh") if family == "gemma" else functional.silu(pre)
    return act * (x @ up.T)


@pytest.mark.parametrize(("backend", "of"), OPEN["attention"])
def test_a_lorsa_with_the_weights_of_heads_gives_what_the_heads_do(backend, models, of, tokens) -> None:
    model = models(backend, of)
    config = dictionary("lorsa", model.config)
    heads = layer_weights(model, LAYER, config)
    assert isinstance(heads, Heads)
    assert isinstance(config.geometry, LorsaConfig)
    attention, lorsa = heads.attention, Lorsa(config.geometry, config.widths, config.d_sae, True)
    with torch.no_grad():
        for name in ("W_Q", "W_K", "b_Q", "b_K"):
            lorsa.get_parameter(name).copy_(getattr(attention, name))
        lorsa.W_enc.copy_(attention.W_V.movedim(0, 1).flatten(1))
        read = model.read(tokens, [at("ln1.hook_normalized"), at("attn.hook_z"), at("hook_attn_out")])
        x, z, out = read.values()
        # Values' biases are not part of a lorsa's start: patterns sum to 1, so they are the same at all positions.
        rest = z - lorsa.encode(x)
    torch.testing.assert_close(rest, rest[:1, :1].expand_as(rest), **TOLERANCE)
    has_biases = any(name.endswith(("v_proj.bias", "c_attn.bias", "query_key_value.bias")) for name in model.weights)
    assert has_biases == bool(rest.abs().max() > 1e-3)
    written = z @ attention.W_O.flatten(0, 1)
    torch.testing.assert_close(out - written, (out - written)[:1, :1].expand_as(out), **TOLERANCE)


def test_both_backends_have_the_weights_of_transformers(models, model_folder, family) -> None:
    wanted = dict(AutoModelForCausalLM.from_pretrained(model_folder(family)).named_parameters())
    for backend in BACKENDS if family not in NOT_BRIDGED else ["huggingface"]:
        found = models(backend, family).weights
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_only_the_hook_points_around_a_part_of_the_layer_are_taken(model_folder, family) -> None:
    config = json.loads((Path(model_folder(family)) / "config.json").read_text())
    norm = "ln1" if family in ONE_NORM else "ln2"
    around = {"mlp": (at(f"{norm}.hook_normalized"), at("hook_mlp_out"))}
    around["attention"] = (at("ln1.hook_normalized"), at("hook_attn_out"))
    for kind, part in STANDS_FOR.items():
        said = fault(kind, *around[part], config)
        if family in CLOSED[part]:
            assert said
            assert config["model_type"] in said
            continue
        assert said is None
        elsewhere = fault(kind, at("hook_resid_pre"), around[part][1], config)
        assert elsewhere
        assert f"from {around[part][0]} to {around[part][1]}, not from {at('hook_resid_pre')}" in elsewhere
        assert fault(kind, around[part][0], "blocks.1.hook_mlp_out", config)


def test_a_lorsa_with_other_positions_than_the_model_is_refused_with_those_it_needs(models) -> None:
    model = models("huggingface", "gpt_neox_parallel")
    whole = dictionary("lorsa", model.config, lorsa_rotary_dim=None)
    with pytest.raises(SourceError, match=r"set sae\.lorsa_rotary True, sae\.lorsa_rotary_dim 2, sae.*base 10000\.0"):
        layer_weights(model, LAYER, whole)
    gpt2 = models("huggingface", "gpt2")
    with pytest.raises(SourceError, match=r"set sae\.lorsa_rotary False$"):
        layer_weights(gpt2, LAYER, dictionary("lorsa", gpt2.config, lorsa_rotary=True))


def test_a_model_whose_weights_cannot_be_taken_over_is_refused(models) -> None:
    model = models("huggingface", "gemma2")
    with pytest.raises(SourceError, match=r"transcoder cannot start .* gemma2: a norm stands between"):
        layer_weights(model, LAYER, dictionary("transcoder", model.config))
