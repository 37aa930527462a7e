"""Threshold conversion: the jumprelu that fires where a trained topk, batchtopk or groupmax fired on average."""

from typing import cast

from torch import Tensor

from lmsae.errors import ExportError
from lmsae.sparsity.config import ActFnConfig, JumpReLUConfig
from lmsae.sparsity.selection import LearnsThreshold
from lmsae.sparsity.sparsity import Sparsity


def to_jumprelu(config: ActFnConfig, sparsity: Sparsity) -> tuple[JumpReLUConfig, dict[str, Tensor]]:
    """Config and state of the jumprelu with the thresholds that `sparsity`, built from `config`, learned in training.

    Thresholds are in the units in which latents are selected. The codes are exactly those of batchtopk and
    batchlayertopk at inference; topk, layertopk and groupmax lose some quality. Raises ExportError where there is no
    threshold.
    """
    if config.not_jumprelu_because is not None:
        raise ExportError(f"{config.kind} cannot be converted to jumprelu: {config.not_jumprelu_because}.")
    learned = cast(LearnsThreshold, sparsity)
    if not learned.threshold_weight.all():
        raise ExportError(
            f"this {config.kind} cannot be converted to jumprelu: in training no latent ever fired"
            f"{' in some layer' if learned.groups > 1 else ''}, so that it has learned no threshold. Train it first."
        )
    # Not the logarithm, whose exp would not be the same number.
    return JumpReLUConfig(jumprelu_threshold="direct"), {"direct_threshold": learned.threshold}
