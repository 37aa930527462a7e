"""The model families of transformers whose hook points have names here: one entry a family, data only, no torch."""

from collections.abc import Mapping
from dataclasses import replace

from lmsae.lm.family import Ending, Experts, Family, ModelConfig, ModuleSide, Projections, layer_hook_points

_PARALLEL = {
    "hook_resid_mid": "its attention and MLP both read the residual that enters the layer (parallel attention), so "
    "there is no residual between them; take hook_resid_pre, hook_resid_post, hook_attn_out or hook_mlp_out"
}
_ONE_NORM = {
    "ln2.hook_normalized": "its MLP reads what its attention reads, after one norm for both; take ln1.hook_normalized"
}
_NO_NORMS = {
    "ln1.hook_normalized": "its attention reads the residual stream itself; take hook_resid_pre",
    "ln2.hook_normalized": "its MLP reads the residual stream itself; take hook_resid_mid",
}
_EXPERTS = {
    "mlp.hook_post": "its MLP is several experts, each with a hidden layer of its own; take hook_mlp_out, or "
    "ln2.hook_normalized, which all of them read"
}
_MIXER = (
    "its layers have a mixer and no attention or MLP; take hook_resid_pre, hook_resid_post, or a module by its name"
)

_GPT2_POINTS = layer_hook_points(
    norm="ln_1", attention="attn", projection="attn.c_proj", mid_norm="ln_2", mlp="mlp", down="mlp.c_proj"
)
_GPT_NEO_POINTS = _GPT2_POINTS | {"attn.hook_z": ModuleSide("attn.attention.out_proj", "in")}
_GPT_NEOX_POINTS = layer_hook_points(
    norm="input_layernorm",
    attention="attention",
    projection="attention.dense",
    mid_norm="post_attention_layernorm",
    mlp="mlp",
    down="mlp.dense_4h_to_h",
)
_FALCON_POINTS = _GPT_NEOX_POINTS | {
    "attn.hook_z": ModuleSide("self_attention.dense", "in"),
    "hook_attn_out": ModuleSide("self_attention", "out"),
}
# Bloom's attention and MLP add the residual stream to what their last projection makes.
_BLOOM_POINTS = _FALCON_POINTS | {
    "hook_attn_out": ModuleSide("self_attention.dense", "out"),
    "hook_mlp_out": ModuleSide("mlp.dense_4h_to_h", "out"),
}
_LLAMA_POINTS = layer_hook_points(
    norm="input_layernorm",
    attention="self_attn",
    projection="self_attn.o_proj",
    mid_norm="post_attention_layernorm",
    mlp="mlp",
    down="mlp.down_proj",
)
# Gemma 2 and 3 add the output of each sublayer to the residual stream after a post-norm of its own.
_GEMMA2_POINTS = layer_hook_points(
    norm="input_layernorm",
    attention="self_attn",
    projection="self_attn.o_proj",
    attn_post_norm="post_attention_layernorm",
    mid_norm="pre_feedforward_layernorm",
    mlp="mlp",
    down="mlp.down_proj",
    mlp_post_norm="post_feedforward_layernorm",
)
_OLMO2_POINTS = _GEMMA2_POINTS | {"hook_resid_mid": ModuleSide("mlp", "in")}
_PHI_POINTS = _LLAMA_POINTS | {
    "attn.hook_z": ModuleSide("self_attn.dense", "in"),
    "mlp.hook_post": ModuleSide("mlp.fc2", "in"),
}
_OPT_POINTS = layer_hook_points(
    norm="self_attn_layer_norm",
    attention="self_attn",
    projection="self_attn.out_proj",
    mid_norm="final_layer_norm",
    mlp="fc2",
    down="fc2",
)

