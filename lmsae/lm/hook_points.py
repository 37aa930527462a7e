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
"""

import re
from collections.abc import Container, Mapping

from lmsae.errors import HookPointError, SourceError, suggest
from lmsae.lm.families import FAMILIES, FEATURES, Family
from lmsae.lm.features import MODEL_TYPE

_NAME = re.compile(r"blocks\.(\d+)\.(.+)")


def hook_points(config: Mapping[str, object]) -> dict[str, int]:
    """Every hook point of the model that this config.json describes, in the order of a forward pass, with its width.

    Raises SourceError for a model family that is not known, or a config.json without the sizes needed.
    """
    family = family_of(config)
    d_model, (n_heads, d_head) = _size(config, family, "d_model"), head_sizes(config)
    special = {
        "attn.hook_z": n_heads * d_head,
        "mlp.hook_post": _optional_size(config, family, "d_mlp") or 4 * d_model,
    }
    missing = family.missing(config)
    kinds = [kind for kind in family.hook_points if kind not in missing]
    layers = range(_size(config, family, "n_layers"))
    return {f"blocks.{layer}.{kind}": special.get(kind, d_model) for layer in layers for kind in kinds}


def count_layers(config: Mapping[str, object]) -> int:
    """The number of the model's layers."""
    return _size(config, family_of(config), "n_layers")


def head_sizes(config: Mapping[str, object]) -> tuple[int, int]:
    """The number of attention heads, and the width of the values of each."""
    family = family_of(config)
    n_heads = _size(config, family, "n_heads")
    return n_heads, _optional_size(config, family, "d_head") or _size(config, family, "d_model") // n_heads


def max_context(config: Mapping[str, object]) -> int | None:
    """The most tokens that the model can read at once, or None where config.json sets no bound."""
    return _optional_size(config, family_of(config), "max_context")


def layer_of(name: str) -> int:
    """The layer that a hook point belongs to. Raises HookPointError if this is no name of a hook point."""
    return split(name)[0]


def split(name: str) -> tuple[int, str]:
    """A hook point's layer and kind: `blocks.3.attn.hook_z` is (3, "attn.hook_z")."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise HookPointError(f"{name!r} is no hook point: wanted a name like blocks.3.hook_resid_post")
    return int(match[1]), match[2]


def residual_before(layer: int) -> tuple[str, str]:
    """The two names of the residual stream that enters a layer; of the first layer, the second is no hook point."""
    return f"blocks.{layer}.hook_resid_pre", f"blocks.{layer - 1}.hook_resid_post"


def require(name: str, config: Mapping[str, object]) -> int:
    """The width of a hook point that the model must have.

    Raises HookPointError, with the nearest names that it has, if there is none.
    """
    known = hook_points(config)
    if name in known:
        return known[name]
    if _NAME.fullmatch(name) and (why := family_of(config).missing(config).get(split(name)[1])):
        raise HookPointError(f"this model has no {name}: {why}")
    n_layers = layer_of(next(reversed(known))) + 1
    near = _describe_module(name, family_of(config), known) or suggest(name, known)
    raise HookPointError(
        f"this model ({config['model_type']}, {n_layers} layers: blocks.0 to blocks.{n_layers - 1}) has no hook point "
        f"{name!r}{near}"
    )


def _describe_module(name: str, family: Family, known: Container[str]) -> str:
    """The hook points at a module that has such a name in transformers, as the end of an error message, or nothing."""
    match = re.fullmatch(rf"(?:\w+\.)*{family.layers.split('.')[-1]}\.(\d+)(?:\.(.+))?", name)
    if match is None:
        return ""
    layer, module = match[1], match[2] or ""
    at = {place.side: f"blocks.{layer}.{kind}" for kind, place in family.hook_points.items() if place.module == module}
    words = {"out": "output", "in": "input"}
    told = [f"its {words[side]} is {at[side]}" for side in words if side in at and at[side] in known]
    return f", which names a module; {' and '.join(told)}" if told else ""


def family_of(config: Mapping[str, object]) -> Family:
    """The family that config.json's model_type names. Raises SourceError if it is not one of FAMILIES."""
    model_type = config.get("model_type")
    if model_type == MODEL_TYPE:
        return FEATURES
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise SourceError(
            f"the model family (config.json: model_type = {model_type!r}) is not known here; "
            f"known are {', '.join(FAMILIES)}; a family is added by one entry in lmsae/lm/families.py"
        )
    return FAMILIES[model_type]


def _optional_size(config: Mapping[str, object], family: Family, word: str) -> int | None:
    size = config.get(family.keys[word])
    if size is not None and not isinstance(size, int):
        raise SourceError(f"config.json has {family.keys[word]} {size!r}; wanted an integer")
    return family.defaults.get(word) if size is None else size


def _size(config: Mapping[str, object], family: Family, word: str) -> int:
    size = _optional_size(config, family, word)
    if size is None:
        raise SourceError(f"config.json of this {config['model_type']} model has no {family.keys[word]!r}")
    return size
