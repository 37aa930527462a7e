"""Folders of dictionary_learning (Marks, Karvonen, Mueller), read: `ae.pt` and `config.json`.

    dictionary_learning                       lmsae
    AutoEncoder, AutoEncoderNew               sae with relu
    GatedAutoEncoder                          sae with gated
    JumpReluAutoEncoder                       sae with jumprelu
    AutoEncoderTopK                           sae with topk
    BatchTopKSAE, MatryoshkaBatchTopKSAE      sae with batchtopk

Its trainers fold the scale of activations into the weights before they save, so that these read raw activations. The
codes of a GatedAutoEncoder or JumpReluAutoEncoder are divided by decoder norms here; outputs are the same.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.interop.filling import fill_dictionary, require_weights

CONFIG, WEIGHTS = "config.json", "ae.pt"

State = Mapping[str, Tensor]


def _threshold_state(weights: State) -> dict[str, Tensor]:
    # A threshold below 0 means that none was learned yet: every positive pre is a code.
    threshold = weights["threshold"].double().clamp(min=0).reshape(1)
    return {"threshold_sum": threshold, "threshold_weight": (weights["threshold"] >= 0).double().reshape(1)}


@dataclass(frozen=True, slots=True)
class _Layout:
    """The weights of a class of dictionary_learning, by its names for them."""

    act_fn: str
    geometry: Mapping[str, str]
    """Its name for each parameter of the geometry. Weights of linear layers are transposed."""
    act_fn_weights: tuple[str, ...] = ()
    state: Callable[[State], dict[str, Tensor]] = lambda weights: {}
    """Makes the state of the activation function in lmsae."""
    apply_b_dec_to_input: bool = True
    ignored: tuple[str, ...] = ()


_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "b_dec"}
_PLAIN = {name: name for name in _LINEAR}
_LAYOUTS = {
    "AutoEncoder": _Layout("relu", {**_LINEAR, "b_dec": "bias"}),
    "AutoEncoderNew": _Layout("relu", {**_LINEAR, "b_dec": "decoder.bias"}, apply_b_dec_to_input=False),
    "GatedAutoEncoder": _Layout(
        "gated",
        {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias"},
        ("gate_bias", "mag_bias", "r_mag"),
        lambda weights: {"b_gate": weights["gate_bias"], "b_mag": weights["mag_bias"], "r_mag": weights["r_mag"]},
    ),
    "JumpReluAutoEncoder": _Layout(
        "jumprelu",
        _PLAIN,
        ("threshold",),
        lambda weights: {"direct_threshold": weights["threshold"]},
        apply_b_dec_to_input=False,
    ),
    "AutoEncoderTopK": _Layout("topk", _LINEAR, ("k", "threshold"), _threshold_state),
    "BatchTopKSAE": _Layout("batchtopk", _LINEAR, ("k", "threshold"), _threshold_state),
    "MatryoshkaBatchTopKSAE": _Layout(
        "batchtopk", _PLAIN, ("k", "threshold"), _threshold_state, ignored=("group_sizes",)
    ),
}


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a folder of dictionary_learning, on the CPU, ready for inference.

    The pickle is opened for tensors alone, and no code in it runs. Raises ExportError if lmsae has no exact
    counterpart, or if the file holds anything but tensors.
    """
    dict_class = json.loads((Path(folder) / CONFIG).read_text())["trainer"]["dict_class"]
    if dict_class not in _LAYOUTS:
        raise ExportError(f"{folder}: lmsae reads dictionary_learning's {', '.join(_LAYOUTS)}; this is {dict_class}.")
    layout, weights = _LAYOUTS[dict_class], _load_tensors(Path(folder) / WEIGHTS)
    wanted = {*layout.geometry.values(), *layout.act_fn_weights, *layout.ignored}
    again = "Open it with the version of dictionary_learning that wrote it, and save it again with the newest."
    require_weights(wanted, weights, Path(folder) / WEIGHTS, dict_class, again)
    geometry = {name: _transpose_linear(theirs, weights[theirs]) for name, theirs in layout.geometry.items()}
    return fill_dictionary(_config(layout, geometry["W_dec"], weights), geometry, layout.state(weights))


def _load_tensors(file: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        message = "holds more than tensors, and opening that would run code of whoever wrote it; lmsae does not"
        raise ExportError(f"{file} {message}. Save its state_dict() again.") from None
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _transpose_linear(name: str, weight: Tensor) -> Tensor:
    """A parameter of the geometry, (in, out). A linear layer has its weight as (out, in)."""
    return weight.T if name.endswith(".weight") else weight


def _config(layout: _Layout, W_dec: Tensor, weights: State) -> DictionaryConfig:
    d_sae, width = W_dec.shape
    options: dict[str, object] = {"k": int(weights["k"])} if "k" in weights else {}
    if layout.act_fn == "jumprelu":
        options["jumprelu_threshold"] = "direct"
    return DictionaryConfig.model_validate(
        {
            "widths": {"reads": [width], "writes": [width]},
            "d_sae": d_sae,
            "geometry": {"kind": "sae", "apply_b_dec_to_input": layout.apply_b_dec_to_input},
            "act_fn": {"kind": layout.act_fn, **options},
            "normalize_activations": "none",
        }
    )
