"""The cross-layer transcoder: y_l = sum over j <= l of f_j W_dec[j -> l], + b_dec[l] (Ameisen et al. 2025)."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from lmsae.errors import ExportError, ShapeError
from lmsae.geometry.blocks import split_by_block
from lmsae.geometry.config import CLTConfig, Widths
from lmsae.geometry.folding import shift_pre
from lmsae.geometry.geometry import Affine, Chosen, Geometry, make_encoder


class CLT(Geometry):
    """L layers of n = d_sae latents: each reads its own hook point, and writes that of its layer and of all later ones.

    Parameters: W_enc (L, width_in, n), b_enc (L * n,), b_dec (L * width_out,), and for each layer j
    W_dec[j] (n, (L - j) * width_out): the rows of all its targets side by side, so that a layer decodes in one product.
    Raises ShapeError where widths differ.
    """

    def __init__(self, config: CLTConfig, widths: Widths, d_sae: int, encoder_bias: bool) -> None:
        super().__init__()
        if fault := config.fault(widths, d_sae):
            raise ShapeError(fault)
        self.groups, self.latents = len(widths.reads), len(widths.reads) * d_sae
        self.width_in, self.width_out = widths.reads[0], widths.writes[0]
        self.W_enc = make_encoder(self.groups, self.width_in, d_sae)
        self.b_enc = nn.Parameter(torch.zeros(self.latents)) if encoder_bias else None
        self.W_dec = nn.ParameterList(torch.zeros(d_sae, sum(widths.writes[j:])) for j in range(self.groups))
        self.b_dec = nn.Parameter(torch.zeros(widths.d_out))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latents"]:
        layers = zip(x.split(self.width_in, dim=-1), self.W_enc.unbind(), strict=True)
        pre = torch.cat([x_l @ weights for x_l, weights in layers], dim=-1)
        return pre if self.b_enc is None else pre + self.b_enc

    def encode_latents(
        self, x: Float[Tensor, "*batch d_in"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        layer, number = latents // self.W_enc.shape[2], latents % self.W_enc.shape[2]
        pre = x.new_zeros(*x.shape[:-1], len(latents))
        for j, x_l in enumerate(x.split(self.width_in, dim=-1)):
            pre[..., layer == j] = x_l @ self.W_enc[j][:, number[layer == j]]
        return pre if self.b_enc is None else pre + self.b_enc[latents]

    def base(self, x: Float[Tensor, "*batch d_in"]) -> Tensor:
        del x
        return self.b_dec

    def write(
        self, codes: Float[Tensor, "*batch chosen"], chosen: Chosen, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        del x
        layers = split_by_block(codes, chosen, [len(rows) for rows in self.W_dec])
        # Under autocast products come in half precision; they are summed in that of the weights.
        written = [(f @ self.W_dec[j][rows]).to(self.b_dec.dtype) for j, (f, rows) in enumerate(layers)]
        total = written[0]
        for j, later in enumerate(written[1:], start=1):
            total = total + pad(later, (j * self.width_out, 0))
        return total

    def norms(self) -> Float[Tensor, " latents"]:
        """The L2 norm of all of a latent's decoder rows, side by side (Ameisen et al. 2025), where a crosscoder adds up
        the norms of its rows."""
        return torch.cat([rows.norm(dim=1) for rows in self.W_dec])

    def rows(self) -> list[Float[Tensor, "d_sae width"]]:
        """Those of the first layer's latents at all of their targets, then those of the second's."""
        return [part for rows in self.W_dec for part in rows.split(self.width_out, dim=1)]

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows of the same norm for every target, that together have norm 1."""
        drawn = {}
        for j, rows in enumerate(self.W_dec):
            targets = self.groups - j
            blocks = torch.randn(len(rows), targets, self.width_out, generator=generator)
            drawn[f"W_dec.{j}"] = normalize(blocks, dim=-1).flatten(1) / math.sqrt(targets)
        if self.width_in != self.width_out:
            drawn["W_enc"] = normalize(torch.randn(self.W_enc.shape, generator=generator), dim=1)
        return drawn

    @torch.no_grad()
    def place(self, drawn: Mapping[str, Tensor], norm: float, *, unit_norm_decoder: bool = False) -> None:
        """As in every geometry. Where widths are equal, encoders are tied to what their latents write to their own
        layer."""
        for parameter in self.parameters():
            parameter.zero_()
        for j, rows in enumerate(self.W_dec):
            directions = drawn[f"W_dec.{j}"].to(rows)
            rows.copy_(directions if unit_norm_decoder else norm * directions)
            if "W_enc" not in drawn:
                own = directions[:, : self.width_out] * math.sqrt(self.groups - j)
                self.W_enc[j].copy_(norm * own.T)
        if "W_enc" in drawn:
            self.W_enc.copy_(norm * drawn["W_enc"])

    @torch.no_grad()
    def fold(self, read: Affine, write: Affine) -> None:
        width_in, width_out = self.width_in, self.width_out
        reads = [_take(read, j * width_in, (j + 1) * width_in) for j in range(self.groups)]
        writes = [_take(write, j * width_out, self.groups * width_out) for j in range(self.groups)]
        W_enc = torch.stack([one.scale_readers(weights) for one, weights in zip(reads, self.W_enc, strict=True)])
        shift_pre(self.b_enc, -torch.cat([one.shift @ weights for one, weights in zip(reads, W_enc, strict=True)]))
        self.W_enc.copy_(W_enc)
        for rows, one in zip(self.W_dec, writes, strict=True):
            rows.copy_(one.restore_writers(rows))
        self.b_dec.copy_(write.restore_writers(self.b_dec) + write.shift)

    @torch.no_grad()
    def fold_norms(self) -> None:
        norms = self.norms()
        self.W_enc.mul_(norms.view(self.groups, 1, -1))
        if self.b_enc is not None:
            self.b_enc.mul_(norms)
        for rows, of_layer in zip(self.W_dec, norms.view(self.groups, -1), strict=True):
            # A latent that writes nothing is never selected: its norm is 0 and stays 0.
            rows.div_(of_layer.clamp(min=1e-12)[:, None])


def _take(affine: Affine, start: int, stop: int) -> Affine:
    """The map of some of the hook points. Raises ExportError where it mixes them with others."""
    if affine.scale.ndim == 1:
        return Affine(affine.shift[start:stop], affine.scale[start:stop], affine.inverse[start:stop])
    own = slice(start, stop)
    for matrix in (affine.scale, affine.inverse):
        if any(
            part.any() for part in (matrix[own, :start], matrix[own, stop:], matrix[:start, own], matrix[stop:, own])
        ):
            raise ExportError(
                "the activations of several hook points were normalized together, and the layers of a clt read and "
                "write them one by one; normalize each by itself"
            )
    return Affine(affine.shift[own], affine.scale[own, own], affine.inverse[own, own])
