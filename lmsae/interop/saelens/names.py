"""The layout of a SAELens folder: its files, its architectures, and the fields and weights of activation functions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lmsae.config import JsonObject
from lmsae.dictionary.config import DictionaryConfig
from lmsae.sparsity.config import SelectsK

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
NOTES = "notes.txt"
"""The file that tells what differs in SAELens, or surprises there."""
VERSION = 6
"""The layout is that of SAELens 6.0, which migrates folders of earlier versions."""
OWN_CONFIG = "lmsae_dictionary"
"""The name in `metadata` of the written dictionary's config. By it `load` gives back batchtopk as batchtopk."""
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
"""The activation functions that become another one at inference."""
SHAPES: dict[str, tuple[str, ...]] = {
    "W_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
    "W_skip": ("d_out", "d_in"),
    "b_gate": ("d_sae",),
    "b_mag": ("d_sae",),
    "r_mag": ("d_sae",),
    "threshold": ("d_sae",),
}
"""The dimensions of SAELens' weights."""
PER_TOKEN = {"token": "constant_norm_rescale"}
"""The normalizations that SAELens can do to each token, so that no weight needs to change."""


def training_architecture(config: DictionaryConfig, losses: Iterable[str]) -> str:
    """The architecture that a dictionary was trained as, which need not be that of its folder: a batchtopk, and a
    matryoshka_batchtopk, is a jumprelu at inference. What SAELens does not train has a name made in the same way.
    """
    act_fn, geometry = config.act_fn.kind, config.geometry.kind
    words = ["matryoshka"] if {"nested", "nested_sampled"} & {*losses} else []
    words += [] if act_fn == "relu" else [act_fn]
    words += ["standard"] if (act_fn, geometry) == ("relu", "sae") else []
    return "_".join([*words, *([] if geometry == "sae" else [geometry])])


@dataclass(frozen=True, slots=True)
class ActFn:
    """The fields and weights of an activation function in a SAELens folder."""

    fields: Callable[[DictionaryConfig], dict[str, object]] = lambda config: {}
    """Makes its fields of cfg.json."""
    options: Callable[[JsonObject], dict[str, object]] = lambda fields: {}
    """Makes the fields of its config in lmsae from cfg.json."""
    names: tuple[str, ...] = ()
    """The names of its weights."""
    weights: Callable[[nn.Module], dict[str, Tensor]] = lambda sparsity: {}
    """Makes SAELens' weights from the module of lmsae."""
    state: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = lambda weights: {}
    """Makes the state of the module of lmsae from SAELens' weights."""


@runtime_checkable
class _HasThreshold(Protocol):
    @property
    def threshold(self) -> Tensor: ...


def _topk_fields(config: DictionaryConfig) -> dict[str, object]:
    return {"k": min(_k_of(config), config.d_sae), "rescale_acts_by_decoder_norm": False}


def _pursuit_fields(config: DictionaryConfig) -> dict[str, object]:
    return {"max_iterations": _k_of(config), "residual_threshold": 0.0, "stop_on_duplicate_support": False}


def _k_of(config: DictionaryConfig) -> int:
    assert isinstance(config.act_fn, SelectsK)
    return config.act_fn.k


def _threshold(sparsity: nn.Module) -> dict[str, Tensor]:
    assert isinstance(sparsity, _HasThreshold)
    # SAELens computes ReLU(pre) * 1[pre > threshold]. No threshold is negative, so that is pre * 1[pre > threshold].
    return {"threshold": sparsity.threshold}


def _threshold_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    one = weights["threshold"][:1].double()
    return {"threshold_sum": one, "threshold_weight": torch.ones_like(one)}


_TOPK = ActFn(fields=_topk_fields, options=lambda fields: {"k": fields["k"]})
ACT_FNS = {
    "relu": ActFn(),
    "gated": ActFn(
        names=("b_gate", "b_mag", "r_mag"),
        weights=lambda sparsity: sparsity.state_dict(),
        state=lambda weights: {name: weights[name] for name in ("b_gate", "b_mag", "r_mag")},
    ),
    "topk": _TOPK,
    "abstopk": _TOPK,
    "jumprelu": ActFn(
        options=lambda fields: {"jumprelu_threshold": "direct"},
        names=("threshold",),
        weights=_threshold,
        state=lambda weights: {"direct_threshold": weights["threshold"]},
    ),
    "batchtopk": ActFn(names=("threshold",), weights=_threshold, state=_threshold_state),
    "matching_pursuit": ActFn(
        fields=_pursuit_fields, options=lambda fields: {"k": fields.get("max_iterations") or fields["d_in"]}
    ),
}
