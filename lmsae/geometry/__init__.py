"""Geometries: how an input becomes pre-activations, and how codes become a reconstruction."""

from importlib import import_module
from typing import TYPE_CHECKING

from lmsae.geometry.config import GeometryConfig, Widths

if TYPE_CHECKING:
    from lmsae.geometry.geometry import Geometry

_MODULES = {
    "sae": "sae.SAE",
    "transcoder": "transcoder.Transcoder",
    "skip_transcoder": "transcoder.SkipTranscoder",
    "crosscoder": "crosscoder.Crosscoder",
    "clt": "clt.CLT",
    "lorsa": "lorsa.Lorsa",
    "molt": "molt.MOLT",
}


def build(config: GeometryConfig, widths: Widths, d_sae: int, *, encoder_bias: bool = True) -> "Geometry":
    """The module of a geometry config, its parameters uninitialized (zeros).

    Without `encoder_bias` there is no b_enc, because the activation function has biases of its own.
    """
    module, name = _MODULES[config.kind].split(".")
    geometry = getattr(import_module(f"lmsae.geometry.{module}"), name)
    return geometry(config, widths, d_sae, encoder_bias)
