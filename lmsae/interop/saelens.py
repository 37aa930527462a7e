"""SAELens folders, written and read: `cfg.json`, `sae_weights.safetensors` and `sparsity.safetensors`.

What is written computes what the dictionary computes in `eval()` mode, on raw activations: every scale is folded into
the weights, and decoder rows keep their norms.

    lmsae       SAELens
    relu        standard
    topk        topk, selection not rescaled by decoder norms
    batchtopk   jumprelu, every latent with the learned threshold
    jumprelu    jumprelu
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.geometry.config import SAEConfig
from lmsae.sparsity.config import JumpReLUConfig, ReLUConfig, TopKConfig

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
# The layout is that of SAELens 6.0; a folder that claims less is migrated on loading.
LAYOUT_VERSION = "6.0.0"
# In `metadata`: the dictionary's own config, from which `load` gives back batchtopk as batchtopk.
OWN_CONFIG = "lmsae_dictionary"
SHARED_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
SMALLEST_DENSITY = 1e-10


def export(
    dictionary: Dictionary, folder: Path, *, provenance: Mapping[str, Any], density: Float[Tensor, " d_sae"] | None
) -> None:
    """Write a dictionary as a SAELens folder.

    `provenance` becomes SAELens' metadata: model_name, hook_name, context_size, prepend_bos, dataset_path, and whatever
    else is known. `density` is the firing rate of each latent. Raises ExportError where SAELens has no exact
    counterpart.
    """
    config = dictionary.config
    _refuse_inexact(dictionary)
    own_fields, own_weights = _EXPORTS[config.act_fn.kind](dictionary)
    hook_name = str(provenance.get("hook_name", ""))
    fields = {
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.geometry.apply_b_dec_to_input,
        "normalize_activations": "none",
        # Heads are one flat vector here; SAELens meets (n_heads, d_head) there and must flatten them.
        "reshape_activations": "hook_z" if hook_name.endswith("hook_z") else "none",
        "metadata": {
            "sae_lens_version": LAYOUT_VERSION,
            "sae_lens_training_version": None,
            **provenance,
            OWN_CONFIG: config.model_dump(mode="json"),
        },
        **own_fields,
    }
    state = dictionary.folded().geometry.state_dict()
    weights = {**{name: state[name] for name in SHARED_WEIGHTS}, **own_weights}
    folder.mkdir(parents=True, exist_ok=True)
    _save({name: weight.float() for name, weight in weights.items()}, folder / WEIGHTS)
    if density is not None:
        _save({"sparsity": (density.float() + SMALLEST_DENSITY).log10()}, folder / SPARSITY)
    (folder / CONFIG).write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a SAELens folder (standard, topk or jumprelu), on the CPU, ready for inference.

    Raises ExportError where lmsae has no exact counterpart.
    """
    fields = json.loads((Path(folder) / CONFIG).read_text())
    weights = {name: weight.float() for name, weight in load_file(Path(folder) / WEIGHTS).items()}
    architecture = fields.get("architecture", "standard")
    if architecture not in _ACT_FNS:
        raise ExportError(f"{folder}: lmsae reads SAELens' {', '.join(_ACT_FNS)}; this is {architecture!r}.")
    if fields.get("normalize_activations", "none") != "none":
        raise ExportError(
            f"{folder}: normalize_activations is {fields['normalize_activations']!r}; lmsae reads folders whose "
            "scale is folded into the weights ('none'). SAELens' fold_activation_norm_scaling_factor does that."
        )
    if fields.get("rescale_acts_by_decoder_norm"):
        _fold_norms(weights)
    dictionary = Dictionary(_config_of(fields))
    state = {f"geometry.{name}": weights[name] for name in SHARED_WEIGHTS}
    dictionary.load_state_dict({**dictionary.state_dict(), **state, **_threshold(dictionary, weights)})
    return dictionary.eval().requires_grad_(False)


