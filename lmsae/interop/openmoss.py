"""Folders of Language-Model-SAEs (OpenMOSS), read: `config.json` and `sae_weights.safetensors`.

Its SAEs with relu or jumprelu become the geometry sae, or transcoder if they write another hook point than they read.
Language-Model-SAEs normalizes activations outside of the SAE. A dictionary of lmsae normalizes them itself: it reads
and writes raw activations, with the same codes.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lmsae.config import JsonObject
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.dictionary.normalizer import Scale
from lmsae.errors import ExportError
from lmsae.interop.filling import fill_dictionary, require_weights

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
NORM = "dataset_average_activation_norm."
THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
"""Its name for log thresholds, and its former name."""
ACT_FNS = ("relu", "jumprelu")
NORMALIZATIONS = {"dataset-wise": "dataset", "token-wise": "token", "inference": "none"}
"""Its normalizations, each as one of lmsae. By `inference` it means scales that are folded into the weights."""
GEOMETRY = {"W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec", "W_E_glu": "W_glu", "b_E_glu": "b_glu"}


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a folder of Language-Model-SAEs, on the CPU, ready for inference.

    Raises ExportError if lmsae has no exact counterpart.
    """
    fields, file = json.loads((Path(folder) / CONFIG).read_text()), Path(folder) / WEIGHTS
    if reason := _obstacle(fields):
        raise ExportError(f"{folder}: {reason}")
    found = {name: weight.float() for name, weight in load_file(file).items()}
    norms = {name.removeprefix(NORM): value.item() for name, value in found.items() if name.startswith(NORM)}
    weights = {name: value for name, value in found.items() if not name.startswith(NORM)}
    require_weights(
        _names(fields, weights), weights, file, "such an SAE", "Its save_pretrained writes what can be read here."
    )
    config = _config(fields, d_sae=len(weights["W_D"]))
    dictionary = fill_dictionary(config, _geometry(weights, config.d_out), _act_fn(weights))
    if config.normalize_activations == "dataset":
        for normalizer, end in ((dictionary.read, "in"), (dictionary.write, "out")):
            norm = _norm(norms, fields[f"hook_point_{end}"], file)
            assert isinstance(normalizer, Scale)
            normalizer.set([math.sqrt(fields["d_model"]) / norm])
    return dictionary


def _norm(norms: Mapping[str, float], hook_point: str, file: Path) -> float:
    if not norms.get(hook_point, 0) > 0:
        raise ExportError(f"{file} does not say the mean norm of activations at {hook_point} ({NORM}{hook_point}).")
    return norms[hook_point]


def _obstacle(fields: JsonObject) -> str | None:
    """The reason why lmsae has no exact counterpart, or None if it has one."""
    if fields.get("sae_type") != "sae":
        return f"lmsae reads OpenMOSS' SAEs and transcoders (sae_type 'sae'); this is {fields.get('sae_type')!r}."
    if fields["act_fn"] not in ACT_FNS:
        return (
            f"lmsae reads act_fn {' and '.join(ACT_FNS)}; this is {fields['act_fn']!r}, whose codes need not be the "
            "same here. Convert it to jumprelu in Language-Model-SAEs first."
        )
    if fields["norm_activation"] not in NORMALIZATIONS:
        return f"norm_activation is {fields['norm_activation']!r}, so that codes depend on the other tokens of a batch."
    if fields["norm_activation"] == "token-wise" and fields["hook_point_in"] != fields["hook_point_out"]:
        return "norm_activation is 'token-wise', but the norm of an output that is not read cannot be known."
    if _subtracts_bias(fields):
        if fields["hook_point_in"] != fields["hook_point_out"]:
            return "apply_decoder_bias_to_pre_encoder is true, but the b_dec of a transcoder here is never subtracted."
        if fields.get("use_glu_encoder"):
            return (
                "apply_decoder_bias_to_pre_encoder is true, but a GLU encoder's gate here reads x without subtraction."
            )
    return None


def _subtracts_bias(fields: JsonObject) -> bool:
    """True if the encoder reads x - b_D, as it could in older folders."""
    return bool(fields.get("apply_decoder_bias_to_pre_encoder")) and fields.get("use_decoder_bias", True)


def _names(fields: JsonObject, weights: Mapping[str, Tensor]) -> list[str]:
    names = ["W_E", "b_E", "W_D"]
    names += ["b_D"] if fields.get("use_decoder_bias", True) else []
    names += ["W_E_glu", "b_E_glu"] if fields.get("use_glu_encoder") else []
    return names + ([_threshold(weights)] if fields["act_fn"] == "jumprelu" else [])


def _threshold(weights: Mapping[str, Tensor]) -> str:
    """The name of log thresholds in the file or, if there are none, the name that they should have."""
    return next((name for name in THRESHOLDS if name in weights), THRESHOLDS[0])


def _geometry(weights: Mapping[str, Tensor], d_out: int) -> dict[str, Tensor]:
    without_bias = {"b_dec": torch.zeros(d_out)}
    return without_bias | {ours: weights[theirs] for theirs, ours in GEOMETRY.items() if theirs in weights}


def _act_fn(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name = _threshold(weights)
    return {"log_threshold": weights[name]} if name in weights else {}


def _config(fields: JsonObject, d_sae: int) -> DictionaryConfig:
    sae = {"kind": "sae", "apply_b_dec_to_input": _subtracts_bias(fields)}
    geometry = sae if fields["hook_point_in"] == fields["hook_point_out"] else {"kind": "transcoder"}
    return DictionaryConfig.model_validate(
        {
            "widths": {"reads": [fields["d_model"]], "writes": [fields["d_model"]]},
            "d_sae": d_sae,
            "geometry": {**geometry, "glu_encoder": bool(fields.get("use_glu_encoder"))},
            "act_fn": {"kind": fields["act_fn"]},
            "normalize_activations": NORMALIZATIONS[fields["norm_activation"]],
            "sparsity_include_decoder_norm": fields.get("sparsity_include_decoder_norm", True),
        }
    )
