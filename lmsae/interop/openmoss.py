"""Folders of Language-Model-SAEs (OpenMOSS), read: `config.json` and `sae_weights.safetensors`.

Its SAEs with relu or jumprelu become the geometry sae, or transcoder if they write another hook point than they read.
Language-Model-SAEs normalizes activations outside of the SAE. A dictionary of lmsae normalizes them itself: it reads
and writes raw activations, with the same codes.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import PositiveInt
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.dictionary.normalizer import Scale
from lmsae.dictionary.reading import Fields, Weights, open_safetensors, read_config
from lmsae.errors import FolderError
from lmsae.interop.filling import fill_dictionary, make_config
from lmsae.interop.finished import Origin
from lmsae.interop.foreign_names import hook_point

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
NORM = "dataset_average_activation_norm."
THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
"""Its name for log thresholds, and its former name."""
ACT_FNS = ("relu", "jumprelu")
NORMALIZATIONS = {"dataset-wise": "dataset", "token-wise": "token", "inference": "none"}
"""Its normalizations, each as one of lmsae. By `inference` it means scales that are folded into the weights."""
GEOMETRY = {"W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec", "W_E_glu": "W_glu", "b_E_glu": "b_glu"}
SHAPES = {
    "W_E": ("d_model", "d_sae"),
    "b_E": ("d_sae",),
    "W_D": ("d_sae", "d_model"),
    "b_D": ("d_model",),
    "W_E_glu": ("d_model", "d_sae"),
    "b_E_glu": ("d_sae",),
}


class _Kind(Fields):
    sae_type: str | None = None


class _Fields(Fields):
    act_fn: str
    norm_activation: str
    d_model: PositiveInt
    hook_point_in: str
    hook_point_out: str
    sparsity_include_decoder_norm: bool = True
    use_decoder_bias: bool = True
    use_glu_encoder: bool = False
    apply_decoder_bias_to_pre_encoder: bool = False
    expansion_factor: object = None

    @property
    def d_sae(self) -> int | None:
        """The number of latents, if it says by how much they are more than d_model."""
        factor = self.expansion_factor
        return round(factor * self.d_model) if isinstance(factor, int | float) and 0 < factor < 1 << 24 else None

    @property
    def origin(self) -> Origin:
        """The hook points that it names; of the model it says nothing."""
        return Origin(reads=(hook_point(self.hook_point_in),), writes=(hook_point(self.hook_point_out),))

    @property
    def is_sae(self) -> bool:
        """True if it writes the hook point that it reads."""
        return self.hook_point_in == self.hook_point_out

    @property
    def subtracts_bias(self) -> bool:
        """True if the encoder reads x - b_D, as it could in older folders."""
        return self.apply_decoder_bias_to_pre_encoder and self.use_decoder_bias

    def shapes(self, found: Weights) -> dict[str, tuple[str, ...]]:
        """The dimensions of the weights that it should have, without norms."""
        names = ["W_E", "b_E", "W_D"]
        names += ["b_D"] if self.use_decoder_bias else []
        names += ["W_E_glu", "b_E_glu"] if self.use_glu_encoder else []
        thresholds = {_threshold(found.shapes): ("d_sae",)} if self.act_fn == "jumprelu" else {}
        return {name: SHAPES[name] for name in names} | thresholds

    def obstacle(self) -> str | None:
        """The reason why lmsae has no exact counterpart, or None if it has one."""
        if self.act_fn not in ACT_FNS:
            return (
                f"lmsae reads act_fn {' and '.join(ACT_FNS)}; this is {self.act_fn!r}, whose codes need not be the "
                "same here. Convert it to jumprelu in Language-Model-SAEs first."
            )
        if self.norm_activation not in NORMALIZATIONS:
            return f"norm_activation is {self.norm_activation!r}, so that codes depend on the other tokens of a batch."
        if self.norm_activation == "token-wise" and not self.is_sae:
            return "norm_activation is 'token-wise', but the norm of an output that is not read cannot be known."
        if self.subtracts_bias and not self.is_sae:
            return "apply_decoder_bias_to_pre_encoder is true, but the b_dec of a transcoder here is never subtracted."
        if self.subtracts_bias and self.use_glu_encoder:
            return (
                "apply_decoder_bias_to_pre_encoder is true, but a GLU encoder's gate here reads x without subtraction."
            )
        return None


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a folder of Language-Model-SAEs, on the CPU, ready for inference.

    Raises FolderError if a file is missing or damaged, or if lmsae has no exact counterpart.
    """
    file = Path(folder) / CONFIG
    fields = _read_fields(file)
    found = open_safetensors(Path(folder) / WEIGHTS)
    norms, wanted = dict.fromkeys((name for name in found.shapes if name.startswith(NORM)), ()), fields.shapes(found)
    again = "Its save_pretrained writes what can be read here."
    found.require(wanted | norms, {"d_model": fields.d_model}, "such an SAE", again)
    weights = found.read_float32(wanted)
    config = _config(file, fields, d_sae=len(weights["W_D"]))
    dictionary = fill_dictionary(file, config, _geometry(weights, config.d_out), _act_fn(weights))
    if config.normalize_activations == "dataset":
        for normalizer, hook_point in (
            (dictionary.read, fields.hook_point_in),
            (dictionary.write, fields.hook_point_out),
        ):
            assert isinstance(normalizer, Scale)
            normalizer.set([math.sqrt(fields.d_model) / _norm(found, hook_point)])
    return dictionary


