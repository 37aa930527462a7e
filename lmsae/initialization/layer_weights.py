"""The weights of a layer of the language model, in the layout of TransformerLens, for a dictionary in its place."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import SourceError
from lmsae.geometry.config import LorsaConfig
from lmsae.lm.hook_points import family_of, head_sizes, split

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.initialization.from_model import ModelWeights
    from lmsae.lm.protocol import LanguageModel

ModelConfig = Mapping[str, Any]
"""A model's config.json."""
STANDS_FOR = {"transcoder": "mlp", "skip_transcoder": "mlp", "lorsa": "attention"}
"""Geometries that can start from the language model's own weights, and the part of a layer that these are of."""


def fault(kind: str, read: str, written: str, config: ModelConfig) -> str | None:
    """The reason that a geometry of this kind, between these hook points of the model with this config, cannot start
    from the model's own weights; None if it can."""
    if why := _family_fault(kind, config):
        return why
    part = STANDS_FOR[kind]
    one_norm = part == "attention" or "ln2.hook_normalized" in family_of(config).missing(config)
    norm, sum_ = "ln1" if one_norm else "ln2", {"mlp": "hook_mlp_out", "attention": "hook_attn_out"}[part]
    layer = f"blocks.{split(read)[0]}"
    wanted = f"{layer}.{norm}.hook_normalized", f"{layer}.{sum_}"
    if (read, written) == wanted:
        return None
    return f"weights of the model's {part} lead from {wanted[0]} to {wanted[1]}, not from {read} to {written}"


def heads_fault(lorsa: LorsaConfig, config: ModelConfig) -> str | None:
    """The reason that a lorsa cannot start from attention heads as config.json describes them; None if it can. An older
    config.json leaves rotary positions to the model's code: then `layer_weights` asks that."""
    n_heads, d_head = head_sizes(config)
    if lorsa.lorsa_qk_heads % n_heads or lorsa.lorsa_d_qk != d_head:
        return (
            f"the model has {n_heads} heads of width {d_head}, the lorsa {lorsa.lorsa_qk_heads} of {lorsa.lorsa_d_qk}: "
            f"set sae.lorsa_qk_heads to a multiple of {n_heads}, and sae.lorsa_d_qk {d_head}"
        )
    return _positions_fault(config, lorsa) if config.get("rope_parameters") else None


def layer_weights(model: "LanguageModel", layer: int, dictionary: DictionaryConfig) -> "ModelWeights":
    """The weights of a layer that a dictionary takes over: neurons of its MLP, or heads of its attention.

    Raises SourceError where the model's weights cannot be those of such a dictionary.
    """
    if why := _family_fault(dictionary.geometry.kind, model.config):
        raise SourceError(why)
    return _READERS[STANDS_FOR[dictionary.geometry.kind]](_Layer(model, layer), dictionary)


def _family_fault(kind: str, config: ModelConfig) -> str | None:
    """The reason that no weights of this family can be those of a geometry of this kind; None if they can."""
    why = family_of(config).unusable(config).get(STANDS_FOR[kind])
    return (
        f"a {kind} cannot start from the weights of a model of the family {config['model_type']}: {why}"
        if why
        else None
    )


class _Layer:
    """The weights of one layer, float32, each projection as it is multiplied from the right: (in, out)."""

    def __init__(self, model: "LanguageModel", number: int) -> None:
        self.config = model.config
        self.family = family_of(model.config)
        self.projections = self.family.projections
        self._weights, self._name = model.weights, f"{self.family.layers}.{number}"

    def projection(self, module: str) -> "tuple[Tensor, Tensor]":
        """Weight (in, out) and bias (out,), zeros where there is none."""
        weight = self._weights[f"{self._name}.{module}.weight"].float()
        weight = weight.T if self.projections.transposed else weight
        bias = self._weights.get(f"{self._name}.{module}.bias")
        return weight, weight.new_zeros(weight.shape[1]) if bias is None else bias.float()


