"""A SAELens folder as a dictionary, and the obstacles to that."""

import json
from pathlib import Path

from safetensors.torch import load_file

from lmsae.config import JsonObject
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.geometry.config import GEOMETRIES
from lmsae.interop.filling import fill_dictionary, require_weights
from lmsae.interop.saelens import names as layout
from lmsae.interop.saelens.names import ARCHITECTURES, CONFIG, OWN_CONFIG, PER_TOKEN, VERSION, WEIGHTS
from lmsae.sparsity.config import ACT_FNS


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a SAELens folder, on the CPU, ready for inference: it computes what SAELens computes.

    From a folder that lmsae wrote, codes and outputs are those of the written dictionary, bit for bit if no scale was
    folded in. Raises ExportError if lmsae has no exact counterpart.
    """
    fields = json.loads((Path(folder) / CONFIG).read_text())
    if reason := _obstacle(fields):
        raise ExportError(f"{folder}: {reason}")
    weights = {name: weight.float() for name, weight in load_file(Path(folder) / WEIGHTS).items()}
    config = _config_of(fields)
    fresh, act_fn = Dictionary(config), layout.ACT_FNS[config.act_fn.kind]
    names = [*fresh.geometry.state_dict(), *act_fn.weights(fresh.sparsity)]
    again = "SAELens' save_model and save_inference_model write what can be read here."
    require_weights(names, weights, Path(folder) / WEIGHTS, fields["architecture"], again)
    geometry = {name: weights[name] for name in fresh.geometry.state_dict()}
    dictionary = fill_dictionary(config, geometry, act_fn.state(weights))
    if fields.get("rescale_acts_by_decoder_norm"):
        dictionary.geometry.fold_norms()
    return dictionary


def _obstacle(fields: JsonObject) -> str | None:
    """The reason why lmsae has no exact counterpart of this cfg.json, or None if it has one."""
    version = str(fields.get("metadata", {}).get("sae_lens_version") or "0")
    if int(version.split(".")[0]) < VERSION:
        again = "open it with SAELens and save it again: SAE.load_from_disk(folder).save_model(folder)."
        return f"its layout is older than SAELens {VERSION}; {again}"
    architecture, normalization = fields["architecture"], fields.get("normalize_activations", "none")
    if architecture not in ARCHITECTURES:
        return f"lmsae reads SAELens' {', '.join(ARCHITECTURES)}; this is {architecture!r}."
    if normalization not in ("none", *PER_TOKEN.values()):
        return (
            f"normalize_activations is {normalization!r}; lmsae reads folders whose scale is folded into the weights "
            "('none'). SAELens' fold_activation_norm_scaling_factor does that."
        )
    if normalization in PER_TOKEN.values() and ARCHITECTURES[architecture][0] == "skip_transcoder":
        return (
            f"normalize_activations is {normalization!r}, but W_skip reads tokens as they are; lmsae has no such one."
        )
    if architecture == "matching_pursuit":
        wanted = {"residual_threshold": 0.0, "stop_on_duplicate_support": False, "apply_b_dec_to_input": True}
        other = {name: fields.get(name) for name, value in wanted.items() if fields.get(name) != value}
        if other:
            here = ", ".join(f"{name} {wanted[name]}" for name in other)
            return f"lmsae's matching pursuit takes all its steps: it has {here}, and this folder {other}."
    return None


def _config_of(fields: JsonObject) -> DictionaryConfig:
    own = fields["metadata"].get(OWN_CONFIG)
    if own is not None:
        return DictionaryConfig.model_validate(own)
    geometry, act_fn = ARCHITECTURES[fields["architecture"]]
    described: dict[str, object] = {"kind": geometry}
    if GEOMETRIES[geometry].autoencodes:
        described["apply_b_dec_to_input"] = fields.get("apply_b_dec_to_input", True)
        described["tied_encoder"] = ACT_FNS[act_fn].needs_tied_encoder
    normalizations = {"none": "none"} | {theirs: ours for ours, theirs in PER_TOKEN.items()}
    return DictionaryConfig.model_validate(
        {
            "widths": {"reads": [fields["d_in"]], "writes": [fields.get("d_out", fields["d_in"])]},
            "d_sae": fields["d_sae"],
            "geometry": described,
            "act_fn": {"kind": act_fn, **layout.ACT_FNS[act_fn].options(fields)},
            "normalize_activations": normalizations[fields.get("normalize_activations", "none")],
        }
    )
