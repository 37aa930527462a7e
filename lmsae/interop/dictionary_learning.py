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

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, PositiveInt
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.dictionary.reading import Fields, open_tensors, read_config
from lmsae.errors import FolderError
from lmsae.interop.filling import fill_dictionary, make_config
from lmsae.interop.finished import Origin
from lmsae.interop.foreign_names import hook_point, model_name, texts

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
    act_fn_weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The dimensions of each weight of the activation function."""
    state: Callable[[State], dict[str, Tensor]] = lambda weights: {}
    """Makes the state of the activation function in lmsae."""
    apply_b_dec_to_input: bool = True
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[str, ...]]:
        """The dimensions of all weights. A linear layer has its weight as (out, in)."""
        geometry = {
            theirs: SHAPES[ours][::-1] if theirs.endswith(".weight") else SHAPES[ours]
            for ours, theirs in self.geometry.items()
        }
        return {**geometry, **self.act_fn_weights, **self.ignored}


SHAPES = {"W_enc": ("d_in", "d_sae"), "b_enc": ("d_sae",), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "b_dec"}
_PLAIN = {name: name for name in _LINEAR}
_LEARNED: dict[str, tuple[str, ...]] = {"k": (), "threshold": ()}
_LAYOUTS = {
    "AutoEncoder": _Layout("relu", {**_LINEAR, "b_dec": "bias"}),
    "AutoEncoderNew": _Layout("relu", {**_LINEAR, "b_dec": "decoder.bias"}, apply_b_dec_to_input=False),
    "GatedAutoEncoder": _Layout(
        "gated",
        {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias"},
        dict.fromkeys(("gate_bias", "mag_bias", "r_mag"), ("d_sae",)),
        lambda weights: {"b_gate": weights["gate_bias"], "b_mag": weights["mag_bias"], "r_mag": weights["r_mag"]},
    ),
    "JumpReluAutoEncoder": _Layout(
        "jumprelu",
        _PLAIN,
        {"threshold": ("d_sae",)},
        lambda weights: {"direct_threshold": weights["threshold"]},
        apply_b_dec_to_input=False,
    ),
    "AutoEncoderTopK": _Layout("topk", _LINEAR, _LEARNED, _threshold_state),
    "BatchTopKSAE": _Layout("batchtopk", _LINEAR, _LEARNED, _threshold_state),
    "MatryoshkaBatchTopKSAE": _Layout(
        "batchtopk", _PLAIN, _LEARNED, _threshold_state, ignored={"group_sizes": ("groups",)}
    ),
}


def _hook_point(module: str) -> str:
    """The hook point at the output of a module, by dictionary_learning's name for it, such as resid_post_layer_3."""
    match = re.fullmatch(r"(resid_post|attn|mlp)_layer_?(\d+)", module)
    kinds = {"resid_post": "hook_resid_post", "attn": "hook_attn_out", "mlp": "hook_mlp_out"}
    return f"blocks.{match[2]}.{kinds[match[1]]}" if match else hook_point(module)


class _Trainer(Fields):
    dict_class: str
    activation_dim: PositiveInt | None = None
    dict_size: PositiveInt | None = None
    k: object = None
    lm_name: object = None
    layer: object = None
    module: object = Field(default=None, alias="submodule_name")

    @property
    def origin(self) -> Origin:
        """The model and the hook point that its trainer names."""
        models = tuple(map(model_name, texts([self.lm_name])))
        names = tuple(_hook_point(name) for name in texts([self.module]))
        return Origin(models=models, reads=names, writes=names)


class _Fields(Fields):
    trainer: _Trainer


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a folder of dictionary_learning, on the CPU, ready for inference.

    The pickle is opened for tensors alone, and no code in it runs. Raises FolderError if a file is missing or damaged,
    if it holds anything but tensors, or if lmsae has no exact counterpart.
    """
    config = Path(folder) / CONFIG
    trainer = _read_trainer(config)
    layout, found = _LAYOUTS[trainer.dict_class], open_tensors(Path(folder) / WEIGHTS)
    sizes = {"d_in": trainer.activation_dim, "d_sae": trainer.dict_size}
    again = "Open it with the version of dictionary_learning that wrote it, and save it again with the newest."
    found.require(layout.shapes, {word: size for word, size in sizes.items() if size}, trainer.dict_class, again)
    weights = found.read_float32(layout.shapes.keys() - {"k", *layout.ignored})
    geometry = {
        ours: weights[theirs].T if theirs.endswith(".weight") else weights[theirs]
        for ours, theirs in layout.geometry.items()
    }
    made = _config(config, layout, geometry["W_dec"].shape, found.read_count("k") if "k" in found.shapes else None)
    return fill_dictionary(config, made, geometry, layout.state(weights))


def describe(folder: Path) -> tuple[DictionaryConfig, Origin]:
    """The config of the dictionary in a folder of dictionary_learning, and its origin: by config.json where that has
    all sizes, else by the weights too. Raises FolderError."""
    trainer = _read_trainer(folder / CONFIG)
    layout, k = _LAYOUTS[trainer.dict_class], trainer.k
    has_k = "k" in layout.shapes
    if not (trainer.dict_size and trainer.activation_dim) or (has_k and not (isinstance(k, int) and k > 0)):
        return load(folder).config, trainer.origin
    sizes = trainer.dict_size, trainer.activation_dim
    return _config(folder / CONFIG, layout, sizes, k if has_k else None), trainer.origin


def _read_trainer(file: Path) -> _Trainer:
    """The trainer that config.json describes. Raises FolderError if lmsae has no counterpart of its class."""
    trainer = read_config(file, _Fields).trainer
    if trainer.dict_class not in _LAYOUTS:
        known = ", ".join(_LAYOUTS)
        raise FolderError(f"{file.parent}: lmsae reads dictionary_learning's {known}; this is {trainer.dict_class}.")
    return trainer


def _config(file: Path, layout: _Layout, sizes: Sequence[int], k: object) -> DictionaryConfig:
    d_sae, width = sizes
    options: dict[str, object] = {} if k is None else {"k": k}
    if layout.act_fn == "jumprelu":
        options["jumprelu_threshold"] = "direct"
    return make_config(
        file,
        {
            "widths": {"reads": [width], "writes": [width]},
            "d_sae": d_sae,
            "geometry": {"kind": "sae", "apply_b_dec_to_input": layout.apply_b_dec_to_input},
            "act_fn": {"kind": layout.act_fn, **options},
            "normalize_activations": "none",
        },
    )
