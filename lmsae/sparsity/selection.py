"""Activation functions that keep k codes, and the threshold that some of them learn."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.entries import Entries, sparse_limit
from lmsae.sparsity.config import SelectsK
from lmsae.sparsity.sparsity import EntrywiseSparsity

THRESHOLD_DECAY = 0.99


class Selection(EntrywiseSparsity):
    """Keeps k codes in each group of latents.

    `k` is that of the config, or as many latents as a group has. It never changes; a pass may be given another.
    """

    def __init__(self, config: SelectsK, latents: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.k = min(config.k, latents // groups)

    @property
    def kept(self) -> int:
        return self.k * self.groups

    @abstractmethod
    def select_entries(self, pre: Float[Tensor, "tokens latents"], k: int) -> Entries:
        """The entries that training keeps. Some may be 0."""

    def choose_entries(self, pre: Float[Tensor, "tokens latents"], k: int | None = None) -> Entries | None:
        k = self.k if k is None else k
        return self.select_entries(pre, k) if k * self.groups * len(pre) <= sparse_limit(pre) else None

    def activate_at(
        self, pre: Float[Tensor, " entries"], latents: Int[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        return pre if self.signed else pre.relu()


class SelectsByToken(Selection):
    """Keeps as many codes of every token, whatever the rest of the batch."""

    @abstractmethod
    def choose_latents(self, pre: Float[Tensor, "*batch latents"], k: int) -> Int[Tensor, "*batch kept"]:
        """The latents that each token keeps."""

    def forward(
        self, pre: Float[Tensor, "*batch latents"], geometry: nn.Module | None = None
    ) -> Float[Tensor, "*batch latents"]:
        return self.select(pre, self.k)

    def select(self, pre: Float[Tensor, "*batch latents"], k: int) -> Float[Tensor, "*batch latents"]:
        """The codes with another k (TakesAnyK)."""
        return keep_chosen(pre, self.choose_latents(pre.detach(), k), signed=self.signed)

    def select_entries(self, pre: Float[Tensor, "tokens latents"], k: int) -> Entries:
        return Entries.from_latents(self.choose_latents(pre, k), pre.shape[-1])


class LearnsThreshold(Selection):
    """Keeps the inference threshold. Each group of latents has its own.

    In training it is an estimate: a running mean of each batch's smallest positive code, bias-corrected. `calibrate`
    sets it by the weights as they are in the end.
    """

    threshold_sum: Tensor
    threshold_weight: Tensor

    def __init__(self, config: SelectsK, latents: int, groups: int) -> None:
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
    def calibrate(self, tokens: int, parts: Iterable[Tensor]) -> None:
        """Set the threshold above which as many codes are active on these tokens as selection keeps.

        `parts` are the pre-activations of so many tokens, (some of them, latents) at a time. Where none is kept in a
        group, its threshold stays as it is.
        """
        most = self.k * tokens + 1
        kept, largest = [0] * self.groups, [self.threshold_sum.new_empty(0, dtype=torch.float32)] * self.groups
        was_training = self.training
        self.train()
        for pre in parts:
            codes, groups = self(pre).view(-1, self.groups, self.width), pre.view(-1, self.groups, self.width)
            for group in range(self.groups):
                kept[group] += int(codes[:, group].count_nonzero())
                largest[group] = _keep_largest(largest[group], groups[:, group], most)
        self.train(was_training)
        for group, (count, values) in enumerate(zip(kept, largest, strict=True)):
            if count:
                # Where no positive value is left out there is nothing to tell apart.
                ends = values.topk(min(count + 1, len(values))).values[count - 1 :].double()
                self.threshold_sum[group] = ends.mean() if len(ends) > 1 else 0.0
                self.threshold_weight[group] = 1.0

    @torch.no_grad()
    def observe(self, codes: Tensor, latents: Int[Tensor, " entries"] | None = None) -> None:
        positive = torch.where(codes > 0, codes, torch.inf)
        if self.groups == 1:
            smallest = positive.amin().view(1)
        elif latents is None:
            smallest = positive.reshape(-1, self.groups, self.width).amin((0, 2))
        else:
            group = latents.div(self.width, rounding_mode="floor")
            smallest = positive.new_full((self.groups,), torch.inf).scatter_reduce(0, group, positive, "amin")
        smallest = smallest.to(self.threshold_sum)
        seen = smallest.isfinite()
        share = (1 - THRESHOLD_DECAY) * seen.to(smallest)
        self.threshold_sum.lerp_(smallest.nan_to_num(posinf=0.0), share)
        self.threshold_weight.lerp_(torch.ones_like(smallest), share)


def _keep_largest(kept: Float[Tensor, " n"], new: Float[Tensor, "tokens latents"], most: int) -> Float[Tensor, " m"]:
    """The largest positive values of both, at most so many."""
    least = kept.min().clamp(min=0) if len(kept) == most else kept.new_zeros(())
    found = torch.cat([kept, new[new > least].float()])
    return found.topk(most, sorted=False).values if len(found) > most else found


def keep_chosen(
    pre: Float[Tensor, "*batch latents"], chosen: Int[Tensor, "*batch kept"], *, signed: bool
) -> Float[Tensor, "*batch latents"]:
    """The codes of each token's chosen latents, pre itself where codes have signs and ReLU(pre) elsewhere; 0 of all
    others."""
    kept = pre.gather(-1, chosen)
    return torch.zeros_like(pre).scatter(-1, chosen, kept if signed else kept.relu())


def choose_largest(values: Float[Tensor, "*batch latents"], k: int, groups: int) -> Int[Tensor, "*batch kept"]:
    """The k latents of each token with the largest values, in each group of latents."""
    parts = values.unflatten(-1, (groups, -1))
    width = parts.shape[-1]
    k = min(k, width)
    if cpu_kernels.can_choose(parts):
        within = cpu_kernels.find_largest_of_rows(parts.reshape(-1, width), k)[0].view(*parts.shape[:-1], k)
    else:
        within = parts.topk(k, dim=-1, sorted=False).indices
    if groups == 1:
        return within.squeeze(-2)
    begins = width * torch.arange(groups, device=values.device)
    return (within + begins[:, None]).flatten(-2)
