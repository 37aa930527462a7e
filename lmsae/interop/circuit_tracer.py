"""Folders of circuit-tracer 0.5, written: a transcoder for each layer of a model, or a cross-layer transcoder.

A written folder computes on raw activations, in float32, what the dictionaries compute in `eval()` mode. Where latents
are selected by pre * norm, codes are multiplied by decoder norms. `config.yaml` names the kind, the model and the hook
points, as they are called within a layer. The weights are safetensors, whose files count layers from 0:

    layer_I.safetensors    of a set: W_enc (n, d), b_enc (n,), W_dec (n, d), b_dec (d,), and where there is one
                           W_skip (d, d) and activation_function.threshold (n,)
    W_enc_I.safetensors    of a clt: W_enc_I (n, d), b_enc_I (n,), b_dec_I (d,), and where there is one threshold_I (n,)
    W_dec_I.safetensors    of a clt: W_dec_I (n, L - I, d), what latents of layer I write to layers I, I + 1 ... L - 1

circuit-tracer takes a transcoder without thresholds for one with relu, and asks for every layer of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lmsae.dictionary.as_jumprelu import convert_to_jumprelu
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.geometry.clt import CLT
from lmsae.geometry.linear import Linear
from lmsae.lm.hook_points import split
from lmsae.runtime.tensors import save_tensors
from lmsae.sparsity.jumprelu import JumpReLU

CONFIG = "config.yaml"
TRANSCODERS = ("transcoder", "skip_transcoder")
THRESHOLD = "activation_function.threshold"
_CODES = ("relu", "jumprelu")
Kind = Literal["transcoder_set", "cross_layer_transcoder"]


@dataclass(frozen=True, slots=True)
class Member:
    """A dictionary that a folder is to hold: its name for people, its config, its model and its hook points."""

    name: str
    config: DictionaryConfig
    model: str
    reads: Sequence[str]
    writes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A folder before its weights are written: what `config.yaml` says, and the members by layer, each once."""

    kind: Kind
    model: str
    read: str
    written: str
    members: Sequence[Member]

    @property
    def has_skip(self) -> bool:
        """True if any member has a skip connection: then every file has one, which may be 0."""
        return any(member.config.geometry.kind == "skip_transcoder" for member in self.members)


def obstacle(config: DictionaryConfig) -> str | None:
    """The reason why circuit-tracer has no exact counterpart of such a dictionary, with a way out, or None."""
    geometry, act_fn = config.geometry, config.act_fn
    if geometry.kind not in (*TRANSCODERS, "clt"):
        return (
            f"circuit-tracer traces through transcoders and clts, and this is a {geometry.kind}. Train one that reads "
            "what the MLP reads and writes what it writes: sae.architecture transcoder, skip_transcoder or clt."
        )
    if getattr(geometry, "glu_encoder", False):
        return "circuit-tracer has no gate on the encoder (glu_encoder). Train without it."
    if len({*config.widths.reads, *config.widths.writes}) > 1:
        return (
            f"circuit-tracer has one width for all hook points, and this one reads {config.widths.reads} and writes "
            f"{config.widths.writes}."
        )
    if act_fn.kind in _CODES or is_jumprelu_at_inference(config):
        return None
    if may_be_converted(config):
        return (
            f"circuit-tracer 0.5 has {' and '.join(_CODES)}, and this is {act_fn.kind}. --convert writes it as a "
            "jumprelu, and says what that costs."
        )
    return (
        f"circuit-tracer 0.5 has {' and '.join(_CODES)}, and {act_fn.kind} cannot be a jumprelu: "
        f"{act_fn.not_jumprelu_because}."
    )


def is_jumprelu_at_inference(config: DictionaryConfig) -> bool:
    """True if latents fire above a threshold at inference, and nowhere else, so that conversion changes no code."""
    return config.act_fn.selects_over_batch and config.act_fn.not_jumprelu_because is None


def may_be_converted(config: DictionaryConfig) -> bool:
    """True if it can be a jumprelu of other codes, which conversion makes and tells the cost of."""
    return config.act_fn.not_jumprelu_because is None and not is_jumprelu_at_inference(config)


