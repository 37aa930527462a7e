"""The hook points of a model and their widths, from its config.json alone: no weights, no torch.

Names are TransformerLens's:

    blocks.{i}.hook_resid_pre       the residual stream that enters layer i
    blocks.{i}.ln1.hook_normalized  what attention reads: the output of the norm before it, weight and bias included
    blocks.{i}.attn.hook_z          the attention heads' outputs side by side, before the output projection
    blocks.{i}.hook_attn_out        what attention adds to the residual stream
    blocks.{i}.hook_resid_mid       the residual stream between attention and MLP (not in models that run both at once)
    blocks.{i}.ln2.hook_normalized  what the MLP reads, likewise (not in models that have one norm for both)
    blocks.{i}.mlp.hook_post        the MLP's hidden layer after activation function and gate, before the projection
    blocks.{i}.hook_mlp_out         what the MLP adds to the residual stream
    blocks.{i}.hook_resid_post      the residual stream that leaves layer i; of the last, before the final norm

Where none of these is meant, a module of transformers is a hook point too, by its name in the model:

    model.layers.3.mlp.gate_proj    its output: one tensor (batch, context, width), or the first of a tuple
    model.layers.3.mlp.gate_proj:in its input, likewise
"""

import re
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

from lmsae.errors import HookPointError, SourceError, suggest
from lmsae.lm.families import FAMILIES, FEATURES, LENS, LENS_TYPE, UNNAMED
from lmsae.lm.family import Family, ModuleSide
from lmsae.lm.features import MODEL_TYPE

_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.\w+)*\.\w+(:in)?")


def hook_points(config: Mapping[str, object]) -> dict[str, int]:
    """Every hook point of the model that this config.json describes, in the order of a forward pass, with its width.

    Raises SourceError for a model family that is not known, or a config.json without the sizes needed.
    """
    family = family_of(config)
    if not family.hook_points:
        return {}
    d_model, (n_heads, d_head) = _size(config, family, "d_model"), head_sizes(config)
    special = {
        "attn.hook_z": n_heads * d_head,
        "mlp.hook_post": _optional_size(config, family, "d_mlp") or 4 * d_model,
    }
    missing = family.missing(config)
    kinds = [kind for kind in family.hook_points if kind not in missing]
    layers = range(_size(config, family, "n_layers"))
    return {f"blocks.{layer}.{kind}": special.get(kind, d_model) for layer in layers for kind in kinds}


