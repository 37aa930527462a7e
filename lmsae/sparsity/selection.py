"""What activation functions that keep a given number of codes share: k, and the threshold that they learn."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.sparsity.config import (
    AbsTopKConfig,
    BatchLayerTopKConfig,
    BatchTopKConfig,
    GroupMaxConfig,
    LayerTopKConfig,
    TopKConfig,
)
from lmsae.sparsity.sparsity import Sparsity

THRESHOLD_DECAY = 0.99

SelectionConfig = TopKConfig | BatchTopKConfig | LayerTopKConfig | BatchLayerTopKConfig | AbsTopKConfig | GroupMaxConfig


class Selection(Sparsity):
    """Keeps k codes in each group of latents.

    `k` is a plain number, which a trainer with a schedule sets before each step. It is no part of the state, and
    inference takes the config's.
    """

    def __init__(self, config: SelectionConfig, latents: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.k = self._k_of_config = min(config.k, latents // groups)

    @property
    def k_now(self) -> int:
        """k of this step in training, k of the config at inference."""
        return self.k if self.training else self._k_of_config

    @abstractmethod
    def at(self, pre: Float[Tensor, "*batch latents"], k: int) -> Float[Tensor, "*batch latents"]:
        """The codes that this batch has with another k. More than there are means all."""


class LearnsThreshold(Selection):
    """Keeps the inference threshold: a running mean of each batch's smallest positive code, bias-corrected.

    Each group of latents has its own.
    """

    threshold_sum: Tensor
    threshold_weight: Tensor

    def __init__(self, config: SelectionConfig, latents: int, groups: int) -> None:
        super().__init__(config, latents, groups)
        self.width = latents // groups
        self.register_buffer("threshold_sum", torch.zeros(groups, dtype=torch.float64))
        self.register_buffer("threshold_weight", torch.zeros(groups, dtype=torch.float64))

    @property
    def threshold(self) -> Float[Tensor, " latents"]:
        """The learned threshold of each latent, in units of pre; 0 before the first observed batch."""
        mean = (self.threshold_sum / self.threshold_weight).nan_to_num(0.0)
        return mean.float().repeat_interleave(self.width)

    @torch.no_grad()
    def observe(self, codes: Float[Tensor, "*batch latents"]) -> None:
        positive = torch.where(codes > 0, codes, torch.inf).reshape(-1, self.groups, self.width)
        smallest = positive.amin((0, 2)).to(self.threshold_sum)
        seen = smallest.isfinite()
        share = (1 - THRESHOLD_DECAY) * seen.to(smallest)
        self.threshold_sum.lerp_(smallest.nan_to_num(posinf=0.0), share)
        self.threshold_weight.lerp_(torch.ones_like(smallest), share)
