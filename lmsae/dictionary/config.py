"""What a dictionary is, without torch: the part of a spec that two dictionaries of the same shape share."""

from pydantic import Field

from lmsae.config import Frozen
from lmsae.geometry.config import GeometryConfig
from lmsae.sparsity.config import ActFnConfig


class DictionaryConfig(Frozen):
    """Geometry x activation function x sizes. Losses are not part of it: they shape training, not inference."""

    d_in: int = Field(gt=0)
    d_out: int = Field(gt=0)
    d_sae: int = Field(gt=0)
    geometry: GeometryConfig
    act_fn: ActFnConfig
