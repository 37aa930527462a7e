"""Models of TransformerLens's own: attn-only-2l, gelu-1l, solu-4l, and others that were trained as HookedTransformers.

Transformers knows no such model. Its config.json has no `model_type` but the fields of a HookedTransformerConfig, and
its weights have HookedTransformer's names. No torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmsae.errors import SourceError
from lmsae.lm.families import LENS_TYPE

PICKLES = ("*final.pth", "*.pth", "*.pt")
"""The files with weights where there are no safetensors, the first pattern first. They are unpickled as tensors and
nothing else."""
BACKEND = "transformerlens"
NORMS = ("LN", "LNPre", None)
ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "solu_ln")
POSITIONS = ("standard", "shortformer")
_SIZES = ("n_layers", "d_model", "n_heads", "d_head", "n_ctx", "d_vocab")
# Fields that change what is computed, by the only values that are run here. A field that is left out has the first.
_PLAIN: dict[str, tuple[object, ...]] = {
    "architecture": (None, "neel"),
    "attention_dir": ("causal",),
    "attn_scale": (-1.0,),
    "attn_scores_soft_cap": (-1.0,),
    "clip_qkv": (None,),
    "d_vocab_out": (-1,),
    "gated_mlp": (False,),
    "n_key_value_heads": (None,),
    "num_experts": (None,),
    "output_logits_soft_cap": (-1.0,),
    "parallel_attn_mlp": (False,),
    "post_embedding_ln": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "use_attention_sinks": (False,),
    "use_attn_scale": (True,),
    "use_local_attn": (False,),
    "use_normalization_before_and_after": (False,),
    "use_qk_norm": (False,),
}


def is_lens_config(config: Mapping[str, Any]) -> bool:
    """True if a config.json is that of a HookedTransformer, and not of a model of transformers."""
    return "model_type" not in config and {"d_model", "n_layers", "d_head"} <= config.keys()


def is_lens_model(config: Mapping[str, Any]) -> bool:
    """True of the config of a HookedTransformer, as `lens_config` gives it."""
    return config.get("model_type") == LENS_TYPE


def lens_config(config: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The config of a HookedTransformer with its defaults filled in, and with the two names that every config has here:
    `model_type` and `vocab_size`.

    Raises SourceError if a field is missing, or asks for something that is not run.
    """
    for name in _SIZES:
        if type(config.get(name)) is not int or config[name] < 1:
            raise SourceError(
                f"{place} has {name} {config.get(name)!r}; wanted a whole number, as a HookedTransformer has"
            )
    attn_only = bool(config.get("attn_only", False))
    act_fn, d_mlp = config.get("act_fn"), config.get("d_mlp") or 4 * config["d_model"]
    norm = config["normalization"] if "normalization" in config else config.get("normalization_type", "LN")
    kind = "shortformer" if config.get("shortformer_pos") else config.get("positional_embedding_type", "standard")
    _require(place, "normalization_type", norm, NORMS)
    _require(place, "positional_embedding_type", kind, POSITIONS)
    if not attn_only:
        _require(place, "act_fn", act_fn, ACTIVATIONS)
    for name, values in _PLAIN.items():
        plain = (*values, config["d_vocab"]) if name == "d_vocab_out" else values
        plain = (*plain, config["n_heads"]) if name == "n_key_value_heads" else plain
        plain = (*plain, config["d_head"] ** 0.5) if name == "attn_scale" else plain
        _require(place, name, config.get(name, values[0]), plain)
    return {
        "model_type": LENS_TYPE,
        "vocab_size": config["d_vocab"],
        "tie_word_embeddings": False,
        **{name: config[name] for name in _SIZES},
        "d_mlp": d_mlp,
        "attn_only": attn_only,
        "act_fn": act_fn or "relu",
        "eps": float(config.get("eps", 1e-5)),
        "final_rms": bool(config.get("final_rms", False)),
        "normalization_type": norm,
        "positional_embedding_type": kind,
        "tokenizer_name": config.get("tokenizer_name"),
    }


def _require(place: str, name: str, value: object, wanted: tuple[object, ...]) -> None:
    if value not in wanted:
        raise SourceError(
            f"{place} has {name} {value!r}, and of TransformerLens's own models lmsae runs those with "
            f"{' or '.join(map(repr, wanted))} there. If it was made of a model of transformers, name that model"
        )


def pickle_in(folder: Path) -> Path | None:
    """The file of weights in a folder without safetensors; None if there is none.

    Raises SourceError if there are several and none is the final one.
    """
    for pattern in PICKLES:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise SourceError(f"{folder} has several files of weights ({names}): leave one of them")
        if found:
            return found[0]
    return None


def obstacle(config: Mapping[str, Any], backend: str) -> str | None:
    """The reason why a backend cannot run the model; None for a model of transformers, and for the one that can."""
    if not is_lens_model(config) or backend == BACKEND:
        return None
    return f"{backend} does not know the model, which is one of TransformerLens's own; set it to {BACKEND}"