_GPT2_WEIGHTS = Projections("mlp.c_fc", ("attn.c_attn",), transposed=False)
_GPT_NEO_WEIGHTS = Projections("mlp.c_fc", tuple(f"attn.attention.{part}_proj" for part in "qkv"), scaled=False)
_GPT_NEOX_WEIGHTS = Projections("mlp.dense_h_to_4h", ("attention.query_key_value",), by_head=True)
_BLOOM_WEIGHTS = _GPT_NEOX_WEIGHTS._replace(attention=("self_attention.query_key_value",))
_LLAMA_WEIGHTS = Projections("mlp.gate_proj", tuple(f"self_attn.{part}_proj" for part in "qkv"), gated=True)
_PHI_WEIGHTS = _LLAMA_WEIGHTS._replace(mlp="mlp.fc1", gated=False)
_PHI3_WEIGHTS = _LLAMA_WEIGHTS._replace(mlp="mlp.gate_up_proj", attention=("self_attn.qkv_proj",))
_OPT_WEIGHTS = _LLAMA_WEIGHTS._replace(mlp="fc1", gated=False)

_POST_NORM = (
    "a norm stands between its output projection and the residual stream, and no weights of a decoder do the same"
)
_POST_NORMS = {"mlp": _POST_NORM, "attention": _POST_NORM}
_QK_NORM = {"attention": "norms of its queries and keys stand between its weights and its patterns"}
_ALIBI = {"attention": "its patterns have a bias of their own for each distance (ALiBi)"}
_NO_MLP = {"mlp": "its MLP is several experts, and which of them a token meets is no part of a dictionary"}


def _gpt2_unusable(config: ModelConfig) -> Mapping[str, str]:
    plain = config.get("scale_attn_weights", True) and not config.get("scale_attn_by_inverse_layer_idx", False)
    return {} if plain else {"attention": "its patterns are not scaled by 1 / sqrt(d_head) (scale_attn_*)"}


def _falcon_elsewhere(config: ModelConfig) -> Mapping[str, ModuleSide]:
    two_norms = config.get("new_decoder_architecture") and config.get("num_ln_in_parallel_attn") in (None, 2)
    norms = {"ln1.hook_normalized": "ln_attn", "ln2.hook_normalized": "ln_mlp"}
    return {kind: ModuleSide(norm, "out") for kind, norm in norms.items()} if two_norms else {}


def _falcon_missing(config: ModelConfig) -> Mapping[str, str]:
    if not (config.get("new_decoder_architecture") or config.get("parallel_attn", True)):
        return {}
    return _PARALLEL if _falcon_elsewhere(config) else {**_PARALLEL, **_ONE_NORM}


def _bloom_missing(config: ModelConfig) -> Mapping[str, str]:
    if config.get("slow_but_exact") and config.get("pretraining_tp", 1) != 1:
        reason = "its last projections are computed in slices (slow_but_exact), and no module has their sum"
        return dict.fromkeys(("attn.hook_z", "hook_attn_out", "mlp.hook_post", "hook_mlp_out"), reason)
    if config.get("apply_residual_connection_post_layernorm"):
        return {"hook_resid_mid": "its norms are part of the residual stream; take hook_resid_pre or hook_resid_post"}
    return {}


def _opt_missing(config: ModelConfig) -> Mapping[str, str]:
    if config.get("do_layer_norm_before", True):
        return {}
    mid = "a norm of all that is there stands between its attention and its MLP (do_layer_norm_before is false); take "
    return {**_NO_NORMS, "ln2.hook_normalized": f"{mid}hook_resid_post", "hook_resid_mid": f"{mid}hook_resid_post"}


def _opt_unusable(config: ModelConfig) -> Mapping[str, str]:
    if not config.get("do_layer_norm_before", True):
        return {**_POST_NORMS, "logits": "a norm of all that is there stands behind each of its sublayers"}
    projected = config.get("word_embed_proj_dim") not in (None, config.get("hidden_size"))
    return {"logits": "a projection stands between its final norm and its unembedding"} if projected else {}


_KEYS = {
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_head": "head_dim",
    "d_model": "hidden_size",
    "d_mlp": "intermediate_size",
    "max_context": "max_position_embeddings",
    "n_key_heads": "num_key_value_heads",
}
_GPT2_KEYS = _KEYS | {
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "d_model": "n_embd",
    "d_mlp": "n_inner",
    "max_context": "n_positions",
}
_BLOOM_KEYS = _KEYS | {"n_layers": "n_layer", "n_heads": "n_head"}

