"""The shape of a model family of transformers, as data: which module carries which hook point. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

ModelConfig = Mapping[str, object]
"""A model's config.json."""


class Projections(NamedTuple):
    """The modules of a layer whose weights its hook points do not name, by their names in the layer.

    `mlp` is the projection into the MLP's hidden layer; of a gated MLP, it is the projection of the gate, or of the
    gate first and then the rest. `attention` are the projections to queries, keys and values, or the single projection
    that makes all three: first all queries, then all keys, then all values, or, with `by_head`, those of each key head
    together: its queries, its key, its value.
    """

    mlp: str
    attention: tuple[str, ...]
    by_head: bool = False
    transposed: bool = True
    """Weights have the shape (out, in)."""
    scaled: bool = True
    """Products of queries and keys are divided by sqrt(d_head)."""
    gated: bool = False
    """The MLP has three matrices: gate, up and down."""


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


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of an MLP: how many there are, how many of them a token meets, and the width of their hidden layers.
    Each is the name in config.json, and the size that transformers takes if it is left out."""

    count: tuple[str, int]
    active: tuple[str, int]
    width: tuple[str, int]


Reasons = Callable[[ModelConfig], Mapping[str, str]]


@dataclass(frozen=True)
class Family:
    """The shape of one model family.

    `hook_points` lists the hook points of a layer in the order in which a forward pass meets them. `keys` holds the
    name of each size in config.json, `aliases` other names that transformers reads such a size from, and `defaults` the
    size that transformers takes if config.json leaves it out. `ending` is None of a model without logits. `experts` are
    those of its MLPs, None if each is one.

    Of config.json, `elsewhere` reads the hook points that this model has at another module than its family, and
    `missing` those that it lacks, each with the reason. `unusable` reads from it the reasons why the weights of the
    model's "mlp" or "attention" cannot be those of a dictionary, and why nothing leads straight to its "logits".
    """

    layers: str
    hook_points: Mapping[str, ModuleSide]
    projections: Projections
    keys: Mapping[str, str]
    ending: Ending | None
    defaults: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    elsewhere: Callable[[ModelConfig], Mapping[str, ModuleSide]] = lambda config: {}
    missing: Reasons = lambda config: {}
    unusable: Reasons = lambda config: {}
    experts: Experts | None = None
    sums_in_place: frozenset[str] = frozenset()
    """Hook points whose tensor the model adds to as soon as it has made it."""
    is_transformer: bool = True
    """A layer is an attention and an MLP, so that its FLOPs are those of their matrices."""


def layer_hook_points(
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
