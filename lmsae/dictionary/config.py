"""What a dictionary is, without torch: the part of a spec that two dictionaries of the same shape share."""

from typing import Literal

from pydantic import Field

from lmsae.config import Frozen
from lmsae.geometry.config import GeometryConfig
from lmsae.sparsity.config import ActFnConfig

Normalization = Literal["none", "dataset", "token", "layer_norm", "whiten"]


class DictionaryConfig(Frozen):
    """Geometry x activation function x sizes. Losses are not part of it: they shape training, not inference."""

    reads: tuple[int, ...] = Field(min_length=1, description="Widths of the hook points read.")
    writes: tuple[int, ...] = Field(min_length=1, description="Widths of the hook points written.")
    d_sae: int = Field(gt=0, description="Latents; of a cross-layer transcoder, in each layer.")
    geometry: GeometryConfig
    act_fn: ActFnConfig
    normalize_activations: Normalization = "dataset"
    sparsity_include_decoder_norm: bool = False

    @property
    def d_in(self) -> int:
        """Width of the input: of all hook points read, side by side."""
        return sum(self.reads)

    @property
    def d_out(self) -> int:
        """Width of the output: of all hook points written, side by side."""
        return sum(self.writes)
