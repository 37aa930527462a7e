"""Activation functions: how pre-activations become sparse codes."""

from importlib import import_module
from typing import TYPE_CHECKING

from lmsae.sparsity.config import ActFnConfig

if TYPE_CHECKING:
    from lmsae.sparsity.sparsity import Sparsity

_MODULES = {
    "relu": "relu.ReLU",
    "gated": "gated.Gated",
    "jumprelu": "jumprelu.build",
    "topk": "topk.TopK",
    "batchtopk": "topk.BatchTopK",
    "abstopk": "abstopk.AbsTopK",
    "groupmax": "groupmax.GroupMax",
    "layertopk": "topk.TopK",
    "batchlayertopk": "topk.BatchTopK",
    "matching_pursuit": "matching_pursuit.MatchingPursuit",
}


def build(config: ActFnConfig, latents: int, groups: int = 1) -> "Sparsity":
    """The module of an activation function's config, for latents in `groups` equal groups (the layers of a CLT)."""
    module, name = _MODULES[config.kind].split(".")
    make = getattr(import_module(f"lmsae.sparsity.{module}"), name)
    return make(config, latents, 1 if config.joins_groups else groups)
