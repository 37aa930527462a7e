"""The config of a dictionary, without torch: the part of a spec that two dictionaries of the same shape share."""

from typing import Literal

from pydantic import Field

from lmsae.config import Frozen
from lmsae.geometry.config import GeometryConfig, Widths
from lmsae.sparsity.config import ActFnConfig

Normalization = Literal["none", "dataset", "token", "layer_norm", "whiten"]


class DictionaryConfig(Frozen):
    """Geometry x activation function x sizes. Losses are not part of it: they shape training, not inference."""

    widths: Widths
    d_sae: int = Field(gt=0, description="Latents; of a cross-layer transcoder, in each layer.")
    geometry: GeometryConfig
    act_fn: ActFnConfig
    normalize_activations: Normalization = "dataset"
    sparsity_include_decoder_norm: bool = False

    @property
    def d_in(self) -> int:
        """Width of the input: of all hook points read, side by side."""
        return self.widths.d_in

    @property
    def d_out(self) -> int:
        """Width of the output: of all hook points written, side by side."""
        return self.widths.d_out
