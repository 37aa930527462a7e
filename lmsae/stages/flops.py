"""Floating-point operations of dictionaries and language models, by their formulas, without torch.

Counted are the matrix products that the mathematics asks for, a product and a sum as two operations, as if each were
done once and no other: an implementation may do more (a dense product where few codes are not 0) and its achieved
FLOP/s is then too low by that, never too high. Not counted, as small or as of no fixed number: normalization,
selection, the optimizer, second decodings (the aux_k and gated losses, resampling), and the language model that an
end-to-end loss runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import HookPointError
from lmsae.lm.hook_points import family_of, head_sizes, hook_points, key_heads, split
from lmsae.vectors import sources

MULTIPLY_ADD = 2
_BEFORE_ATTENTION = ("hook_resid_pre", "ln1.hook_normalized")
_BEFORE_MLP = (*_BEFORE_ATTENTION, "attn.hook_z", "hook_attn_out", "hook_resid_mid", "ln2.hook_normalized")


@dataclass(frozen=True, slots=True)
class DictionaryFlops:
    """FLOPs a token of a dictionary, of E, D and S multiply-adds (`products` of its geometry), where a token has codes
    of a share `a` of its latents: k / n of those that select k, and 1 of the others, where only training decides it.

    forward: encoding a token and decoding its codes, 2 (E + a D + S).
    step: training on a token. Backward come the gradients of the decoder's weights and of the codes, each a D, of the
    encoder's weights, a E, and of the rest, S, and none of x: 2 (E + a E + 3 a D + 2 S).
    """

    forward: float
    step: float


def dictionary_flops(dictionary: DictionaryConfig, context_size: int) -> DictionaryFlops:
    """The FLOPs of a dictionary, a token. matching_pursuit encodes k times."""
    geometry, act_fn, n = dictionary.geometry, dictionary.act_fn, dictionary.d_sae
    encode, decode, apart = geometry.products(dictionary.widths, n, context_size)
    k = getattr(act_fn, "k", None)
    active = min(1.0, k / (n * len(dictionary.widths.reads) if act_fn.joins_groups else n)) if k else 1.0
    encodings = k if k and act_fn.needs_tied_encoder else 1
    forward = encodings * encode + active * decode + apart
    backward = active * (encode + 2 * decode) + apart
    return DictionaryFlops(MULTIPLY_ADD * forward, MULTIPLY_ADD * (forward + backward))


def forward_flops(config: Mapping[str, Any], context_size: int, hook_points: Iterable[str]) -> float | None:
    """FLOPs a token of one forward pass that reads all of the hook points and stops after the last."""
    found = [model_flops(config, context_size, name) for name in hook_points]
    return max(flops for flops in found if flops is not None) if None not in found else None


def model_flops(
    config: Mapping[str, Any], context_size: int, hook_point: str | None = None, *, every_expert: bool = False
) -> float | None:
    """FLOPs a token of a forward pass up to a hook point, or to the logits without one; None for a model whose layers
    are not an attention and an MLP, or are not known (builtin:features, own activations, mamba, families without
    names).

    By layer 2 (2 d H h + 2 d K h + m d d_mlp) for H query heads and K key and value heads of width h, m = 3 matrices of
    a gated MLP and 2 of another, and 2 T H h for the causal products of T tokens with half as many on average; for the
    logits 2 d vocab. An MLP of experts counts those that a token meets, or `every_expert`. Of the layer of the hook
    point whole sublayers count; of a module that is named, the whole layer.
    """
    if config.get("model_type") == sources.MODEL_TYPE:
        return None
    family = family_of(config)
    if not family.is_transformer:
        return None
    widths, (heads, d_head) = hook_points(config), head_sizes(config)
    d_model = widths["blocks.0.hook_resid_pre"]
    attention = 2 * d_model * (heads + key_heads(config)) * d_head + context_size * heads * d_head
    mlp = (3 if family.projections.gated else 2) * d_model * _mlp_width(config, every_expert)
    layer, kind = _end_of(hook_point, next(reversed(widths)))
    done = layer * (attention + mlp) + attention * (kind not in _BEFORE_ATTENTION) + mlp * (kind not in _BEFORE_MLP)
    logits = 0 if hook_point else d_model * config.get("vocab_size", 0)
    return float(MULTIPLY_ADD * (done + logits))


def _end_of(hook_point: str | None, last: str) -> tuple[int, str]:
    """The layer and kind of the hook point that a forward pass ends at; the last one for a module outside of layers."""
    try:
        return split(hook_point or last)
    except HookPointError:
        return split(last)


def _mlp_width(config: Mapping[str, Any], every_expert: bool) -> int:
    """The width of an MLP's hidden layer, of all experts that count; 0 of a model without MLPs."""
    experts = family_of(config).experts
    if experts is None:
        return hook_points(config).get("blocks.0.mlp.hook_post", 0)
    count, width = (config.get(*size) for size in (experts.count if every_expert else experts.active, experts.width))
    return count * width
