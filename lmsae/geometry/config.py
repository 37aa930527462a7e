"""Configs of geometries, without torch: the part of a spec that says how x becomes `pre`, and codes a vector."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from lmsae.config import Frozen


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


class Widths(Frozen):
    """The widths of the hook points that a dictionary reads and writes, in their order."""

    reads: tuple[int, ...] = Field(min_length=1, description="Widths of the hook points read.")
    writes: tuple[int, ...] = Field(min_length=1, description="Widths of the hook points written.")

    @property
    def d_in(self) -> int:
        """Width of the input: of all hook points read, side by side."""
        return sum(self.reads)

    @property
    def d_out(self) -> int:
        """Width of the output: of all hook points written, side by side."""
        return sum(self.writes)


class Products(NamedTuple):
    """Multiply-adds a token: of encoding and of decoding with every latent, and of what no code has a share in."""

    encode: float
    decode: float
    apart: float = 0


class GeometryBase(Frozen):
    """The facts about a geometry that planning a row needs: which hook points it takes, and how much work it is."""

    autoencodes: ClassVar[bool] = False
    """It writes the hook points that it reads."""
    one_each: ClassVar[bool] = True
    """It reads one hook point and writes one."""
    grain: ClassVar[Literal["token", "context"]] = "token"
    """`encode` takes tokens one by one, or needs whole contexts."""
    writes_directions: ClassVar[bool] = True
    """Each latent writes along a direction of its own, whatever x is."""
    shardable: ClassVar[bool] = False
    """Its latents can be divided among processes (`train.shards`)."""

    def fault(self, widths: Widths, d_sae: int) -> str | None:
        """The reason that there cannot be a dictionary of these widths; None if there can."""
        return None

    def products(self, widths: Widths, d_sae: int, context_size: int) -> Products:
        """The work of a dictionary of these widths; that of attention depends on the size of contexts."""
        raise NotImplementedError

    def latents(self, widths: Widths, d_sae: int) -> int:
        """The number of all latents."""
        del widths
        return d_sae

    folded: ClassVar[Mapping[str, object]] = {}
    """Fields that change when normalizers are folded into the weights."""


class LinearConfig(GeometryBase):
    """The columns of geometries whose latents each read along one direction and write along one."""

    glu_encoder: bool = Field(
        default=False, description="Multiply pre-activations by a learned gate, sigmoid(x W_glu + b_glu)."
    )
    passes_x_on: ClassVar[bool] = False
    """x W_skip is added to what latents write."""
    shardable: ClassVar[bool] = True

    def products(self, widths: Widths, d_sae: int, context_size: int) -> Products:
        """d_in n, twice with a gate; n d_out; d_in d_out for x W_skip."""
        del context_size
        encode = (1 + self.glu_encoder) * widths.d_in * d_sae
        return Products(encode, d_sae * widths.d_out, self.passes_x_on * widths.d_in * widths.d_out)


class SAEConfig(LinearConfig):
    """One hook point, reconstructed from itself: pre = (x - b_dec) W_enc + b_enc."""

    autoencodes: ClassVar[bool] = True
    folded: ClassVar[Mapping[str, object]] = {"tied_encoder": False}

    kind: Literal["sae"] = "sae"
    apply_b_dec_to_input: bool = Field(
        default=True, description="Subtract the decoder bias from the input before encoding."
    )
    tied_encoder: bool = Field(
        default=False, description="Make the encoder the transposed decoder, during all of training."
    )


class TranscoderConfig(LinearConfig):
    """One hook point, written from another; widths may differ. b_dec is never subtracted: it lives in the output."""

    kind: Literal["transcoder"] = "transcoder"


class SkipTranscoderConfig(LinearConfig):
    """A transcoder that also passes x W_skip on (Paulo et al. 2025, arXiv 2501.18823)."""

    passes_x_on: ClassVar[bool] = True

    kind: Literal["skip_transcoder"] = "skip_transcoder"


class CrosscoderConfig(LinearConfig):
    """Several hook points, or models, share their latents (Lindsey et al. 2024)."""

    autoencodes: ClassVar[bool] = True
    one_each: ClassVar[bool] = False

    kind: Literal["crosscoder"] = "crosscoder"


class CLTConfig(GeometryBase):
    """Cross-layer transcoder: the latents of each layer write to it and to all later ones (Ameisen et al. 2025)."""

    one_each: ClassVar[bool] = False

    kind: Literal["clt"] = "clt"

    def fault(self, widths: Widths, d_sae: int) -> str | None:
        """The reason that these widths and this d_sae cannot be; None if they can."""
        del d_sae
        read, written = len(widths.reads), len(widths.writes)
        if read != written:
            return f"a clt writes one hook point for each one read, but reads {read} and writes {written}"
        for verb, found in (("reads", widths.reads), ("writes", widths.writes)):
            if len(set(found)) > 1:
                return f"all hook points that a clt {verb} must have the same width, not {_join(found)}"
        return None

    def products(self, widths: Widths, d_sae: int, context_size: int) -> Products:
        """d_in n; n d_out (layers + 1) / 2, since the latents of the first layer write to all, of the last to one."""
        del context_size
        return Products(widths.d_in * d_sae, d_sae * widths.d_out * (len(widths.writes) + 1) / 2)

    def latents(self, widths: Widths, d_sae: int) -> int:
        """d_sae latents of each layer."""
        return d_sae * len(widths.reads)


class LorsaConfig(GeometryBase):
    """Low-rank sparse attention: rank-1 OV heads that share QK heads in groups (He et al. 2025, arXiv 2504.20938)."""

    grain: ClassVar[Literal["token", "context"]] = "context"

    kind: Literal["lorsa"] = "lorsa"
    lorsa_qk_heads: int = Field(
        default=8,
        gt=0,
        description="Number of QK heads. The latents share them in groups of equal size, so the number must divide "
        "d_sae.",
    )
    lorsa_d_qk: int = Field(default=64, gt=0, description="Width of a QK head's queries and keys.")
    lorsa_rotary: bool = Field(
        default=True,
        description="Rotate queries and keys by position (GPT-NeoX style). Without it, attention does not know "
        "positions.",
    )
    lorsa_rotary_dim: int | None = Field(
        default=None,
        gt=0,
        description="Number of the lorsa_d_qk dimensions that are rotated, an even number. Empty: all.",
    )
    lorsa_rotary_base: float = Field(default=10000.0, gt=0, description="Base of the rotary wavelengths.")

    @property
    def rotated(self) -> int:
        """The number of dimensions of queries and keys that are rotated."""
        return (self.lorsa_rotary_dim or self.lorsa_d_qk) if self.lorsa_rotary else 0

    @model_validator(mode="after")
    def _rotates_pairs(self) -> "LorsaConfig":
        if self.rotated % 2:
            raise ValueError(
                f"rotary positions turn pairs of dimensions, so {self.rotated} cannot be rotated;"
                " set lorsa_rotary_dim to an even number"
            )
        if self.rotated > self.lorsa_d_qk:
            raise ValueError(f"lorsa_rotary_dim {self.rotated} is more than lorsa_d_qk {self.lorsa_d_qk}")
        return self

    def fault(self, widths: Widths, d_sae: int) -> str | None:
        """The reason that these widths and this d_sae cannot be; None if they can."""
        del widths
        if d_sae % self.lorsa_qk_heads:
            return f"d_sae {d_sae} cannot be shared equally by lorsa_qk_heads {self.lorsa_qk_heads}"
        return None

    def products(self, widths: Widths, d_sae: int, context_size: int) -> Products:
        """Values d_in n and their sums T n / 2; n d_out; q heads of queries and keys, q (2 d_in + T / 2) d_qk. T / 2 is
        how many tokens one attends to, on average."""
        seen, d_in = context_size / 2, widths.d_in
        patterns = self.lorsa_qk_heads * self.lorsa_d_qk * (2 * d_in + seen)
        return Products((d_in + seen) * d_sae, d_sae * widths.d_out, patterns)


class MOLTConfig(GeometryBase):
    """Mixture of linear transforms: each latent applies a matrix of low rank to x (Lindsey et al. 2025)."""

    writes_directions: ClassVar[bool] = False

    kind: Literal["molt"] = "molt"
    molt_ranks: tuple[str, ...] = Field(
        default=("64x1", "32x2", "16x4", "8x8"),
        min_length=1,
        description="Ranks of the transforms, as words RANKxSHARE. d_sae is divided in these shares: 64x1 32x2 makes "
        "two transforms of rank 32 for each one of rank 64.",
    )

    @field_validator("molt_ranks")
    @classmethod
    def _are_ranks_and_shares(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not re.fullmatch(r"[1-9]\d{0,8}x[1-9]\d{0,8}", word):
                raise ValueError(f"{word!r} is not RANKxSHARE, two positive integers such as 64x1")
        ranks = [word.split("x")[0] for word in words]
        if twice := sorted({rank for rank in ranks if ranks.count(rank) > 1}):
            raise ValueError(f"rank {_join(twice)} is named more than once")
        return words

    def transforms(self, d_sae: int) -> tuple[tuple[int, int], ...]:
        """(rank, how many transforms) for each rank that gets any, in the order given; the numbers sum to d_sae.

        Each gets its share of d_sae rounded down; what is left over goes one by one to the largest remainders.
        """
        pairs = [tuple(map(int, word.split("x"))) for word in self.molt_ranks]
        total = sum(share for _, share in pairs)
        counts = [d_sae * share // total for _, share in pairs]
        by_remainder = sorted(range(len(pairs)), key=lambda i: -(d_sae * pairs[i][1] % total))
        for i in by_remainder[: d_sae - sum(counts)]:
            counts[i] += 1
        return tuple((rank, count) for (rank, _), count in zip(pairs, counts, strict=True) if count)

    def fault(self, widths: Widths, d_sae: int) -> str | None:
        """The reason that these widths and this d_sae cannot be; None if they can."""
        most = min(widths.d_in, widths.d_out)
        above = [rank for rank, _ in self.transforms(d_sae) if rank > most]
        if above:
            between = f"widths {widths.d_in} and {widths.d_out}"
            return f"molt_ranks {_join(above)} cannot be: between {between} a rank is {most} at most"
        return None

    def products(self, widths: Widths, d_sae: int, context_size: int) -> Products:
        """d_in n; the sum of ranks (d_in + d_out)."""
        del context_size
        ranks = sum(rank * count for rank, count in self.transforms(d_sae))
        return Products(widths.d_in * d_sae, ranks * (widths.d_in + widths.d_out))


GeometryConfig = Annotated[
    SAEConfig | TranscoderConfig | SkipTranscoderConfig | CrosscoderConfig | CLTConfig | LorsaConfig | MOLTConfig,
    Field(discriminator="kind"),
]
GEOMETRIES: dict[str, type[GeometryBase]] = {
    "sae": SAEConfig,
    "transcoder": TranscoderConfig,
    "skip_transcoder": SkipTranscoderConfig,
    "crosscoder": CrosscoderConfig,
    "clt": CLTConfig,
    "lorsa": LorsaConfig,
    "molt": MOLTConfig,
}