def _refuse_inexact(dictionary: Dictionary) -> None:
    config = dictionary.config
    if config.geometry.kind != "sae" or config.act_fn.kind not in _EXPORTS:
        raise ExportError(
            f"a {config.geometry.kind} with {config.act_fn.kind} has no exact counterpart in SAELens; there are "
            f"exports of the geometry sae with {', '.join(_EXPORTS)}."
        )
    if config.d_in != config.d_out:
        raise ExportError(f"SAELens' SAEs write what they read: d_in is {config.d_in}, but d_out is {config.d_out}.")
    if dictionary.scale_in != dictionary.scale_out:
        raise ExportError(
            f"SAELens' SAEs have one scale, but activations are read at {dictionary.scale_in.item():g} and written at "
            f"{dictionary.scale_out.item():g}."
        )


def _standard(dictionary: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"architecture": "standard"}, {}


def _topk(dictionary: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"architecture": "topk", "k": dictionary.sparsity.k, "rescale_acts_by_decoder_norm": False}, {}


def _jumprelu(dictionary: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    # SAELens computes ReLU(pre) * 1[pre > threshold]. Thresholds here are never negative, so that is pre * 1[pre > t].
    threshold = cast(Tensor, dictionary.sparsity.threshold)
    return {"architecture": "jumprelu"}, {"threshold": threshold.expand(dictionary.config.d_sae)}


_EXPORTS: dict[str, Callable[[Dictionary], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    "relu": _standard,
    "topk": _topk,
    "batchtopk": _jumprelu,
    "jumprelu": _jumprelu,
}
_ACT_FNS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "standard": lambda fields: ReLUConfig(),
    "topk": lambda fields: TopKConfig(k=fields["k"]),
    "jumprelu": lambda fields: JumpReLUConfig.model_validate({}),
}


def _config_of(fields: Mapping[str, Any]) -> DictionaryConfig:
    own = fields.get("metadata", {}).get(OWN_CONFIG)
    if own is not None:
        return DictionaryConfig.model_validate(own)
    return DictionaryConfig(
        d_in=fields["d_in"],
        d_out=fields["d_in"],
        d_sae=fields["d_sae"],
        geometry=SAEConfig(apply_b_dec_to_input=fields.get("apply_b_dec_to_input", True)),
        act_fn=_ACT_FNS[fields.get("architecture", "standard")](fields),
    )


def _threshold(dictionary: Dictionary, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the activation function that has this threshold."""
    if "threshold" not in weights:
        return {}
    # Under ReLU a negative threshold is one of 0.
    threshold = weights["threshold"].clamp(min=0)
    if dictionary.config.act_fn.kind == "batchtopk":
        return {
            "sparsity.threshold_sum": threshold[0].double(),
            "sparsity.threshold_weight": torch.ones((), dtype=torch.float64),
        }
    return {"sparsity.log_threshold": _log(threshold)}


def _log(theta: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
    """The float32 whose exp is nearest to theta: that of a threshold which was an exp gives it back exactly."""
    nearest = theta.double().log().float()
    candidates = torch.stack(
        [nearest, *(torch.nextafter(nearest, torch.tensor(end)) for end in (-torch.inf, torch.inf))]
    )
    chosen = (candidates.exp() - theta).abs().argmin(0, keepdim=True)
    return torch.where(theta > 0, candidates.gather(0, chosen)[0], -torch.inf)


def _fold_norms(weights: dict[str, Tensor]) -> None:
    """Selection by pre * ||W_dec,i|| is plain selection once the norms stand in the encoder."""
    norms = weights["W_dec"].norm(dim=1)
    weights["W_enc"] = weights["W_enc"] * norms
    weights["b_enc"] = weights["b_enc"] * norms
    weights["W_dec"] = weights["W_dec"] / norms[:, None]


def _save(weights: dict[str, Tensor], file: Path) -> None:
    save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, file)
