"""Where each hook point sits in the model families that transformers knows: one entry a family, data only, no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


class Site(NamedTuple):
    """A module inside a layer ("" is the layer itself), and which side of it carries the activations."""

    module: str
    side: Literal["in", "out"]


@dataclass(frozen=True)
class Family:
    """The shape of one model family.

    `sites` lists the hook points of a layer in the order in which a forward pass meets them. `keys` says under which
    name config.json holds a size, and `defaults` what transformers takes for one that config.json leaves out.
    `is_parallel` tells from config.json whether attention and MLP both read the residual that enters the layer, so that
    no residual lies between them.
    """

    layers: str
    sites: Mapping[str, Site]
    keys: Mapping[str, str]
    defaults: Mapping[str, int] = field(default_factory=dict)
    is_parallel: Callable[[Mapping[str, Any]], bool] = lambda config: False


def _sites(*, attention: str, projection: str, mid_norm: str, mlp: str, down: str, **moved: str) -> dict[str, Site]:
    """The hook points of a layer; `moved` names the post-norms of families whose sublayers end in one."""
    return {
        "hook_resid_pre": Site("", "in"),
        "attn.hook_z": Site(projection, "in"),
        "hook_attn_out": Site(moved.get("attn_post_norm", attention), "out"),
        "hook_resid_mid": Site(mid_norm, "in"),
        "mlp.hook_post": Site(down, "in"),
        "hook_mlp_out": Site(moved.get("mlp_post_norm", mlp), "out"),
        "hook_resid_post": Site("", "out"),
    }


_GPT2_SITES = _sites(attention="attn", projection="attn.c_proj", mid_norm="ln_2", mlp="mlp", down="mlp.c_proj")
_GPT_NEO_SITES = _GPT2_SITES | {"attn.hook_z": Site("attn.attention.out_proj", "in")}
_GPT_NEOX_SITES = _sites(
    attention="attention",
    projection="attention.dense",
    mid_norm="post_attention_layernorm",
    mlp="mlp",
    down="mlp.dense_4h_to_h",
)
_LLAMA_SITES = _sites(
    attention="self_attn",
    projection="self_attn.o_proj",
    mid_norm="post_attention_layernorm",
    mlp="mlp",
    down="mlp.down_proj",
)
# What Gemma 2 and 3 add to the residual stream is each sublayer's output after its own post-norm.
_GEMMA2_SITES = _sites(
    attention="self_attn",
    projection="self_attn.o_proj",
    attn_post_norm="post_attention_layernorm",
    mid_norm="pre_feedforward_layernorm",
    mlp="mlp",
    down="mlp.down_proj",
    mlp_post_norm="post_feedforward_layernorm",
)
_PHI_SITES = _LLAMA_SITES | {"attn.hook_z": Site("self_attn.dense", "in"), "mlp.hook_post": Site("mlp.fc2", "in")}

_KEYS = {
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_head": "head_dim",
    "d_model": "hidden_size",
    "d_mlp": "intermediate_size",
    "max_context": "max_position_embeddings",
}
_GPT2_KEYS = {
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "d_head": "head_dim",
    "d_model": "n_embd",
    "d_mlp": "n_inner",
    "max_context": "n_positions",
}

FAMILIES: dict[str, Family] = {
    "gpt2": Family("transformer.h", _GPT2_SITES, _GPT2_KEYS),
    "gpt_neo": Family("transformer.h", _GPT_NEO_SITES, _KEYS | {"n_layers": "num_layers", "n_heads": "num_heads"}),
    "gpt_neox": Family(
        "gpt_neox.layers",
        _GPT_NEOX_SITES,
        _KEYS,
        is_parallel=lambda config: config.get("use_parallel_residual", True),
    ),
    "llama": Family("model.layers", _LLAMA_SITES, _KEYS),
    "mistral": Family("model.layers", _LLAMA_SITES, _KEYS),
    "qwen2": Family("model.layers", _LLAMA_SITES, _KEYS),
    "qwen3": Family("model.layers", _LLAMA_SITES, _KEYS, {"d_head": 128}),
    "gemma": Family("model.layers", _LLAMA_SITES, _KEYS, {"d_head": 256}),
    "gemma2": Family("model.layers", _GEMMA2_SITES, _KEYS, {"d_head": 256}),
    "gemma3_text": Family("model.layers", _GEMMA2_SITES, _KEYS, {"d_head": 256}),
    "phi": Family("model.layers", _PHI_SITES, _KEYS, is_parallel=lambda config: True),
}