def arrange(members: Sequence[Member], layers: int) -> Arrangement:
    """The folder of members for a model of so many layers. Raises ExportError, naming all that cannot be so."""
    faults = [f"{one.name}: {reason}" for one in members if (reason := obstacle(one.config))]
    if faults:
        raise ExportError("\n".join(faults))
    is_clt = members[0].config.geometry.kind == "clt"
    if is_clt and len(members) > 1:
        raise ExportError(
            f"a cross-layer transcoder is a folder of its own, and {members[0].name} is one. Export it alone."
        )
    places = _places(members)
    _require_every_layer(places, layers)
    return Arrangement(
        "cross_layer_transcoder" if is_clt else "transcoder_set",
        _one([member.model for member in members], "model"),
        _one([place.read for place in places], "hook point to read"),
        _one([place.written for place in places], "hook point to write"),
        members if is_clt else [place.member for place in sorted(places, key=lambda place: place.layer)],
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """A layer of the model that a member stands for, and the hook points there as they are named within a layer."""

    layer: int
    read: str
    written: str
    member: Member


def _places(members: Sequence[Member]) -> list[_Place]:
    """The layers of all members. Raises ExportError where circuit-tracer cannot have them so."""
    found, faults = [], []
    for member in members:
        for number, (read, written) in enumerate(zip(member.reads, member.writes, strict=True)):
            (reading, read), (writing, written) = split(read), split(written)
            found.append(_Place(reading, read, written, member))
            if reading != writing:
                faults.append(
                    f"{member.name} reads layer {reading} and writes layer {writing}; circuit-tracer's transcoders "
                    "read and write the same layer."
                )
            elif member.config.geometry.kind == "clt" and reading != number:
                faults.append(f"{member.name} reads layer {reading} as its number {number}; wanted: layers in order.")
    sizes = sorted({(one.config.d_sae, one.config.widths.reads[0]) for one in members})
    if len(sizes) > 1:
        said = " and ".join(f"{latents:,} latents of width {width}" for latents, width in sizes)
        faults.append(f"circuit-tracer's transcoders have the same sizes in every layer, and these have {said}.")
    if faults:
        raise ExportError("\n".join(faults))
    return found


def _one(found: Sequence[str], which: str) -> str:
    if len(names := [*dict.fromkeys(found)]) > 1:
        raise ExportError(f"circuit-tracer has one {which} for all layers, and these have {' and '.join(names)}.")
    return names[0]


def _require_every_layer(places: Sequence[_Place], layers: int) -> None:
    """Raise ExportError if a layer has no dictionary, or two."""
    by_layer = {layer: [place.member.name for place in places if place.layer == layer] for layer in range(layers)}
    twice = [f"layer {layer} has {' and '.join(names)}" for layer, names in by_layer.items() if len(names) > 1]
    if twice:
        raise ExportError(f"circuit-tracer has one dictionary a layer; {'; '.join(twice)}. Name one of them.")
    if missing := [str(layer) for layer, names in by_layer.items() if not names]:
        raise ExportError(
            f"circuit-tracer replaces the MLP in each of the model's {layers} layers, and there is no dictionary for "
            f"layer {', '.join(missing)}. Add rows for these layers, and name all rows."
        )


def write_layer(dictionary: Dictionary, layer: int, folder: Path, *, has_skip: bool) -> None:
    """Write a transcoder as the file of its layer. Raises ExportError where scales cannot be folded into weights."""
    raw, thresholds = _fold(dictionary)
    geometry = raw.geometry
    assert isinstance(geometry, Linear)
    weights = {"W_enc": geometry.encoder.T, "b_enc": geometry.b_enc, "W_dec": geometry.W_dec, "b_dec": geometry.b_dec}
    if has_skip:
        d = len(geometry.b_dec)
        weights["W_skip"] = geometry.W_dec.new_zeros(d, d) if geometry.W_skip is None else geometry.W_skip
    if thresholds is not None:
        weights[THRESHOLD] = thresholds
    _save(weights, folder / f"layer_{layer}.safetensors")


def write_clt(dictionary: Dictionary, folder: Path) -> None:
    """Write a cross-layer transcoder as the files of its layers. Raises ExportError as `write_layer`."""
    raw, thresholds = _fold(dictionary)
    geometry = raw.geometry
    assert isinstance(geometry, CLT)
    layers = geometry.groups
    assert geometry.b_enc is not None
    of_layers = {"b_enc": geometry.b_enc.view(layers, -1), "b_dec": geometry.b_dec.view(layers, -1)}
    if thresholds is not None:
        of_layers["threshold"] = thresholds.view(layers, -1)
    for layer in range(layers):
        encoder = {f"W_enc_{layer}": geometry.W_enc[layer].T}
        encoder |= {f"{name}_{layer}": values[layer] for name, values in of_layers.items()}
        rows = geometry.W_dec[layer]
        _save(encoder, folder / f"W_enc_{layer}.safetensors")
        _save({f"W_dec_{layer}": rows.view(len(rows), layers - layer, -1)}, folder / f"W_dec_{layer}.safetensors")


def write_config(arrangement: Arrangement, folder: Path, scan: str) -> None:
    """Write `config.yaml`. `scan` is the name by which circuit-tracer looks for descriptions of latents."""
    import yaml

    said = {
        "model_kind": arrangement.kind,
        "model_name": arrangement.model,
        "feature_input_hook": arrangement.read,
        "feature_output_hook": arrangement.written,
        "scan": scan,
    }
    (folder / CONFIG).write_text(yaml.safe_dump(said, sort_keys=False), "utf-8")


def _fold(dictionary: Dictionary) -> tuple[Dictionary, Tensor | None]:
    """The dictionary for raw activations, and the threshold of each latent if they have one."""
    exact = convert_to_jumprelu(dictionary) if is_jumprelu_at_inference(dictionary.config) else dictionary
    raw = exact.fold_normalizers()
    return raw, raw.sparsity.threshold if isinstance(raw.sparsity, JumpReLU) else None


def _save(weights: Mapping[str, Tensor | None], file: Path) -> None:
    with torch.no_grad():
        found = {name: weight.float().cpu().contiguous() for name, weight in weights.items() if weight is not None}
    save_tensors({name: weight.detach().clone() for name, weight in found.items()}, file)
