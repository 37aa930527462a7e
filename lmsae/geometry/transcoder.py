"""Transcoders: pre = x W_enc + b_enc, reconstruction = codes W_dec + b_dec, of another hook point than x."""

from typing import final

from lmsae.geometry.config import SkipTranscoderConfig, TranscoderConfig, Widths
from lmsae.geometry.linear import Linear


@final
class Transcoder(Linear):
    """One hook point, written from another; b_dec lives in the output and is never subtracted from the input."""

    def __init__(self, config: TranscoderConfig, widths: Widths, d_sae: int, encoder_bias: bool) -> None:
        super().__init__(widths, d_sae, encoder_bias=encoder_bias, glu=config.glu_encoder)


@final
class SkipTranscoder(Linear):
    """A transcoder that also writes x W_skip^T, W_skip (d_out, d_in) starting at 0 (Paulo et al. 2025, 2501.18823)."""

    def __init__(self, config: SkipTranscoderConfig, widths: Widths, d_sae: int, encoder_bias: bool) -> None:
        super().__init__(widths, d_sae, encoder_bias=encoder_bias, glu=config.glu_encoder, skip=True)
