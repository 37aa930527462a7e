"""Names of models and hook points as other libraries write them, and as lmsae does."""

import re
from collections.abc import Iterable

_MODELS = (
    (r"gpt2-small", "gpt2"),
    (r"(pythia-.+)", r"EleutherAI/\1"),
    (r"(gpt-neo-.+|gpt-neox-20b|gpt-j-6[bB])", r"EleutherAI/\1"),
    (r"(gemma-.+)", r"google/\1"),
    (r"tiny-stories-(\d)L-(\d+M)", r"roneneldan/TinyStories-\1Layer-\2"),
    (r"tiny-stories-(.*\d+M)", r"roneneldan/TinyStories-\1"),
    (r"mistral-7b", "mistralai/Mistral-7B-v0.1"),
    (r"(phi-.+)", r"microsoft/\1"),
    (r"(opt-.+)", r"facebook/\1"),
    (r"(qwen.+)", r"Qwen/\1"),
    (r"attn-only-([1-4])l", r"NeelNanda/Attn_Only_\1L512W_C4_Code"),
    (r"(gelu|solu)-([1-4])l", r"NeelNanda/\1_\2L512W_C4_Code"),
    (r"((?:meta-)?llama-.+)", r"meta-llama/\1"),
)
"""Patterns of TransformerLens's short names, and the repositories that they mean. The hub ignores case."""
_MODULES = {
    "": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "attn": "hook_attn_out",
    "self_attn": "hook_attn_out",
    "attention": "hook_attn_out",
}
"""The modules of a layer in transformers, and the hook points at their outputs."""
_MODULE = re.compile(r"(?:\w+\.)*(?:layers|h|blocks)\.(\d+)(?:\.(\w+))?")
_SIDES_OF_LAYERS = {"hook_in": "hook_resid_pre", "hook_out": "hook_resid_post"}
"""A bridge's names of what enters and leaves a layer (TransformerLens 3 and 4). What its modules within a layer put out
is not always what they add to the residual stream: some families have a norm between."""


def model_name(name: str) -> str:
    """The name of a model on the hub by a short name of TransformerLens. Any other name stays as it is."""
    for pattern, meant in _MODELS if "/" not in name else ():
        if (match := re.fullmatch(pattern, name, re.IGNORECASE)) is not None:
            return match.expand(meant)
    return name


def hook_point(name: str) -> str:
    """The hook point at the output of a module, by its name in transformers, or at a side of a layer, by its name in
    TransformerLens's bridge: `model.layers.3.mlp` is blocks.3.hook_mlp_out, blocks.3.hook_out is
    blocks.3.hook_resid_post. Any other name stays as it is: others have TransformerLens's names too."""
    match = _MODULE.fullmatch(name)
    kind = (_MODULES | _SIDES_OF_LAYERS).get(match[2] or "") if match else None
    return f"blocks.{match[1]}.{kind}" if match and kind else name


def mean_the_same(one: str, other: str) -> bool:
    """True if two names of models can mean one model: they agree up to the owner and case."""
    return _short(one) == _short(other)


def texts(values: Iterable[object]) -> tuple[str, ...]:
    """Those of the values that are words."""
    return tuple(value for value in values if isinstance(value, str) and value)


def _short(name: str) -> str:
    return model_name(name.rstrip("/")).rpartition("/")[2].lower()