_GPT2_ENDING = Ending("transformer.ln_f", "layer", "transformer.wte")
_BLOOM_ENDING = Ending("transformer.ln_f", "layer", "transformer.word_embeddings")
_GPT_NEOX_ENDING = Ending("gpt_neox.final_layer_norm", "layer", "gpt_neox.embed_in")
_LLAMA_EMBEDDING = "model.embed_tokens"
_LLAMA_ENDING = Ending("model.norm", "rms", _LLAMA_EMBEDDING)
_GEMMA_ENDING = Ending("model.norm", "rms_around_one", _LLAMA_EMBEDDING)
_PHI_ENDING = Ending("model.final_layernorm", "layer", _LLAMA_EMBEDDING)
_OPT_ENDING = Ending("model.decoder.final_layer_norm", "layer", "model.decoder.embed_tokens")

_LLAMA = Family("model.layers", _LLAMA_POINTS, _LLAMA_WEIGHTS, _KEYS, _LLAMA_ENDING)
_QWEN3 = replace(_LLAMA, defaults={"d_head": 128}, unusable=lambda config: _QK_NORM)
_GEMMA = replace(_LLAMA, ending=_GEMMA_ENDING, defaults={"d_head": 256})
_GEMMA2 = replace(_GEMMA, hook_points=_GEMMA2_POINTS, unusable=lambda config: _POST_NORMS)
# Its config.json has the sizes of the language model in text_config, and those that are left out are not few.
_GEMMA3 = replace(
    _GEMMA2,
    layers="model.language_model.layers",
    ending=Ending("model.language_model.norm", "rms_around_one", "model.language_model.embed_tokens"),
    defaults={"d_head": 256, "n_heads": 8, "max_context": 131072},
)

FAMILIES: dict[str, Family] = {
    "gpt2": Family("transformer.h", _GPT2_POINTS, _GPT2_WEIGHTS, _GPT2_KEYS, _GPT2_ENDING, unusable=_gpt2_unusable),
    "gpt_neo": Family(
        "transformer.h",
        _GPT_NEO_POINTS,
        _GPT_NEO_WEIGHTS,
        _KEYS | {"n_layers": "num_layers", "n_heads": "num_heads"},
        _GPT2_ENDING,
    ),
    "gpt_neox": Family(
        "gpt_neox.layers",
        _GPT_NEOX_POINTS,
        _GPT_NEOX_WEIGHTS,
        _KEYS,
        _GPT_NEOX_ENDING,
        missing=lambda config: _PARALLEL if config.get("use_parallel_residual", True) else {},
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _QWEN3,
    "mixtral": replace(
        _LLAMA,
        missing=lambda config: _EXPERTS,
        unusable=lambda config: _NO_MLP,
        experts=Experts(("num_local_experts", 8), ("num_experts_per_tok", 2), ("intermediate_size", 14336)),
    ),
    "qwen3_moe": replace(
        _QWEN3,
        missing=lambda config: _EXPERTS,
        unusable=lambda config: {**_NO_MLP, **_QK_NORM},
        experts=Experts(("num_experts", 128), ("num_experts_per_tok", 8), ("moe_intermediate_size", 768)),
    ),
    "olmo2": replace(
        _LLAMA, hook_points=_OLMO2_POINTS, missing=lambda config: _NO_NORMS, unusable=lambda config: _POST_NORMS
    ),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": _GEMMA3,
    "phi": Family(
        "model.layers", _PHI_POINTS, _PHI_WEIGHTS, _KEYS, _PHI_ENDING, missing=lambda config: {**_PARALLEL, **_ONE_NORM}
    ),
    "phi3": replace(_LLAMA, projections=_PHI3_WEIGHTS),
    "opt": Family(
        "model.decoder.layers",
        _OPT_POINTS,
        _OPT_WEIGHTS,
        _KEYS | {"d_mlp": "ffn_dim"},
        _OPT_ENDING,
        missing=_opt_missing,
        unusable=_opt_unusable,
    ),
    "bloom": Family(
        "transformer.h",
        _BLOOM_POINTS,
        _BLOOM_WEIGHTS,
        _BLOOM_KEYS,
        _BLOOM_ENDING,
        aliases={"n_layer": ("num_hidden_layers",), "n_head": ("num_attention_heads",), "hidden_size": ("n_embed",)},
        missing=_bloom_missing,
        unusable=lambda config: _ALIBI,
    ),
    "falcon": Family(
        "transformer.h",
        _FALCON_POINTS,
        _BLOOM_WEIGHTS,
        _KEYS | {"d_mlp": "ffn_hidden_size", "n_key_heads": "num_kv_heads"},
        _BLOOM_ENDING,
        {"n_key_heads": 1},
        aliases={"hidden_size": ("n_embed",)},
        elsewhere=_falcon_elsewhere,
        missing=_falcon_missing,
        unusable=lambda config: _ALIBI if config.get("alibi") else {},
        sums_in_place=frozenset({"hook_mlp_out"}),
    ),
    "mamba": Family(
        "backbone.layers",
        _LLAMA_POINTS,
        Projections("", ()),
        _KEYS,
        Ending("backbone.norm_f", "rms", "backbone.embeddings"),
        {"n_heads": 1},
        missing=lambda config: {kind: _MIXER for kind in _LLAMA_POINTS if "resid_p" not in kind},
        unusable=lambda config: dict.fromkeys(("mlp", "attention"), _MIXER),
        is_transformer=False,
    ),
}

_UNNAMED = "the family of this model has no names for its parts (lmsae/lm/families.py)"
_MANY_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "hidden_size": ("n_embd", "n_embed", "d_model"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "max_sequence_length", "seq_length"),
}
UNNAMED = Family(
    "",
    {},
    Projections("", ()),
    _KEYS,
    None,
    aliases=_MANY_NAMES,
    unusable=lambda config: dict.fromkeys(("mlp", "attention", "logits"), _UNNAMED),
    is_transformer=False,
)
"""Any other family of transformers: its hook points are named by their modules."""

