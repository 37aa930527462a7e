"""The crosscoder geometry: pre = sum_h x_h W_enc[h] + b_enc, reconstruction of each h = codes W_dec[h] + b_dec[h]."""

from typing import final

from lmsae.geometry.config import CrosscoderConfig, Widths
from lmsae.geometry.linear import Linear


@final
class Crosscoder(Linear):
    """Several hook points, or models, reconstructed from shared latents (Lindsey et al. 2024).

    W_enc[h] are rows of W_enc, W_dec[h] columns of W_dec. The norm of a latent is sum_h ||W_dec[h]||. b_dec is never
    subtracted from the input.
    """

    def __init__(self, config: CrosscoderConfig, widths: Widths, d_sae: int, encoder_bias: bool) -> None:
        super().__init__(widths, d_sae, encoder_bias=encoder_bias, glu=config.glu_encoder)