def head_sizes(config: Mapping[str, object]) -> tuple[int, int]:
    """The number of attention heads, and the width of the values of each."""
    family = family_of(config)
    n_heads = _size(config, family, "n_heads")
    return n_heads, _optional_size(config, family, "d_head") or _size(config, family, "d_model") // n_heads


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a language model. Of a model that reads images too, the values of its `text_config` stand
    beside the others, as they do in models that read text alone."""
    nested = config.get("text_config")
    return {**config, **nested, "model_type": config.get("model_type")} if isinstance(nested, Mapping) else {**config}


def max_context(config: Mapping[str, object]) -> int | None:
    """The most tokens that the model can read at once, or None where config.json sets no bound."""
    return _optional_size(config, family_of(config), "max_context")


def layers_and_width(config: Mapping[str, Any]) -> tuple[int, int]:
    """The number of layers and the width of the residual stream; zeros where config.json has no such sizes, or the
    model no weights."""
    family = family_of(config)
    if family is FEATURES:
        return 0, 0
    return _optional_size(config, family, "n_layers") or 0, _optional_size(config, family, "d_model") or 0


def key_heads(config: Mapping[str, Any]) -> int:
    """The number of heads of keys and values, which several attention heads may share."""
    family = family_of(config)
    return _optional_size(config, family, "n_key_heads") or _size(config, family, "n_heads")


def is_module(name: str) -> bool:
    """True if a hook point is named by its module in transformers: `model.layers.3.mlp` is the output of that module,
    and `model.layers.3.mlp:in` its input."""
    return _NAME.fullmatch(name) is None and _MODULE.fullmatch(name) is not None


def layer_of(name: str) -> int:
    """The layer that a hook point belongs to. Raises HookPointError if this is no name of a hook point in a layer."""
    return split(name)[0]


def split(name: str) -> tuple[int, str]:
    """A hook point's layer and kind: `blocks.3.attn.hook_z` is (3, "attn.hook_z").

    A module's layer is the first number in its name, and its kind is its whole name.
    """
    if match := _NAME.fullmatch(name):
        return int(match[1]), match[2]
    if is_module(name) and (number := re.search(r"\.(\d+)(?=[.:]|$)", name)):
        return int(number[1]), name
    raise HookPointError(f"{name!r} is no hook point: wanted a name like blocks.3.hook_resid_post")


def residual_before(layer: int) -> tuple[str, str]:
    """The two names of the residual stream that enters a layer; of the first layer, the second is no hook point."""
    return f"blocks.{layer}.hook_resid_pre", f"blocks.{layer - 1}.hook_resid_post"


def locate(name: str, config: Mapping[str, Any]) -> ModuleSide:
    """The module of transformers that carries a hook point, by its name in the whole model, and the side of it."""
    if is_module(name):
        module, _, side = name.partition(":")
        return ModuleSide(module, "in" if side else "out")
    family, (layer, kind) = family_of(config), split(name)
    where = family.hook_points[kind]
    return ModuleSide(f"{family.layers}.{layer}.{where.module}".rstrip("."), where.side)


def require(name: str, config: Mapping[str, Any]) -> int:
    """The width of a hook point that the model must have; of a module, that of the residual stream, which most have
    (lmsae/lm/modules.py knows).

    Raises HookPointError, with the nearest names that it has, if there is none.
    """
    family, known = family_of(config), hook_points(config)
    if name in known:
        return known[name]
    if _NAME.fullmatch(name) and (why := family.missing(config).get(split(name)[1])):
        raise HookPointError(f"this model has no {name}: {why}")
    near = _describe_module(name, family, known) if family.layers else ""
    if is_module(name) and not near and config["model_type"] not in (MODEL_TYPE, LENS_TYPE):
        return _size(config, family, "d_model")
    if not known:
        raise HookPointError(
            f"models of the family {config['model_type']} have no hook point {name!r}: name a module of transformers, "
            "such as model.layers.3 or model.layers.3.mlp:in (print the model to see its modules)"
        )
    n_layers = layer_of(next(reversed(known))) + 1
    raise HookPointError(
        f"this model ({config['model_type']}, {n_layers} layers: blocks.0 to blocks.{n_layers - 1}) has no hook point "
        f"{name!r}{near or suggest(name, known)}"
    )


def _describe_module(name: str, family: Family, known: Container[str]) -> str:
    """The hook points at a module that has such a name in transformers, as the end of an error message, or nothing."""
    path, _, wanted = name.partition(":")
    match = re.fullmatch(rf"(?:\w+\.)*{family.layers.split('.')[-1]}\.(\d+)(?:\.(.+))?", path)
    if match is None:
        return ""
    layer, module = match[1], match[2] or ""
    at = {place.side: f"blocks.{layer}.{kind}" for kind, place in family.hook_points.items() if place.module == module}
    words = {"out": "output", "in": "input"}
    told = [f"its {words[side]} is {at[side]}" for side in words if side in at and at[side] in known]
    is_known = at.get("in" if wanted else "out", "") in known
    return f", which names a module; {' and '.join(told)}" if is_known else ""


def family_of(config: Mapping[str, object]) -> Family:
    """The family that config.json's model_type names. Raises SourceError if it names none."""
    model_type = config.get("model_type")
    if model_type == MODEL_TYPE:
        return FEATURES
    if model_type == LENS_TYPE:
        return LENS
    if not isinstance(model_type, str):
        raise SourceError(
            f"config.json names no model family (model_type = {model_type!r}), as that of each model of transformers "
            f"does; hook points have names in {', '.join(FAMILIES)}"
        )
    family = FAMILIES.get(model_type, UNNAMED)
    moved = family.elsewhere(config)
    return replace(family, hook_points={**family.hook_points, **moved}) if moved else family


def _optional_size(config: Mapping[str, object], family: Family, word: str) -> int | None:
    key, values = family.keys[word], text_config(config)
    names = (*family.aliases.get(key, ()), key)
    size = next((values[name] for name in names if values.get(name) is not None), None)
    if size is not None and not isinstance(size, int):
        raise SourceError(f"config.json has {family.keys[word]} {size!r}; wanted an integer")
    return family.defaults.get(word) if size is None else size


def _size(config: Mapping[str, object], family: Family, word: str) -> int:
    size = _optional_size(config, family, word)
    if size is None:
        raise SourceError(f"config.json of this {config['model_type']} model has no {family.keys[word]!r}")
    return size
