"""Folders of sparsify (EleutherAI), read: `cfg.json` and `sae.safetensors`.

SAEs become the geometry sae, and transcoders become transcoder or skip_transcoder, with topk or groupmax.
"""

import json
from pathlib import Path

from pydantic import PositiveInt

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.dictionary.reading import Fields, open_safetensors, read_config
from lmsae.errors import FolderError
from lmsae.interop.filling import fill_dictionary, make_config
from lmsae.interop.finished import Origin
from lmsae.interop.foreign_names import hook_point, texts

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
ACTIVATIONS = ("topk", "groupmax")
SHAPES = {
    "encoder.weight": ("d_sae", "d_in"),
    "encoder.bias": ("d_sae",),
    "W_dec": ("d_sae", "d_in"),
    "b_dec": ("d_in",),
}
SKIP = {"W_skip": ("d_in", "d_in")}


class _Fields(Fields):
    d_in: PositiveInt
    k: PositiveInt
    num_latents: int = 0
    """0 where expansion_factor * d_in is meant."""
    expansion_factor: int = 0
    activation: str = "topk"
    transcode: bool = False
    skip_connection: bool = False

    def obstacle(self) -> str | None:
        """The reason why lmsae has no exact counterpart, or None if it has one."""
        if self.activation not in ACTIVATIONS:
            return f"lmsae reads sparsify's {' and '.join(ACTIVATIONS)}; this is {self.activation!r}."
        if self.skip_connection and not self.transcode:
            return "an SAE with a skip connection (skip_connection without transcode) has no counterpart in lmsae."
        return None


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a folder of sparsify, on the CPU, ready for inference: same codes, same outputs.

    Raises FolderError if a file is missing or damaged, or if lmsae has no exact counterpart.
    """
    config, file = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    fields = _read_fields(config)
    found, wanted = open_safetensors(file), SHAPES | (SKIP if fields.skip_connection else {})
    sizes = {"d_in": fields.d_in} | ({"d_sae": fields.num_latents} if fields.num_latents else {})
    found.require(wanted, sizes, "a sparse coder", "sparsify's save_to_disk writes what can be read here.")
    weights = found.read_float32(wanted)
    geometry = {name: weight for name, weight in weights.items() if "." not in name}
    geometry |= {"W_enc": weights["encoder.weight"].T, "b_enc": weights["encoder.bias"]}
    return fill_dictionary(config, _config(config, fields, len(weights["W_dec"])), geometry, {})


def describe(folder: Path) -> tuple[DictionaryConfig, Origin]:
    """The config of the dictionary in a folder of sparsify, and its origin: by cfg.json where that has all sizes, else
    by the weights too. Raises FolderError.

    sparsify names a folder after the hook point, and writes the name of the model into config.json beside the folders.
    """
    fields = _read_fields(folder / CONFIG)
    d_sae = fields.num_latents or fields.expansion_factor * fields.d_in
    config = _config(folder / CONFIG, fields, d_sae) if d_sae > 0 else load(folder).config
    named = hook_point(folder.absolute().name)
    names = (named,) if named != folder.absolute().name and not fields.transcode else ()
    return config, Origin(models=_model_beside(folder), reads=names, writes=names)


def _model_beside(folder: Path) -> tuple[str, ...]:
    """The model that sparsify's training was told of, by config.json beside the folder; nothing if it does not say."""
    try:
        return texts([json.loads((folder.absolute().parent / "config.json").read_bytes()).get("model")])
    except (OSError, ValueError, AttributeError, RecursionError):
        return ()


def _read_fields(file: Path) -> _Fields:
    """The fields of a cfg.json. Raises FolderError if lmsae has no exact counterpart of what it describes."""
    fields = read_config(file, _Fields)
    if reason := fields.obstacle():
        raise FolderError(f"{file.parent}: {reason}")
    return fields


def _config(file: Path, fields: _Fields, d_sae: int) -> DictionaryConfig:
    transcoder = "skip_transcoder" if fields.skip_connection else "transcoder"
    return make_config(
        file,
        {
            "widths": {"reads": [fields.d_in], "writes": [fields.d_in]},
            "d_sae": d_sae,
            "geometry": {"kind": transcoder if fields.transcode else "sae"},
            "act_fn": {"kind": fields.activation, "k": fields.k},
            "normalize_activations": "none",
        },
    )
