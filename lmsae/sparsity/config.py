"""Configs of activation functions, without torch: the part of a spec that says how `pre` becomes sparse codes."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lmsae.config import Frozen
from lmsae.sparsity.capabilities import HasGate, HasThreshold, TakesAnyK


class ActFnBase(Frozen):
    """The facts about an activation function that planning a row, and building the geometry before it, needs."""

    brings_bias: ClassVar[bool] = False
    """It has biases of its own or none at all, so that the geometry has no b_enc."""
    needs_tied_encoder: ClassVar[bool] = False
    """It explains x away latent by latent, and so needs an encoder that is the decoder transposed, of unit rows."""
    joins_groups: ClassVar[bool] = False
    """It selects among the latents of all groups (layers) at once, where others select in each group."""
    selects_over_batch: ClassVar[bool] = False
    """It chooses among all pre-activations of a batch in training."""
    offers: ClassVar[tuple[type, ...]] = ()
    """The capabilities of its module beside codes: types of lmsae/sparsity/capabilities.py."""
    shardable: ClassVar[bool] = False
    """Its latents can be divided among processes (`train.shards`)."""
    not_jumprelu_because: ClassVar[str | None] = "it learns no threshold in training"
    """The reason that it cannot be converted to jumprelu after training; None if it can."""


class ReLUConfig(ActFnBase):
    """codes = ReLU(pre)."""

    shardable: ClassVar[bool] = True

    kind: Literal["relu"] = "relu"


class GatedConfig(ActFnBase):
    """codes = 1[pre + b_gate > 0] * ReLU(pre exp(r_mag) + b_mag) (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

    brings_bias: ClassVar[bool] = True
    offers: ClassVar[tuple[type, ...]] = (HasGate,)

    kind: Literal["gated"] = "gated"


class JumpReLUConfig(ActFnBase):
    """codes = pre * 1[pre > theta], theta learned for each latent (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

    offers: ClassVar[tuple[type, ...]] = (HasThreshold,)
    shardable: ClassVar[bool] = True
    not_jumprelu_because: ClassVar[str | None] = "it is one already"

    kind: Literal["jumprelu"] = "jumprelu"
    jumprelu_bandwidth: float = Field(
        default=0.5,
        gt=0,
        description="Width of the rectangle kernel that gives thresholds a gradient, in units of pre.",
    )
    jumprelu_init_threshold: float = Field(default=0.1, gt=0, description="Threshold of every latent at the start.")
    jumprelu_threshold: Literal["log", "direct"] = Field(
        default="log",
        description="Parameter that training learns. log: the logarithm of the threshold, which stays positive and "
        "moves by about threshold * lr a step. direct: the threshold itself, as in SAELens; a value below 0 acts as 0.",
    )


class SelectsK(ActFnBase):
    k: int = Field(
        gt=0,
        description="Active latents of a token (batchtopk, batchlayertopk: on average over the batch). A cross-layer "
        "transcoder has k in each layer; with layertopk and batchlayertopk it has k over all its layers together. "
        "groupmax: number of groups, each with at most one active latent. matching_pursuit: number of steps.",
    )


class _TopKFamily(SelectsK):
    offers: ClassVar[tuple[type, ...]] = (TakesAnyK,)
    not_jumprelu_because: ClassVar[str | None] = None


class TopKConfig(_TopKFamily):
    """The k largest of ReLU(pre), token by token (Gao et al. 2024, arXiv 2406.04093)."""

    shardable: ClassVar[bool] = True

    kind: Literal["topk"] = "topk"


class BatchTopKConfig(_TopKFamily):
    """The k*B largest of ReLU(pre) over a batch of B tokens (Bussmann et al. 2024, arXiv 2412.06410).

    At inference codes never depend on batch mates: a latent fires above the threshold learned in training.
    """

    selects_over_batch: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    kind: Literal["batchtopk"] = "batchtopk"


class LayerTopKConfig(_TopKFamily):
    """The k largest of ReLU(pre) over all layers of a token; k is the total (peers document k * layers, compute k)."""

    joins_groups: ClassVar[bool] = True

    kind: Literal["layertopk"] = "layertopk"


class BatchLayerTopKConfig(_TopKFamily):
    """The k*B largest of ReLU(pre) over a batch of B tokens and all layers; at inference as batchtopk."""

    joins_groups: ClassVar[bool] = True
    selects_over_batch: ClassVar[bool] = True

    kind: Literal["batchlayertopk"] = "batchlayertopk"


class AbsTopKConfig(SelectsK):
    """The k largest of |pre| with their signs, token by token (Zhu et al. 2025, arXiv 2510.00404)."""

    offers: ClassVar[tuple[type, ...]] = (TakesAnyK,)
    not_jumprelu_because: ClassVar[str | None] = "its codes may be negative, and those of jumprelu are not"

    kind: Literal["abstopk"] = "abstopk"


class GroupMaxConfig(SelectsK):
    """Latents in k groups of neighbors; of each group the largest of ReLU(pre) (sparsify, EleutherAI 2024)."""

    not_jumprelu_because: ClassVar[str | None] = None

    kind: Literal["groupmax"] = "groupmax"


class MatchingPursuitConfig(SelectsK):
    """k times: the latent with the largest pre explains its part of x away, and pre of the rest is taken again.

    Costa et al. 2025 (arXiv 2506.03093). No encoder bias; the encoder is the decoder transposed.
    """

    brings_bias: ClassVar[bool] = True
    needs_tied_encoder: ClassVar[bool] = True
    not_jumprelu_because: ClassVar[str | None] = "each of its codes depends on the others"

    kind: Literal["matching_pursuit"] = "matching_pursuit"


ActFnConfig = Annotated[
    ReLUConfig
    | GatedConfig
    | JumpReLUConfig
    | TopKConfig
    | BatchTopKConfig
    | AbsTopKConfig
    | GroupMaxConfig
    | LayerTopKConfig
    | BatchLayerTopKConfig
    | MatchingPursuitConfig,
    Field(discriminator="kind"),
]
ACT_FNS: dict[str, type[ActFnBase]] = {
    "relu": ReLUConfig,
    "gated": GatedConfig,
    "jumprelu": JumpReLUConfig,
    "topk": TopKConfig,
    "batchtopk": BatchTopKConfig,
    "abstopk": AbsTopKConfig,
    "groupmax": GroupMaxConfig,
    "layertopk": LayerTopKConfig,
    "batchlayertopk": BatchLayerTopKConfig,
    "matching_pursuit": MatchingPursuitConfig,
}
