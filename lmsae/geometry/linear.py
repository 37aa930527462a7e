"""The geometry of SAEs, transcoders and crosscoders: each latent reads along one direction and writes along one."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import normalize

from lmsae.errors import ExportError
from lmsae.geometry.config import Widths
from lmsae.geometry.folding import shift_pre
from lmsae.geometry.geometry import Affine, Chosen, EntrywiseGeometry, make_encoder
from lmsae.kernels.dense import linear
from lmsae.kernels.entries import Entries, combine, dot_factors


class Linear(EntrywiseGeometry):
    """pre = (x W_enc + b_enc) * sigmoid(x W_glu + b_glu), reconstruction = codes W_dec + x W_skip^T + b_dec.

    Each kind says which of these parts it has; those it has not are None. Hook points stand side by side, so that one
    matrix product serves them all.

    Parameters: W_enc (d_in, d_sae), b_enc (d_sae,), W_glu (d_in, d_sae), b_glu (d_sae,), W_dec (d_sae, d_out),
    b_dec (d_out,), W_skip (d_out, d_in). A tied encoder is the decoder transposed and no parameter. With
    `apply_b_dec_to_input` W_enc reads x - b_dec; the gate always reads x.
    """

    def __init__(
        self,
        widths: Widths,
        d_sae: int,
        *,
        encoder_bias: bool,
        glu: bool = False,
        tied: bool = False,
        skip: bool = False,
        apply_b_dec_to_input: bool = False,
    ) -> None:
        super().__init__()
        d_in, d_out = widths.d_in, widths.d_out
        self.latents = d_sae
        self.written_widths = widths.writes
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.W_enc = None if tied else make_encoder(d_in, d_sae)
        self.b_enc = _zeros(d_sae) if encoder_bias else None
        self.W_glu = make_encoder(d_in, d_sae) if glu else None
        self.b_glu = _zeros(d_sae) if glu else None
        self.W_dec = _zeros(d_sae, d_out)
        self.b_dec = _zeros(d_out)
        self.W_skip = _zeros(d_out, d_in) if skip else None

    @property
    def encoder(self) -> Float[Tensor, "d_in d_sae"]:
        """W_enc, or the decoder transposed where that is the encoder."""
        return self.W_dec.T if self.W_enc is None else self.W_enc

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        pre = linear(x, self.encoder.T, self._bias())
        if self.W_glu is None or self.b_glu is None:
            return pre
        return pre * (x @ self.W_glu + self.b_glu).sigmoid()

    def encode_latents(
        self, x: Float[Tensor, "*batch d_in"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        bias, pre = self._bias(), x @ self.encoder[:, latents]
        pre = pre if bias is None else pre + bias[latents]
        if self.W_glu is None or self.b_glu is None:
            return pre
        return pre * (x @ self.W_glu[:, latents] + self.b_glu[latents]).sigmoid()

    def b_dec_to_read(self) -> Float[Tensor, " d_out"]:
        """b_dec where it is taken from the input."""
        return self.b_dec

    def _bias(self) -> Tensor | None:
        if not self.apply_b_dec_to_input:
            return self.b_enc
        # (x - b_dec) W_enc = x W_enc - b_dec W_enc: so b_dec changes one vector, and not every token of the batch.
        towards = self.b_dec_to_read() @ self.encoder
        return -towards if self.b_enc is None else self.b_enc - towards

    def base(self, x: Float[Tensor, "*batch d_in"]) -> Tensor:
        return self.b_dec if self.W_skip is None else x @ self.W_skip.T + self.b_dec

    def write(
        self, codes: Float[Tensor, "*batch chosen"], chosen: Chosen, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        del x
        return codes @ self.W_dec[chosen]

    def encode_at(
        self, x: Float[Tensor, "tokens d_in"], entries: Entries, known: Float[Tensor, " entries"] | None = None
    ) -> Float[Tensor, " entries"]:
        read, bias = x, self.b_enc
        if self.apply_b_dec_to_input:
            # The gradient of b_dec goes through the bias, which is one vector, and not through the batch.
            b_dec, encoder = self.b_dec_to_read(), self.encoder.detach()
            moved: Tensor = _MovedBias.apply(b_dec, encoder)  # pyright: ignore[reportAssignmentType]
            read, bias = x - self.b_dec.detach(), (moved if bias is None else bias + moved)
        if self.W_glu is not None:
            known = None  # the gate is in it
        pre = dot_factors(read, self.encoder.T, entries, bias, known)
        if self.W_glu is None or self.b_glu is None:
            return pre
        return pre * dot_factors(x, self.W_glu.T, entries, self.b_glu).sigmoid()

    def write_at(self, codes: Float[Tensor, " entries"], entries: Entries) -> Float[Tensor, "tokens d_out"]:
        return combine(codes, self.W_dec, entries)

    def overlaps(self, latents: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch d_sae"]:
        """The fall of each latent's pre when a code of 1 at one of `latents` is explained away, without a gate."""
        return self.W_dec[latents] @ self.encoder

    def norms(self) -> Float[Tensor, " d_sae"]:
        """The L2 norm of each latent's decoder row; with several hook points, the sum of those of its parts."""
        return torch.stack([part.norm(dim=1) for part in self.rows()]).sum(0)

    def rows(self) -> list[Float[Tensor, "d_sae width"]]:
        return list(self.W_dec.split(self.written_widths, dim=1))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A direction of norm 1 for each latent and hook point written, and for the encoder where widths differ."""
        d_in, d_out = self.encoder.shape[0], self.W_dec.shape[1]
        parts = torch.randn(self.latents, d_out, generator=generator).split(self.written_widths, dim=1)
        drawn = {"W_dec": torch.cat([normalize(part, dim=1) for part in parts], dim=1)}
        if d_in != d_out:
            drawn["W_enc"] = normalize(torch.randn(d_in, self.latents, generator=generator), dim=0)
        return drawn

    @torch.no_grad()
    def place(self, drawn: Mapping[str, Tensor], norm: float, *, unit_norm_decoder: bool = False) -> None:
        for parameter in self.parameters():
            parameter.zero_()
        decoder = drawn["W_dec"].to(self.W_dec)
        self.W_dec.copy_(decoder if unit_norm_decoder else norm * decoder)
        if self.W_enc is not None:
            self.W_enc.copy_(norm * drawn["W_enc"] if "W_enc" in drawn else norm * decoder.T)

    @torch.no_grad()
    def fold(self, read: Affine, write: Affine) -> None:
        W_enc = read.scale_readers(self.encoder)
        b_dec = write.restore_writers(self.b_dec) + write.shift
        W_skip = None if self.W_skip is None else write.restore_writers(read.scale_readers(self.W_skip.T))
        if W_skip is not None:
            b_dec -= read.shift @ W_skip
        self._fold_b_enc(read, write, W_enc, b_dec)
        if self.W_skip is not None and W_skip is not None:
            self.W_skip.copy_(W_skip.T)
        if self.W_glu is not None and self.b_glu is not None:
            self.W_glu.copy_(read.scale_readers(self.W_glu))
            self.b_glu.sub_(read.shift @ self.W_glu)
        self._set_encoder(W_enc)
        self.W_dec.copy_(write.restore_writers(self.W_dec))
        self.b_dec.copy_(b_dec)

    def _fold_b_enc(self, read: Affine, write: Affine, W_enc: Tensor, b_dec: Tensor) -> None:
        """Make b_enc what pre needs beside the folded W_enc and b_dec."""
        added = -(read.shift @ W_enc)
        if self.apply_b_dec_to_input:
            # One map for both sides leaves x - b_dec as a vector: (x' - b_dec') W_enc' = (x - b_dec) W_enc.
            if read.equals(write):
                return
            added += b_dec @ W_enc - self.b_dec @ self.encoder
        shift_pre(self.b_enc, added)

    @torch.no_grad()
    def fold_norms(self) -> None:
        if self.b_enc is None:
            raise ExportError(
                "the activation function brings its own biases, so this geometry has no b_enc to multiply by decoder "
                "norms; keep the dictionary as it is, or train it with sparsity_include_decoder_norm false"
            )
        # A latent that writes nothing is never selected: its norm is 0 and stays 0.
        norms = self.norms()
        self._set_encoder(self.encoder * norms)
        self.b_enc.mul_(norms)
        self.W_dec.div_(norms.clamp(min=1e-12)[:, None])

    def _set_encoder(self, weights: Tensor) -> None:
        """Set the encoder alone: one that was tied is a parameter from here on."""
        if self.W_enc is None:
            columns = make_encoder(*weights.shape).to(weights)
            self.W_enc = nn.Parameter(columns, requires_grad=self.W_dec.requires_grad)
        self.W_enc.copy_(weights)


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


class _MovedBias(Function):
    """-b_dec @ W_enc where what is read has b_dec taken off already: 0, with b_dec's own gradient."""

    @staticmethod
    def forward(ctx: Any, b_dec: Tensor, encoder: Tensor) -> Tensor:
        ctx.save_for_backward(encoder)
        return b_dec.new_zeros(encoder.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), (encoder,) = grads, ctx.saved_tensors
        return -(encoder @ grad), None
