"""Folders of sparsify (EleutherAI), read: `cfg.json` and `sae.safetensors`.

SAEs become the geometry sae, and transcoders become transcoder or skip_transcoder, with topk or groupmax.
"""

import json
from pathlib import Path

from safetensors.torch import load_file

from lmsae.config import JsonObject
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.interop.filling import fill_dictionary, require_weights

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
ACTIVATIONS = ("topk", "groupmax")


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a folder of sparsify, on the CPU, ready for inference: same codes, same outputs.

    Raises ExportError if lmsae has no exact counterpart.
    """
    fields, file = json.loads((Path(folder) / CONFIG).read_text()), Path(folder) / WEIGHTS
    if reason := _obstacle(fields):
        raise ExportError(f"{folder}: {reason}")
    weights = {name: weight.float() for name, weight in load_file(file).items()}
    skips = bool(fields.get("skip_connection"))
    wanted = ("encoder.weight", "encoder.bias", "W_dec", "b_dec", *(("W_skip",) if skips else ()))
    require_weights(wanted, weights, file, "a sparse coder", "sparsify's save_to_disk writes what can be read here.")
    geometry = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["encoder.bias"],
        **{name: weights[name] for name in wanted if name.startswith(("W_", "b_"))},
    }
    return fill_dictionary(_config(fields, d_sae=len(weights["W_dec"])), geometry, {})


def _obstacle(fields: JsonObject) -> str | None:
    """The reason why lmsae has no exact counterpart, or None if it has one."""
    activation = fields.get("activation", "topk")
    if activation not in ACTIVATIONS:
        return f"lmsae reads sparsify's {' and '.join(ACTIVATIONS)}; this is {activation!r}."
    if fields.get("skip_connection") and not fields.get("transcode"):
        return "an SAE with a skip connection (skip_connection without transcode) has no counterpart in lmsae."
    return None


def _config(fields: JsonObject, d_sae: int) -> DictionaryConfig:
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
