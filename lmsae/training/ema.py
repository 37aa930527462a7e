"""WeightMean: a running mean of weights over training."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class WeightMean:
    """An exponential running mean of named parameters, bias-corrected as Adam's moments are: after n steps the weights
    of step i count decay^(n - i), over the sum of all counts. Statistics that are no parameters stay as observed."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.sums: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Take in the weights after a step."""
        self.updates += 1
        for name, value in parameters:
            self.sums[name].lerp_(value, 1 - self.decay)

    @torch.no_grad()
    def restart(self, name: str, parameter: nn.Parameter, dim: int, chosen: Tensor) -> None:
        """Set the mean at chosen places of a parameter's dimension to the present weights, as if it always had been."""
        present = parameter.index_select(dim, chosen)
        self.sums[name].index_copy_(dim, chosen, present * (1 - self.decay**self.updates))

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Set parameters to their mean; after no update it is all zeros."""
        for name, value in parameters:
            value.copy_(self.sums[name] / (1 - self.decay**self.updates))