_NOTHING_MOVED = {"hook_attn_out": "its attention moves nothing; add moved=8, or so, to its name"}
FEATURES = Family(
    "",
    {kind: ModuleSide("", "out") for kind in _GPT2_POINTS if kind.startswith("hook_")},
    Projections("", ()),
    _KEYS | {"n_layers": "layers", "d_model": "width"},
    None,
    {"n_heads": 1},
    missing=lambda config: {} if config["moved"] else _NOTHING_MOVED,
    unusable=lambda config: dict.fromkeys(("mlp", "attention"), "it writes known features, by no neurons or heads"),
    is_transformer=False,
)
"""The model builtin:features, which transformers does not know: its hook points name no modules."""

LENS_TYPE = "hooked_transformer"
"""Stands in the place of model_type in the config of a model that only TransformerLens knows."""
_NO_MLPS = "its layers have an attention and no MLP (attn_only); take hook_attn_out or hook_resid_post"
_LENS_UNUSABLE = "lmsae starts from weights of models of transformers"
_NO_NORM = "its attention and MLP read the residual stream itself (normalization_type is null)"


def _lens_missing(config: ModelConfig) -> Mapping[str, str]:
    mlp = ("hook_resid_mid", "ln2.hook_normalized", "mlp.hook_post", "hook_mlp_out")
    no_norm = {} if config.get("normalization_type") else dict.fromkeys(_NO_NORMS, _NO_NORM)
    return {**no_norm, **(dict.fromkeys(mlp, _NO_MLPS) if config.get("attn_only") else {})}


def _lens_unusable(config: ModelConfig) -> Mapping[str, str]:
    straight = config.get("normalization_type") and not config.get("final_rms")
    logits = {} if straight else {"logits": "its last norm is no layer norm"}
    return {**dict.fromkeys(("mlp", "attention"), _LENS_UNUSABLE), **logits}


LENS = Family(
    "blocks",
    _GPT2_POINTS | {"attn.hook_z": ModuleSide("attn.o", "in"), "mlp.hook_post": ModuleSide("mlp.out", "in")},
    Projections("", ()),
    {
        "n_layers": "n_layers",
        "n_heads": "n_heads",
        "d_head": "d_head",
        "d_model": "d_model",
        "d_mlp": "d_mlp",
        "max_context": "n_ctx",
        "n_key_heads": "n_heads",
    },
    Ending("ln_final", "layer", "embed"),
    missing=_lens_missing,
    unusable=_lens_unusable,
)
"""TransformerLens's own models, which transformers does not know. Of the weights only those that lead to the logits
have names here (lmsae/lm/hooked_transformer.py)."""
