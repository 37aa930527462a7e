"""The config of starting weights, without torch: the columns `init.*`, and what refuses them."""

from typing import Literal

from pydantic import Field

from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig

FROM_MODEL = {"transcoder": "the neurons of an MLP", "skip_transcoder": "the neurons of an MLP", "lorsa": "its heads"}
"""Geometries that can start from the language model's own weights, and from which of them."""


class InitConfig(Frozen):
    """The columns `init.*`. All is measured on calibration tokens, in training's units; none is ever trained on."""

    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of whatever is drawn at random.")
    decoder_init: Literal["unit", "uniform", "kaiming", "datapoint", "active_subspace"] = Field(
        default="unit",
        description="Directions of decoder rows. unit: uniform on the sphere; uniform: uniform in the cube, to norm "
        "1; kaiming: uniform in the cube, norms as they fall around 1; datapoint: random calibration targets, "
        "centered, blended with random directions; active_subspace: random, within the leading principal directions of "
        "targets.",
    )
    datapoint_blend: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Share of the target in a row of decoder_init datapoint; the rest is random.",
    )
    subspace_rank: int | None = Field(
        default=None,
        gt=0,
        description="Principal directions that decoder_init active_subspace keeps of each hook point; empty: half of "
        "them.",
    )
    encoder_factor: float = Field(
        default=1.0, gt=0, description="The encoder is the decoder transposed, times this (where widths allow it)."
    )
    b_dec: Literal["mean", "zero", "geometric_median"] = Field(
        default="mean", description="What the decoder bias starts at: the targets' mean, geometric median, or 0."
    )
    b_enc: Literal["zero", "minus_mean_pre"] = Field(
        default="zero",
        description="What the encoder bias starts at: 0, or minus each latent's mean pre-activation.",
    )
    grid_search: bool | None = Field(
        default=None,
        description="Choose the decoder norm that reconstructs calibration activations best before training: 50 values "
        "in [0.1, 5], then 20 around the best. With a decoder kept at norm 1 it is the encoder's norm. Empty: where a "
        "dictionary writes what it reads; elsewhere random directions explain next to nothing, whatever their norm.",
    )
    decoder_norm: float = Field(default=0.1, gt=0, description="Norm of decoder rows where it is not searched.")
    tokens: int = Field(default=4096, gt=0, description="Calibration tokens that the grid search reconstructs.")
    from_model: bool = Field(
        default=False,
        description="Start a transcoder from the neurons of the model's MLP, a lorsa from its attention heads. Latents "
        "beyond the neurons start as all do otherwise.",
    )


def fault(init: InitConfig, dictionary: DictionaryConfig, unit_norm_decoder: bool) -> tuple[str, str] | None:
    """The column of `init` that this dictionary cannot have, and why with what to do instead; None if all is well."""
    kind, act_fn, units = dictionary.geometry.kind, dictionary.act_fn, dictionary.normalize_activations
    if kind == "molt" and init.decoder_init != "unit":
        return "decoder_init", "a molt writes by matrices and has no decoder rows; leave it at unit"
    if init.decoder_init == "kaiming" and unit_norm_decoder:
        return "decoder_init", "kaiming leaves norms as they fall, but sae.unit_norm_decoder wants 1; use uniform"
    if init.encoder_factor != 1 and getattr(dictionary.geometry, "tied_encoder", False):
        return "encoder_factor", "sae.tied_encoder makes the encoder the decoder transposed; leave the factor at 1"
    if init.b_enc != "zero" and act_fn.brings_bias:
        return "b_enc", f"{act_fn.kind} brings its own biases, and there is no encoder bias; leave it at zero"
    if not init.from_model:
        return None
    if kind not in FROM_MODEL:
        return "from_model", f"a {kind} has no counterpart in the model; only {', '.join(FROM_MODEL)} have"
    if act_fn.brings_bias:
        return (
            "from_model",
            f"{act_fn.kind} has no encoder bias to take over from the model; use relu, jumprelu or topk",
        )
    if getattr(dictionary.geometry, "glu_encoder", False):
        return "from_model", "the gate of sae.glu_encoder has no counterpart in the model; leave it off"
    if units in ("token", "layer_norm"):
        return "from_model", f"no weights undo sae.normalize_activations {units}; use dataset, whiten or none"
    if kind == "lorsa" and init.decoder_init != "unit":
        return "decoder_init", "a lorsa from the model has the directions of its heads; leave it at unit"
    return None
