"""What an activation function is, without torch: the part of a spec that says how `pre` becomes sparse codes."""

from typing import Annotated, Literal

from pydantic import Field

from lmsae.config import Frozen


class ReLUConfig(Frozen):
    """codes = ReLU(pre)."""

    kind: Literal["relu"] = "relu"


class TopKConfig(Frozen):
    """The k largest of ReLU(pre), token by token (Gao et al. 2024, arXiv 2406.04093)."""

    kind: Literal["topk"] = "topk"
    k: int = Field(gt=0, description="Active latents a token (topk), or on average over a batch (batchtopk).")


class BatchTopKConfig(Frozen):
    """The k*B largest of ReLU(pre) over a batch of B tokens (Bussmann et al. 2024, arXiv 2412.06410).

    At inference codes never depend on batch mates: a latent fires above the threshold learned in training.
    """

    kind: Literal["batchtopk"] = "batchtopk"
    k: int = Field(gt=0, description="Active latents a token (topk), or on average over a batch (batchtopk).")


class JumpReLUConfig(Frozen):
    """codes = pre * 1[pre > theta], theta learned as exp(log_threshold) (Rajamanoharan et al. 2024, 2407.14435)."""

    kind: Literal["jumprelu"] = "jumprelu"
    jumprelu_bandwidth: float = Field(
        default=0.5,
        gt=0,
        description="Width of the rectangle kernel that gives thresholds a gradient, in units of pre.",
    )
    jumprelu_init_threshold: float = Field(default=0.1, gt=0, description="Threshold that every latent starts with.")


ActFnConfig = Annotated[ReLUConfig | TopKConfig | BatchTopKConfig | JumpReLUConfig, Field(discriminator="kind")]
ACT_FNS: dict[str, type[Frozen]] = {
    "relu": ReLUConfig,
    "topk": TopKConfig,
    "batchtopk": BatchTopKConfig,
    "jumprelu": JumpReLUConfig,
}