def _read_neurons(layer: _Layer, dictionary: DictionaryConfig) -> "ModelWeights":
    from lmsae.initialization.from_model import Neurons

    del dictionary
    W_in, b_in = layer.projection(layer.projections.mlp)
    W_out, b_out = layer.projection(layer.family.hook_points["mlp.hook_post"].module)
    return Neurons(W_in[:, : len(W_out)], b_in[: len(W_out)], W_out, b_out)


def _read_heads(layer: _Layer, dictionary: DictionaryConfig) -> "ModelWeights":
    """Raises SourceError where the lorsa's positions are not the model's: its patterns would be others."""
    from lmsae.geometry.lorsa import Attention
    from lmsae.initialization.from_model import Heads

    assert isinstance(dictionary.geometry, LorsaConfig)
    if why := _positions_fault(layer.config, dictionary.geometry):
        raise SourceError(why)
    n_heads, d_head = head_sizes(layer.config)
    (W_Q, b_Q), (W_K, b_K), (W_V, _) = _split_by_head(layer, n_heads, d_head)
    W_O, _ = layer.projection(layer.family.hook_points["attn.hook_z"].module)
    # A lorsa divides by sqrt(d_qk) whatever the model does.
    factor = 1.0 if layer.projections.scaled else d_head**0.5
    return Heads(Attention(W_Q * factor, W_K, W_V, W_O.unflatten(0, (n_heads, d_head)), b_Q * factor, b_K))


def _split_by_head(layer: _Layer, n_heads: int, d_head: int) -> "list[tuple[Tensor, Tensor]]":
    """Of queries, keys and values the weights (heads, d_model, d_head) and biases (heads, d_head).

    Keys and values that several heads share are repeated for each.
    """
    found = [layer.projection(name) for name in layer.projections.attention]
    if len(found) == 1:
        parts = zip(*(_split_joined(one, n_heads, d_head, layer.projections.by_head) for one in found[0]), strict=True)
        found = [(weight, bias) for weight, bias in parts]
    made = []
    for weight, bias in found:
        weight, bias = weight.unflatten(1, (-1, d_head)).movedim(1, 0), bias.unflatten(0, (-1, d_head))
        made.append(tuple(one.repeat_interleave(n_heads // len(one), dim=0) for one in (weight, bias)))
    return made


def _split_joined(of_all: "Tensor", n_heads: int, d_head: int, by_head: bool) -> "list[Tensor]":
    """The queries, keys and values among the outputs (..., out) of a projection that makes all three."""
    key_heads = (of_all.shape[-1] // d_head - n_heads) // 2
    if not by_head:
        return list(of_all.split([n * d_head for n in (n_heads, key_heads, key_heads)], dim=-1))
    groups = of_all.unflatten(-1, (key_heads, n_heads // key_heads + 2, d_head))
    parts = groups.split([n_heads // key_heads, 1, 1], dim=-2)
    return [part.flatten(-3) for part in parts]


def _positions_fault(config: ModelConfig, lorsa: LorsaConfig) -> str | None:
    """The reason that a lorsa does not rotate its queries and keys as the model does; None if it does."""
    _, d_head = head_sizes(config)
    rotary = config.get("rope_parameters") or {}
    wanted: dict[str, object] = {"lorsa_rotary": bool(rotary)}
    found: dict[str, object] = {"lorsa_rotary": lorsa.lorsa_rotary}
    if rotary:
        if (kind := rotary.get("rope_type", "default")) != "default":
            return (
                f"the model's rotary positions are of the kind {kind}, which a lorsa has not: set init.from_model false"
            )
        wanted |= {
            "lorsa_rotary_dim": int(d_head * rotary.get("partial_rotary_factor", 1.0)),
            "lorsa_rotary_base": float(rotary["rope_theta"]),
        }
        found |= {"lorsa_rotary_dim": lorsa.rotated, "lorsa_rotary_base": lorsa.lorsa_rotary_base}
    if found == wanted:
        return None
    mend = ", ".join(f"sae.{name} {value}" for name, value in wanted.items())
    return f"a lorsa that starts from this model's heads must have their positions: set {mend}"


_READERS: Mapping[str, Callable[[_Layer, DictionaryConfig], "ModelWeights"]] = {
    "mlp": _read_neurons,
    "attention": _read_heads,
}
