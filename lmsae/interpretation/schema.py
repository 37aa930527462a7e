"""The payload of the stage `features`, as files that other programs read: its schemas, versioned.

`features.json` is an `Info`. `latents.parquet` has a row for each latent, `contexts.parquet` one for each piece of text
that shows a latent. What a column means stands in its field's metadata (`description`), and so in the files.

A schema's version goes up when a column is renamed, removed or means something else. A new column does not raise it.
"""

from typing import Literal

import pyarrow as pa
from pydantic import ConfigDict, Field

from lmsae.config import Frozen

SCHEMA_VERSION = 1
INFO, LATENTS, CONTEXTS = "features.json", "latents.parquet", "contexts.parquet"
GROUP_LATENTS = 1024
"""Latents of a row group of either table, but for the last one: no latent is in two groups."""
TOP = "top"
"""The kind of the pieces of text with a latent's largest codes."""


def quantile_kind(number: int) -> str:
    """The kind of the pieces of text of a quantile bin, by its number from 0: q1, q2 ..., the weakest codes first."""
    return f"q{number + 1}"


Split = Literal["train", "held_out"]


class Location(Frozen):
    """A hook point of one of the models, by the model's number."""

    model: int
    hook_point: str


class Info(Frozen):
    """The facts that hold for all latents: what was counted, and in which way."""

    model_config = ConfigDict(extra="ignore")  # a later lmsae may say more

    schema_version: Literal[1] = Field(description="Version of the schema of all three files.")
    latents: int = Field(description="Number of latents; of a clt, of all layers.")
    d_sae: int = Field(description="The column sae.d_sae: latents, of a clt in each layer.")
    geometry: str = Field(description="Kind of the geometry.")
    act_fn: str = Field(description="Kind of the activation function.")
    signed: bool = Field(description="Codes may be below 0. All counts are then of their absolute values.")
    models: tuple[str, ...] = Field(description="Names of the models, by number.")
    reads: tuple[Location, ...] = Field(description="Hook points that the dictionary reads.")
    writes: tuple[Location, ...] = Field(description="Hook points that it writes.")
    dataset: str = Field(description="Name of the text.")
    split: Split = Field(description="Split of the text that was counted.")
    contexts: int = Field(description="Number of contexts that were read.")
    context_size: int = Field(description="Tokens of a context.")
    tokens: int = Field(description="Tokens that count: all of these contexts but special, masked and skipped ones.")
    histogram_bins: int = Field(description="Bins of each latent's histogram.")
    quantiles: int = Field(description="Number of quantile bins.")
    position_bins: tuple[int, ...] = Field(
        description="Edges of the bins of positions: bin i has the positions from edge i up to edge i + 1."
    )
    position_tokens: tuple[int, ...] = Field(description="Tokens that count in each bin of positions.")
    logits: str = Field(description="How `promoted` and `suppressed` were computed, or why they are null.")
    companions: str = Field(description="What the co-firing of latents was counted on.")


def _field(name: str, kind: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


def _struct(**kinds: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


TOP_TOKEN = _struct(token=pa.int32(), text=pa.string(), active=pa.int64(), rate=pa.float64(), mean=pa.float32())
LOGIT = _struct(token=pa.int32(), text=pa.string(), logit=pa.float32())
NEIGHBOR = _struct(latent=pa.int32(), cosine=pa.float32())
COMPANION = _struct(latent=pa.int32(), phi=pa.float32())

LATENTS_SCHEMA = pa.schema(
    [
        _field("latent", pa.int32(), "number of the latent"),
        _field("active_tokens", pa.int64(), "tokens on which it fires: its code is not 0"),
        _field("firing_rate", pa.float64(), "the same as a share of all tokens that count"),
        _field(
            "mean_active", pa.float32(), "mean size of its code where it fires; null if it never does", nullable=True
        ),
        _field("max_activation", pa.float32(), "largest size of its code; 0 if it never fires"),
        _field(
            "histogram",
            pa.list_(pa.int64()),
            "tokens on which it fires by the size of its code, in bins of equal width from 0 to `max_activation`; a "
            "bin holds its lower edge, and the last one its upper edge too",
        ),
        _field(
            "position_rate",
            pa.list_(pa.float32()),
            "firing rate in each bin of positions; null where no token counts",
        ),
        _field("decoder_norm", pa.float32(), "norm of what it writes at a code of 1, in training units"),
        _field("encoder_norm", pa.float32(), "norm of its encoder column, in training units", nullable=True),
        _field(
            "write_norms",
            pa.list_(pa.float32()),
            "share of the squared decoder norm at each hook point written, in training units; null if it writes "
            "nothing or no direction",
            nullable=True,
        ),
        _field(
            "read_norms",
            pa.list_(pa.float32()),
            "share of the squared encoder norm at each hook point read; null if it reads nothing",
            nullable=True,
        ),
        _field(
            "top_tokens",
            pa.list_(TOP_TOKEN),
            "tokens by the summed size of its codes on them, the largest first: `active` of them it fires on, `rate` "
            "is that as a share of the token's occurrences, `mean` the mean size of its code where it fires",
        ),
        _field(
            "promoted",
            pa.list_(LOGIT),
            "tokens whose logit it raises most at a code of 1; null where no logits are computed (`logits` in "
            "features.json)",
            nullable=True,
        ),
        _field("suppressed", pa.list_(LOGIT), "tokens whose logit it lowers most", nullable=True),
        _field(
            "neighbors",
            pa.list_(NEIGHBOR),
            "latents with the most similar decoder rows, by cosine; null where latents write no direction",
            nullable=True,
        ),
        _field(
            "companions",
            pa.list_(COMPANION),
            "latents that fire on the same tokens, by the phi coefficient; empty if it never fires",
        ),
    ],
    metadata={"lmsae.features.schema": str(SCHEMA_VERSION)},
)

CONTEXTS_SCHEMA = pa.schema(
    [
        _field("latent", pa.int32(), "number of the latent"),
        _field(
            "kind",
            pa.string(),
            "`top`: the contexts with its largest codes. `q1`, `q2` ...: samples of the tokens whose code is in that "
            "bin of equal width from 0 to `max_activation`, the weakest bin first",
        ),
        _field("rank", pa.int16(), "place in its kind, from 0; of `top` the largest code first"),
        _field("activation", pa.float32(), "code at the peak"),
        _field("document", pa.string(), "name of the peak's document in the text; null if it has none", nullable=True),
        _field(
            "document_token",
            pa.int64(),
            "place of the peak among the tokens of its document, from 0, its separator included",
            nullable=True,
        ),
        _field("context", pa.int32(), "number of the context in its split"),
        _field("position", pa.int32(), "position of the peak in the context"),
        _field("start", pa.int32(), "position of the first token shown"),
        _field("tokens", pa.list_(pa.int32()), "ids of the tokens shown, which are neighbors in the context"),
        _field("texts", pa.list_(pa.string()), "text of each token shown; joined they read as the text"),
        _field("activations", pa.list_(pa.float32()), "code at each token shown; null at tokens that do not count"),
        _field(
            "source_positions",
            pa.list_(pa.int32()),
            "only of a lorsa: positions of the context from which the peak's value comes, the largest share first",
            nullable=True,
        ),
        _field(
            "source_weights",
            pa.list_(pa.float32()),
            "only of a lorsa: attention of the peak's position to each of them",
            nullable=True,
        ),
    ],
    metadata={"lmsae.features.schema": str(SCHEMA_VERSION)},
)
