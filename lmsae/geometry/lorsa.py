"""Low-rank sparse attention: rank-1 OV heads that share QK heads in groups (He et al. 2025, arXiv 2504.20938)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from lmsae.errors import ShapeError
from lmsae.geometry.config import LorsaConfig, Widths
from lmsae.geometry.folding import shift_pre
from lmsae.geometry.geometry import Affine, Chosen, Geometry, make_encoder


@dataclass(frozen=True, slots=True)
class Attention:
    """The weights of a model's attention layer, in the layout of TransformerLens, for raw activations.

    W_Q, W_K and W_V (heads, d_model, d_head), W_O (heads, d_head, d_out), b_Q and b_K (heads, d_head). With
    grouped queries, keys and values are repeated for every query head.
    """

    W_Q: Float[Tensor, "heads d_model d_head"]
    W_K: Float[Tensor, "heads d_model d_head"]
    W_V: Float[Tensor, "heads d_model d_head"]
    W_O: Float[Tensor, "heads d_head d_out"]
    b_Q: Float[Tensor, "heads d_head"]
    b_K: Float[Tensor, "heads d_head"]


class Lorsa(Geometry):
    """Each latent is an attention head with a scalar value: pre = A (x W_enc) + b_enc, written along a row of W_dec.

    The n = d_sae latents stand in n_qk groups of equal size, and each group shares one pattern A = causal
    softmax(q k^T / sqrt(d_qk)), q = x W_Q + b_Q, k = x W_K + b_K. The rows of a pattern sum to 1, so that b_enc is at
    once the bias of values and of pre.

    Parameters: W_Q and W_K (n_qk, d_in, d_qk), b_Q and b_K (n_qk, d_qk), W_enc (d_in, n), b_enc (n,), W_dec (n, d_out),
    b_dec (d_out,). Raises ShapeError where n_qk does not divide n.
    """

    def __init__(self, config: LorsaConfig, widths: Widths, d_sae: int, encoder_bias: bool) -> None:
        super().__init__()
        if fault := config.fault(widths, d_sae):
            raise ShapeError(fault)
        d_in, d_out, heads, d_qk = widths.d_in, widths.d_out, config.lorsa_qk_heads, config.lorsa_d_qk
        self.latents = d_sae
        self.rotated, self.rotary_base = config.rotated, config.lorsa_rotary_base
        self.W_Q = nn.Parameter(torch.zeros(heads, d_in, d_qk))
        self.b_Q = nn.Parameter(torch.zeros(heads, d_qk))
        self.W_K = nn.Parameter(torch.zeros(heads, d_in, d_qk))
        self.b_K = nn.Parameter(torch.zeros(heads, d_qk))
        self.W_enc = make_encoder(d_in, d_sae)
        self.b_enc = nn.Parameter(torch.zeros(d_sae)) if encoder_bias else None
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))

    def encode(self, x: Float[Tensor, "*batch position d_in"]) -> Float[Tensor, "*batch position d_sae"]:
        queries = self._rotate(torch.einsum("...td,hdk->...htk", x, self.W_Q) + self.b_Q[:, None])
        keys = self._rotate(torch.einsum("...td,hdk->...htk", x, self.W_K) + self.b_K[:, None])
        values = (x @ self.W_enc).unflatten(-1, (len(self.W_Q), -1)).transpose(-3, -2)
        pre = scaled_dot_product_attention(queries, keys, values, is_causal=True).transpose(-3, -2).flatten(-2)
        return pre if self.b_enc is None else pre + self.b_enc

    def attend(
        self, x: Float[Tensor, "position d_in"], latents: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows position"]:
        """The rows of patterns by which some latents see a context from some positions; 0 behind those."""
        heads = latents.to(x.device) // (self.latents // len(self.W_Q))
        queries = self._rotate(torch.einsum("td,hdk->htk", x, self.W_Q) + self.b_Q[:, None])
        keys = self._rotate(torch.einsum("td,hdk->htk", x, self.W_K) + self.b_K[:, None])
        scores = torch.einsum("rk,rtk->rt", queries[heads, positions], keys[heads]) / self.W_Q.shape[-1] ** 0.5
        behind = torch.arange(len(x), device=x.device) > positions.to(x.device)[:, None]
        return scores.masked_fill(behind, -torch.inf).softmax(-1)

    def _rotate(self, vectors: Float[Tensor, "*batch position d_qk"]) -> Float[Tensor, "*batch position d_qk"]:
        """Queries or keys with rotary positions: dimension i and i + rotated/2 turn together (GPT-NeoX)."""
        if not self.rotated:
            return vectors
        half, rest = self.rotated // 2, vectors.shape[-1] - self.rotated
        first, second, still = vectors.split([half, half, rest], dim=-1)
        # Angles in float64: at float32 they would be off by 1e-4 a thousand positions in.
        turns = torch.arange(half, device=vectors.device, dtype=torch.float64) / half
        positions = torch.arange(vectors.shape[-2], device=vectors.device, dtype=torch.float64)
        angles = positions[:, None] * self.rotary_base**-turns
        cos, sin = angles.cos().to(self.W_Q.dtype), angles.sin().to(self.W_Q.dtype)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, still], dim=-1)

    def base(self, x: Float[Tensor, "*batch d_in"]) -> Tensor:
        del x
        return self.b_dec

    def write(
        self, codes: Float[Tensor, "*batch chosen"], chosen: Chosen, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        del x
        return codes @ self.W_dec[chosen]

    def norms(self) -> Float[Tensor, " d_sae"]:
        return self.W_dec.norm(dim=1)

    def rows(self) -> list[Float[Tensor, "d_sae d_out"]]:
        return [self.W_dec]

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Directions for the decoder, for the encoder where widths differ, and for queries and keys, whose dimensions
        then are of size 1 where x has norm sqrt(d_in)."""
        drawn = {"W_dec": normalize(torch.randn(self.W_dec.shape, generator=generator), dim=1)}
        if self.W_enc.shape[0] != self.W_dec.shape[1]:
            drawn["W_enc"] = normalize(torch.randn(self.W_enc.shape, generator=generator), dim=0)
        for name in ("W_Q", "W_K"):
            drawn[name] = normalize(torch.randn(self.W_Q.shape, generator=generator), dim=1)
        return drawn

    def draw_from(
        self, attention: Attention, read: Affine, write: Affine, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Directions taken from a model's attention layer, for `place`.

        Each model head gives as many QK heads as all others. A latent of such a QK head reads and writes along a random
        direction of the model head's values, so that together they do what it does, up to a factor. `read` and `write`
        take the activations to training's units. Raises ShapeError where the model's heads do not fit these.
        """
        heads, d_model, d_head = attention.W_Q.shape
        mine, d_in, d_qk = self.W_Q.shape
        d_out, wrote = self.W_dec.shape[1], attention.W_O.shape[2]
        if mine % heads or (d_in, d_qk, d_out) != (d_model, d_head, wrote):
            raise ShapeError(
                f"a lorsa of {mine} QK heads of width {d_qk}, from width {d_in} to {d_out}, cannot start from an "
                f"attention layer of {heads} heads of width {d_head}, from width {d_model} to {wrote}: lorsa_qk_heads "
                "must be a multiple of its heads, and all widths the same"
            )
        of_model = [head * heads // mine for head in range(mine)]
        values = torch.randn(mine, self.latents // mine, d_head, generator=generator).to(attention.W_V)
        reading = torch.einsum("hdk,hnk->dhn", attention.W_V[of_model], values).flatten(1)
        writing = torch.einsum("hnk,hkd->hnd", values, attention.W_O[of_model]).flatten(0, 1)
        back_in, back_out = read.reversed, write.reversed
        return {
            "W_dec": normalize(back_out.restore_writers(writing), dim=1),
            "W_enc": normalize(back_in.scale_readers(reading), dim=0),
            "W_Q": _scale_heads(back_in, attention.W_Q)[of_model],
            "W_K": _scale_heads(back_in, attention.W_K)[of_model],
            "b_Q": (attention.b_Q + read.shift @ attention.W_Q)[of_model],
            "b_K": (attention.b_K + read.shift @ attention.W_K)[of_model],
        }

    @torch.no_grad()
    def place(self, drawn: Mapping[str, Tensor], norm: float, *, unit_norm_decoder: bool = False) -> None:
        """As in every geometry; queries and keys are as they were drawn, whatever the norm."""
        for name, parameter in self.named_parameters():
            parameter.copy_(drawn[name]) if name in drawn else parameter.zero_()
        self.W_enc.copy_(norm * drawn.get("W_enc", drawn["W_dec"].T))
        if not unit_norm_decoder:
            self.W_dec.mul_(norm)

    @torch.no_grad()
    def fold(self, read: Affine, write: Affine) -> None:
        W_enc = read.scale_readers(self.W_enc)
        shift_pre(self.b_enc, -(read.shift @ W_enc))
        self.W_enc.copy_(W_enc)
        for weights, bias in ((self.W_Q, self.b_Q), (self.W_K, self.b_K)):
            weights.copy_(_scale_heads(read, weights))
            bias.sub_(read.shift @ weights)
        self.W_dec.copy_(write.restore_writers(self.W_dec))
        self.b_dec.copy_(write.restore_writers(self.b_dec) + write.shift)

    @torch.no_grad()
    def fold_norms(self) -> None:
        norms = self.norms()
        self.W_enc.mul_(norms)
        if self.b_enc is not None:
            self.b_enc.mul_(norms)
        # A latent that writes nothing is never selected: its norm is 0 and stays 0.
        self.W_dec.div_(norms.clamp(min=1e-12)[:, None])


def _scale_heads(affine: Affine, weights: Float[Tensor, "heads d_in d_qk"]) -> Float[Tensor, "heads d_in d_qk"]:
    """scale @ weights of each head."""
    return affine.scale_readers(weights.movedim(1, 0)).movedim(0, 1)
