"""Geometries: how an input becomes pre-activations, and how codes become a reconstruction."""

from typing import TYPE_CHECKING

from lmsae.geometry.config import SAEConfig

if TYPE_CHECKING:
    from lmsae.geometry.sae import SAE


def build(config: SAEConfig, d_in: int, d_out: int, d_sae: int) -> "SAE":
    """The module of a geometry config, its parameters uninitialised (zeros)."""
    from lmsae.geometry.sae import SAE

    return {"sae": SAE}[config.kind](config, d_in, d_out, d_sae)
