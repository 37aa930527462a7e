"""The module of each hook point in the model families of transformers: one entry a family, data only, no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Projections(NamedTuple):
    """The modules of a layer whose weights its hook points do not name, by their names in the layer.

    `mlp` is the projection into the MLP's hidden layer; of a gated MLP, it is the projection of the gate. `attention`
    are the projections to queries, keys and values, or the single projection that makes all three: first all queries,
    then all keys, then all values, or, with `by_head`, those of each head together.
    """

    mlp: str
    attention: tuple[str, ...]
    by_head: bool = False
    transposed: bool = True
    """Weights have the shape (out, in)."""
    scaled: bool = True
    """Products of queries and keys are divided by sqrt(d_head)."""


class Ending(NamedTuple):
    """The way from the residual stream to logits: the final norm's module, the kind of norm, and the embedding, whose
    weights are those of the unembedding (`lm_head`) in models that are tied."""

    norm: str
    kind: Literal["layer", "rms", "rms_around_one"]
    embedding: str


class ModuleSide(NamedTuple):
    """A module inside a layer ("" is the layer itself), and the side of it that carries the activations."""

    module: str
    side: Literal["in", "out"]


@dataclass(frozen=True)
class Family:
    """The shape of one model family.

    `hook_points` lists the hook points of a layer in the order in which a forward pass meets them. `keys` holds the
    name of each size in config.json, and `defaults` the size that transformers takes if config.json leaves it out.
    `ending` is None of a model without logits. `missing` reads from config.json the hook points that this model lacks,
    each with the reason. `unusable` reads from it the reasons why the weights of the model's "mlp" or "attention"
    cannot be those of a dictionary.
    """

    layers: str
    hook_points: Mapping[str, ModuleSide]
    projections: Projections
    keys: Mapping[str, str]
    ending: Ending | None
    defaults: Mapping[str, int] = field(default_factory=dict)
    missing: Callable[[Mapping[str, object]], Mapping[str, str]] = lambda config: {}
    unusable: Callable[[Mapping[str, object]], Mapping[str, str]] = lambda config: {}


def _hook_points(
    *, norm: str, attention: str, projection: str, mid_norm: str, mlp: str, down: str, **moved: str
) -> dict[str, ModuleSide]:
    """The hook points of a layer. `moved` names the post-norms of families whose sublayers end in one."""
    return {
        "hook_resid_pre": ModuleSide("", "in"),
        "ln1.hook_normalized": ModuleSide(norm, "out"),
        "attn.hook_z": ModuleSide(projection, "in"),
        "hook_attn_out": ModuleSide(moved.get("attn_post_norm", attention), "out"),
        "hook_resid_mid": ModuleSide(mid_norm, "in"),
        "ln2.hook_normalized": ModuleSide(mid_norm, "out"),
        "mlp.hook_post": ModuleSide(down, "in"),
        "hook_mlp_out": ModuleSide(moved.get("mlp_post_norm", mlp), "out"),
        "hook_resid_post": ModuleSide("", "out"),
    }


_PARALLEL = {
    "hook_resid_mid": "its attention and MLP both read the residual that enters the layer (parallel attention), so "
    "there is no residual between them; take hook_resid_pre, hook_resid_post, hook_attn_out or hook_mlp_out"
}
_ONE_NORM = {
    "ln2.hook_normalized": "its MLP reads what its attention reads, after one norm for both; take ln1.hook_normalized"
}

_GPT2_POINTS = _hook_points(
    norm="ln_1", attention="attn", projection="attn.c_proj", mid_norm="ln_2", mlp="mlp", down="mlp.c_proj"
)
_GPT_NEO_POINTS = _GPT2_POINTS | {"attn.hook_z": ModuleSide("attn.attention.out_proj", "in")}
_GPT_NEOX_POINTS = _hook_points(
    norm="input_layernorm",
    attention="attention",
    projection="attention.dense",
    mid_norm="post_attention_layernorm",
    mlp="mlp",
    down="mlp.dense_4h_to_h",
)
_LLAMA_POINTS = _hook_points(
    norm="input_layernorm",
    attention="self_attn",
    projection="self_attn.o_proj",
    mid_norm="post_attention_layernorm",
    mlp="mlp",
    down="mlp.down_proj",
)
# Gemma 2 and 3 add the output of each sublayer to the residual stream after a post-norm of its own.
_GEMMA2_POINTS = _hook_points(
    norm="input_layernorm",
    attention="self_attn",
    projection="self_attn.o_proj",
    attn_post_norm="post_attention_layernorm",
    mid_norm="pre_feedforward_layernorm",
    mlp="mlp",
    down="mlp.down_proj",
    mlp_post_norm="post_feedforward_layernorm",
)
_PHI_POINTS = _LLAMA_POINTS | {
    "attn.hook_z": ModuleSide("self_attn.dense", "in"),
    "mlp.hook_post": ModuleSide("mlp.fc2", "in"),
}

_GPT2_WEIGHTS = Projections("mlp.c_fc", ("attn.c_attn",), transposed=False)
_GPT_NEO_WEIGHTS = Projections("mlp.c_fc", tuple(f"attn.attention.{part}_proj" for part in "qkv"), scaled=False)
_GPT_NEOX_WEIGHTS = Projections("mlp.dense_h_to_4h", ("attention.query_key_value",), by_head=True)
_LLAMA_WEIGHTS = Projections("mlp.gate_proj", tuple(f"self_attn.{part}_proj" for part in "qkv"))
_PHI_WEIGHTS = _LLAMA_WEIGHTS._replace(mlp="mlp.fc1")

_POST_NORM = (
    "a norm stands between its output projection and the residual stream, and no weights of a decoder do the same"
)
_POST_NORMS = {"mlp": _POST_NORM, "attention": _POST_NORM}
_QK_NORM = {"attention": "norms of its queries and keys stand between its weights and its patterns"}


def _gpt2_unusable(config: Mapping[str, object]) -> Mapping[str, str]:
    plain = config.get("scale_attn_weights", True) and not config.get("scale_attn_by_inverse_layer_idx", False)
    return {} if plain else {"attention": "its patterns are not scaled by 1 / sqrt(d_head) (scale_attn_*)"}


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

_GPT2_ENDING = Ending("transformer.ln_f", "layer", "transformer.wte")
_GPT_NEOX_ENDING = Ending("gpt_neox.final_layer_norm", "layer", "gpt_neox.embed_in")
_LLAMA_EMBEDDING = "model.embed_tokens"
_LLAMA_ENDING = Ending("model.norm", "rms", _LLAMA_EMBEDDING)
_GEMMA_ENDING = Ending("model.norm", "rms_around_one", _LLAMA_EMBEDDING)
_PHI_ENDING = Ending("model.final_layernorm", "layer", _LLAMA_EMBEDDING)

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
    "llama": Family("model.layers", _LLAMA_POINTS, _LLAMA_WEIGHTS, _KEYS, _LLAMA_ENDING),
    "mistral": Family("model.layers", _LLAMA_POINTS, _LLAMA_WEIGHTS, _KEYS, _LLAMA_ENDING),
    "qwen2": Family("model.layers", _LLAMA_POINTS, _LLAMA_WEIGHTS, _KEYS, _LLAMA_ENDING),
    "qwen3": Family(
        "model.layers",
        _LLAMA_POINTS,
        _LLAMA_WEIGHTS,
        _KEYS,
        _LLAMA_ENDING,
        {"d_head": 128},
        unusable=lambda config: _QK_NORM,
    ),
    "gemma": Family("model.layers", _LLAMA_POINTS, _LLAMA_WEIGHTS, _KEYS, _GEMMA_ENDING, {"d_head": 256}),
    "gemma2": Family(
        "model.layers",
        _GEMMA2_POINTS,
        _LLAMA_WEIGHTS,
        _KEYS,
        _GEMMA_ENDING,
        {"d_head": 256},
        unusable=lambda config: _POST_NORMS,
    ),
    "gemma3_text": Family(
        "model.layers",
        _GEMMA2_POINTS,
        _LLAMA_WEIGHTS,
        _KEYS,
        _GEMMA_ENDING,
        {"d_head": 256},
        unusable=lambda config: _POST_NORMS,
    ),
    "phi": Family(
        "model.layers", _PHI_POINTS, _PHI_WEIGHTS, _KEYS, _PHI_ENDING, missing=lambda config: {**_PARALLEL, **_ONE_NORM}
    ),
}

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
)
"""The model builtin:features, which transformers does not know: its hook points name no modules."""
