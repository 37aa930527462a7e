"""The SAE geometry: pre = (x - b_dec) W_enc + b_enc, reconstruction = codes W_dec + b_dec."""

from typing import final

from lmsae.geometry.config import SAEConfig, Widths
from lmsae.geometry.linear import Linear


@final
class SAE(Linear):
    """One hook point, reconstructed from itself."""

    def __init__(self, config: SAEConfig, widths: Widths, d_sae: int, encoder_bias: bool) -> None:
        super().__init__(
            widths,
            d_sae,
            encoder_bias=encoder_bias,
            glu=config.glu_encoder,
            tied=config.tied_encoder,
            apply_b_dec_to_input=config.apply_b_dec_to_input,
        )
