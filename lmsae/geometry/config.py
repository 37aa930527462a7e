"""What a geometry is, without torch: the part of a spec that says how x becomes `pre` and codes become a vector."""

from typing import Annotated, Literal

from pydantic import Field

from lmsae.config import Frozen


class SAEConfig(Frozen):
    """One hook point, reconstructed from itself."""

    kind: Literal["sae"] = "sae"
    apply_b_dec_to_input: bool = Field(
        default=True, description="Subtract the decoder bias from the input before encoding."
    )


GeometryConfig = Annotated[SAEConfig, Field(discriminator=None)]
GEOMETRIES: dict[str, type[Frozen]] = {"sae": SAEConfig}
