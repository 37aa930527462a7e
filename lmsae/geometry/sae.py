"""The SAE geometry: pre = (x - b_dec) W_enc + b_enc, reconstruction = codes W_dec + b_dec."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmsae.geometry.config import SAEConfig


class SAE(nn.Module):
    """Encoder and decoder between activations of width d_in (= d_out) and d_sae latents.

    Parameters: W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_out), b_dec (d_out,).
    """

    def __init__(self, config: SAEConfig, d_in: int, d_out: int, d_sae: int) -> None:
        super().__init__()
        self.apply_b_dec_to_input = config.apply_b_dec_to_input
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Pre-activations of the input."""
        # (x - b_dec) W_enc as x W_enc - b_dec W_enc: the subtraction then costs a vector, not a batch.
        shift = self.b_enc - self.b_dec @ self.W_enc if self.apply_b_dec_to_input else self.b_enc
        return x @ self.W_enc + shift

    def decode(
        self, codes: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction of the target. `x` is there for geometries that pass some of the input on."""
        del x
        return codes @ self.W_dec + self.b_dec

    def contribution(self, codes: Float[Tensor, "*batch chosen"], latents: Tensor) -> Float[Tensor, "*batch d_out"]:
        """What the chosen latents alone (indices into d_sae) write, without b_dec."""
        return codes @ self.W_dec[latents]

    def norms(self) -> Float[Tensor, " d_sae"]:
        """L2 norm of each latent's decoder row."""
        return self.W_dec.norm(dim=1)

    @torch.no_grad()
    def fold(self, scale_in: float, scale_out: float) -> None:
        """Take input and output scales into the weights: afterwards the module reads and writes raw activations.

        With x' = s_in x, y' = s_out y: W_enc *= s_in, W_dec /= s_out, b_dec /= s_out; pre and codes are unchanged.
        Where b_dec is subtracted from the input, it was in the units of x', so b_enc takes up s_in / s_out - 1 of it.
        """
        if self.apply_b_dec_to_input:
            self.b_enc.add_((scale_in / scale_out - 1) * (self.b_dec @ self.W_enc))
        self.W_enc.mul_(scale_in)
        self.W_dec.div_(scale_out)
        self.b_dec.div_(scale_out)
