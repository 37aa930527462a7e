"""Mixture of linear transforms: y = sum_i f_i U_i V_i x + b_dec (Lindsey et al. 2025, transformer-circuits.pub)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from lmsae.errors import ExportError, ShapeError
from lmsae.geometry.blocks import split_by_block
from lmsae.geometry.config import MOLTConfig, Widths
from lmsae.geometry.geometry import Affine, Chosen, Geometry, make_encoder


class MOLT(Geometry):
    """Each latent's code multiplies a linear map of x: pre = x W_enc + b_enc, y = sum_i f_i U_i V_i x + b_dec.

    The n = d_sae transforms stand in the order of `molt_ranks`, those of one rank side by side. Parameters:
    W_enc (d_in, n), b_enc (n,), b_dec (d_out,), and for each rank r with its m transforms V[g] (m, r, d_in), whose rows
    read, and U[g] (m, r, d_out), whose rows write. Raises ShapeError where a rank exceeds a width.
    """

    def __init__(self, config: MOLTConfig, widths: Widths, d_sae: int, encoder_bias: bool) -> None:
        super().__init__()
        if fault := config.fault(widths, d_sae):
            raise ShapeError(fault)
        d_in, d_out, transforms = widths.d_in, widths.d_out, config.transforms(d_sae)
        self.latents = d_sae
        self.W_enc = make_encoder(d_in, d_sae)
        self.b_enc = nn.Parameter(torch.zeros(d_sae)) if encoder_bias else None
        self.V = nn.ParameterList(torch.zeros(count, rank, d_in) for rank, count in transforms)
        self.U = nn.ParameterList(torch.zeros(count, rank, d_out) for rank, count in transforms)
        self.b_dec = nn.Parameter(torch.zeros(d_out))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        pre = x @ self.W_enc
        return pre if self.b_enc is None else pre + self.b_enc

    def encode_latents(
        self, x: Float[Tensor, "*batch d_in"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        pre = x @ self.W_enc[:, latents]
        return pre if self.b_enc is None else pre + self.b_enc[latents]

    def base(self, x: Float[Tensor, "*batch d_in"]) -> Tensor:
        del x
        return self.b_dec

    def write(
        self, codes: Float[Tensor, "*batch chosen"], chosen: Chosen, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        total = torch.zeros_like(self.b_dec)
        blocks = split_by_block(codes, chosen, [len(U) for U in self.U])
        for V, U, (f, rows) in zip(self.V, self.U, blocks, strict=True):
            reading, writing = V[rows], U[rows]
            seen = (x @ reading.flatten(0, 1).T).unflatten(-1, reading.shape[:2])
            total = total + (seen * f[..., None]).flatten(-2) @ writing.flatten(0, 1)
        return total

    def norms(self) -> Float[Tensor, " d_sae"]:
        """||U_i V_i||_F, from r x r Gram matrices: its square is trace((U_i^T U_i) (V_i V_i^T))."""
        # In full precision even under autocast, because codes may be divided by norms.
        with torch.autocast(self.b_dec.device.type, enabled=False):
            squares = [((U @ U.mT) * (V @ V.mT)).sum((1, 2)) for U, V in zip(self.U, self.V, strict=True)]
        # At 0 the gradient of a root is not a number, and rounding may take the sum of products below 0.
        return torch.cat(squares).clamp(min=torch.finfo(self.b_dec.dtype).tiny).sqrt()

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Directions for the encoder, and transforms of norm 1 of which U and V have an equal share."""
        drawn = {"W_enc": normalize(torch.randn(self.W_enc.shape, generator=generator), dim=0)}
        for g, (V, U) in enumerate(zip(self.V, self.U, strict=True)):
            reading = torch.randn(V.shape, generator=generator)
            writing = torch.randn(U.shape, generator=generator)
            norm = ((writing @ writing.mT) * (reading @ reading.mT)).sum((1, 2), keepdim=True).sqrt()
            drawn[f"V.{g}"], drawn[f"U.{g}"] = reading / norm.sqrt(), writing / norm.sqrt()
        return drawn

    @torch.no_grad()
    def place(self, drawn: Mapping[str, Tensor], norm: float, *, unit_norm_decoder: bool = False) -> None:
        """As in every geometry; encoders are of norm `norm`, with nothing to be tied to."""
        for name, parameter in self.named_parameters():
            parameter.copy_(drawn[name]) if name in drawn else parameter.zero_()
        self.W_enc.mul_(norm)
        if not unit_norm_decoder:
            for factor in (*self.V, *self.U):
                factor.mul_(norm**0.5)

    @torch.no_grad()
    def fold(self, read: Affine, write: Affine) -> None:
        if read.shift.any():
            raise ExportError(
                "a molt multiplies its codes with its input, so a shift of the input would have to be written by codes "
                "alone; keep the dictionary in training's units, or train it with normalize_activations dataset or none"
            )
        self.W_enc.copy_(read.scale_readers(self.W_enc))
        for V, U in zip(self.V, self.U, strict=True):
            V.copy_(read.scale_readers(V.movedim(-1, 0)).movedim(0, -1))
            U.copy_(write.restore_writers(U))
        self.b_dec.copy_(write.restore_writers(self.b_dec) + write.shift)

    @torch.no_grad()
    def fold_norms(self) -> None:
        norms = self.norms()
        self.W_enc.mul_(norms)
        if self.b_enc is not None:
            self.b_enc.mul_(norms)
        for U, of_rank in zip(self.U, norms.split([len(U) for U in self.U]), strict=True):
            U.div_(of_rank.clamp(min=1e-12)[:, None, None])
