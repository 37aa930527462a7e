"""Folders of sparsify (EleutherAI), read: `cfg.json` and `sae.safetensors`.

SAEs become the geometry sae, transcoders transcoder or skip_transcoder, with topk or groupmax.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.interop.filling import filled, require

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
ACTIVATIONS = ("topk", "groupmax")


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a folder of sparsify, on the CPU, ready for inference: same codes, same outputs.

    Raises ExportError where lmsae has no exact counterpart.
    """
    fields, file = json.loads((Path(folder) / CONFIG).read_text()), Path(folder) / WEIGHTS
    if reason := _why_not(fields):
        raise ExportError(f"{folder}: {reason}")
    weights = {name: weight.float() for name, weight in load_file(file).items()}
    skips = bool(fields.get("skip_connection"))
    wanted = ("encoder.weight", "encoder.bias", "W_dec", "b_dec", *(("W_skip",) if skips else ()))
    require(wanted, weights, file, "a sparse coder", "sparsify's save_to_disk writes what can be read here.")
    geometry = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["encoder.bias"],
        **{name: weights[name] for name in wanted if name.startswith(("W_", "b_"))},
    }
    return filled(_config(fields, d_sae=len(weights["W_dec"])), geometry, {})


def _why_not(fields: Mapping[str, Any]) -> str | None:
    activation = fields.get("activation", "topk")
    if activation not in ACTIVATIONS:
        return f"lmsae reads sparsify's {' and '.join(ACTIVATIONS)}; this is {activation!r}."
    if fields.get("skip_connection") and not fields.get("transcode"):
        return "an SAE with a skip connection (skip_connection without transcode) has no counterpart in lmsae."
    return None


def _config(fields: Mapping[str, Any], d_sae: int) -> DictionaryConfig:
    transcoder = "skip_transcoder" if fields.get("skip_connection") else "transcoder"
    return DictionaryConfig.model_validate(
        {
            "widths": {"reads": [fields["d_in"]], "writes": [fields["d_in"]]},
            "d_sae": d_sae,
            "geometry": {"kind": transcoder if fields.get("transcode") else "sae"},
            "act_fn": {"kind": fields.get("activation", "topk"), "k": fields["k"]},
            "normalize_activations": "none",
        }
    )