def describe(folder: Path) -> tuple[DictionaryConfig, Origin]:
    """The config of the dictionary in a folder of Language-Model-SAEs, and its origin: by config.json where that has
    all sizes, else by the weights too. Raises FolderError."""
    fields = _read_fields(folder / CONFIG)
    config = _config(folder / CONFIG, fields, fields.d_sae) if fields.d_sae else load(folder).config
    return config, fields.origin


def _read_fields(file: Path) -> _Fields:
    """The fields of a config.json. Raises FolderError if lmsae has no exact counterpart of what it describes."""
    if (kind := read_config(file, _Kind).sae_type) != "sae":
        raise FolderError(
            f"{file.parent}: lmsae reads OpenMOSS' SAEs and transcoders (sae_type 'sae'); this is {kind!r}."
        )
    fields = read_config(file, _Fields)
    if reason := fields.obstacle():
        raise FolderError(f"{file.parent}: {reason}")
    return fields


def _norm(found: Weights, hook_point: str) -> float:
    name = NORM + hook_point
    norm = found.read_float32([name])[name].item() if name in found.shapes else 0.0
    if not norm > 0:
        raise FolderError(f"{found.file} does not say the mean norm of activations at {hook_point} ({name}).")
    return norm


def _threshold(names: Mapping[str, object]) -> str:
    """The name of log thresholds in the file or, if there are none, the name that they should have."""
    return next((name for name in THRESHOLDS if name in names), THRESHOLDS[0])


def _geometry(weights: Mapping[str, Tensor], d_out: int) -> dict[str, Tensor]:
    without_bias = {"b_dec": torch.zeros(d_out)}
    return without_bias | {ours: weights[theirs] for theirs, ours in GEOMETRY.items() if theirs in weights}


def _act_fn(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name = _threshold(weights)
    return {"log_threshold": weights[name]} if name in weights else {}


def _config(file: Path, fields: _Fields, d_sae: int) -> DictionaryConfig:
    sae = {"kind": "sae", "apply_b_dec_to_input": fields.subtracts_bias}
    geometry = sae if fields.is_sae else {"kind": "transcoder"}
    return make_config(
        file,
        {
            "widths": {"reads": [fields.d_model], "writes": [fields.d_model]},
            "d_sae": d_sae,
            "geometry": {**geometry, "glu_encoder": fields.use_glu_encoder},
            "act_fn": {"kind": fields.act_fn},
            "normalize_activations": NORMALIZATIONS[fields.norm_activation],
            "sparsity_include_decoder_norm": fields.sparsity_include_decoder_norm,
        },
    )
