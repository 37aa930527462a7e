"""The layout of a SAELens folder: its files, its architectures, and how activation functions stand in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
VERSION = 6
"""The layout is that of SAELens 6.0, which migrates a folder that claims less."""
OWN_CONFIG = "lmsae_dictionary"
"""In `metadata`: the config of what was written, from which `load` gives back batchtopk as batchtopk."""
ARCHITECTURES = {
    "standard": ("sae", "relu"),
    "gated": ("sae", "gated"),
    "topk": ("sae", "topk"),
    "abstopk": ("sae", "abstopk"),
    "jumprelu": ("sae", "jumprelu"),
    "matching_pursuit": ("sae", "matching_pursuit"),
    "transcoder": ("transcoder", "relu"),
    "skip_transcoder": ("skip_transcoder", "relu"),
    "jumprelu_transcoder": ("transcoder", "jumprelu"),
    "jumprelu_skip_transcoder": ("skip_transcoder", "jumprelu"),
}
"""SAELens' architectures, each as a geometry and an activation function."""
AT_INFERENCE = {"batchtopk": "jumprelu"}
"""Activation functions that are another one at inference."""
PER_TOKEN = {"token": "constant_norm_rescale"}
"""What SAELens can do to each token while it computes, so that it need not be folded."""


@dataclass(frozen=True, slots=True)
class ActFn:
    """How an activation function stands in a SAELens folder."""

    fields: Callable[[DictionaryConfig], dict[str, Any]] = lambda config: {}
    """What it adds to cfg.json."""
    options: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda fields: {}
    """The fields of its config here, from cfg.json."""
    weights: Callable[[Any], dict[str, Tensor]] = lambda sparsity: {}
    """SAELens' weights, from the module here."""
    state: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = lambda weights: {}
    """The module's state here, from SAELens' weights."""


def _selects_k(config: DictionaryConfig) -> dict[str, Any]:
    return {"k": min(cast(Any, config.act_fn).k, config.d_sae), "rescale_acts_by_decoder_norm": False}


def _pursues(config: DictionaryConfig) -> dict[str, Any]:
    k = cast(Any, config.act_fn).k
    return {"max_iterations": k, "residual_threshold": 0.0, "stop_on_duplicate_support": False}


def _threshold(sparsity: Any) -> dict[str, Tensor]:
    # SAELens computes ReLU(pre) * 1[pre > threshold]. Thresholds here are never negative, so that is pre * 1[pre > t].
    return {"threshold": sparsity.threshold}


def _observed_once(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    one = weights["threshold"][:1].double()
    return {"threshold_sum": one, "threshold_weight": torch.ones_like(one)}


_TOPK = ActFn(fields=_selects_k, options=lambda fields: {"k": fields["k"]})
ACT_FNS = {
    "relu": ActFn(),
    "gated": ActFn(
        weights=lambda sparsity: sparsity.state_dict(),
        state=lambda weights: {name: weights[name] for name in ("b_gate", "b_mag", "r_mag")},
    ),
    "topk": _TOPK,
    "abstopk": _TOPK,
    "jumprelu": ActFn(
        options=lambda fields: {"jumprelu_threshold": "direct"},
        weights=_threshold,
        state=lambda weights: {"direct_threshold": weights["threshold"]},
    ),
    "batchtopk": ActFn(weights=_threshold, state=_observed_once),
    "matching_pursuit": ActFn(
        fields=_pursues, options=lambda fields: {"k": fields.get("max_iterations") or fields["d_in"]}
    ),
}
