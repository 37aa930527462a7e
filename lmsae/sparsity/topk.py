"""TopK and BatchTopK: the k largest of ReLU(pre) a token, or k*B over a batch, and the threshold they learn."""

import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.sparsity.config import BatchTopKConfig, TopKConfig
from lmsae.sparsity.sparsity import Sparsity

THRESHOLD_DECAY = 0.99
SAMPLE = 65_536


class _LearnsThreshold(Sparsity):
    """Keeps the inference threshold: a running mean of each batch's smallest positive code, bias-corrected."""

    threshold_sum: Tensor
    threshold_weight: Tensor

    def __init__(self, config: TopKConfig | BatchTopKConfig, d_sae: int) -> None:
        super().__init__()
        self.k = min(config.k, d_sae)
        self.register_buffer("threshold_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("threshold_weight", torch.zeros((), dtype=torch.float64))

    @property
    def threshold(self) -> Tensor:
        """The learned threshold, a scalar; 0 before the first observed batch."""
        return (self.threshold_sum / self.threshold_weight.clamp(min=1e-300)).float()

    @torch.no_grad()
    def observe(self, codes: Float[Tensor, "*batch d_sae"]) -> None:
        smallest = torch.where(codes > 0, codes, torch.inf).amin().double()
        seen = smallest.isfinite()
        self.threshold_sum.lerp_(smallest.nan_to_num(posinf=0.0), (1 - THRESHOLD_DECAY) * seen)
        self.threshold_weight.lerp_(torch.ones_like(smallest), (1 - THRESHOLD_DECAY) * seen)


class TopK(_LearnsThreshold):
    def forward(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        values, indices = pre.relu().topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, indices, values)


class BatchTopK(_LearnsThreshold):
    def forward(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        if not self.training:
            return torch.where(pre > self.threshold, pre, 0.0)
        positive = pre.relu()
        count = self.k * (positive.numel() // positive.shape[-1])
        chosen = largest(positive.detach().flatten(), count)
        kept = positive.flatten()[chosen]
        return torch.zeros_like(positive).flatten().scatter(0, chosen, kept).view_as(pre)


def largest(values: Float[Tensor, " n"], count: int) -> Tensor:
    """Indices of the `count` largest of `values`, exactly, in no particular order.

    A full selection over tens of millions of values is slow. A sample says roughly where the cut lies; values a little
    below it become candidates, and the exact selection is made among those few.
    """
    if values.numel() > 4 * SAMPLE:
        stride = values.numel() // SAMPLE
        sample = values[::stride]
        rank = min(int(1.2 * count / stride) + 64, sample.numel())
        floor = sample.topk(rank, sorted=True).values[-1]
        candidates = (values > floor).nonzero().squeeze(1)
        if candidates.numel() >= count:
            return candidates[values[candidates].topk(count, sorted=False).indices]
    return values.topk(count, sorted=False).indices
