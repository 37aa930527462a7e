"""Recovery: how well a dictionary finds features that are known, as those of `builtin:features` are.

A latent counts under either sign: a direction and its code may both be negative (abstopk).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def mean_max_cosine(
    directions: Float[Tensor, "features width"], decoder: Float[Tensor, "latents width"]
) -> tuple[float, Float[Tensor, " features"]]:
    """Mean over features of the largest absolute cosine between their direction and any decoder row, and each of them.

    Mean max cosine similarity (Sharkey et al. 2022). Features with a direction of zeros are not there: they are nan,
    and not in the mean. Decoders alone can come near 1 while codes are wrong: look at `Correlations` too.
    """
    cosines = normalize(directions.double(), dim=1) @ normalize(decoder.double(), dim=1).T
    found = cosines.abs().amax(1).where(directions.any(dim=1), torch.nan)
    return found.nanmean().item(), found


@dataclass
class Correlations:
    """Sums over tokens that give the correlation of every feature's amount with every latent's code, in float64."""

    tokens: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def update(self, amounts: Float[Tensor, "tokens features"], codes: Float[Tensor, "tokens latents"]) -> None:
        """Take in a batch of unmasked tokens."""
        a, c = amounts.double(), codes.double()
        self.tokens += len(a)
        batch = {"a": a.sum(0), "c": c.sum(0), "aa": a.square().sum(0), "cc": c.square().sum(0), "ac": a.T @ c}
        self.sums = {name: value + self.sums.get(name, 0) for name, value in batch.items()}

    def mean_max(self) -> tuple[float, Float[Tensor, " features"]]:
        """Mean over features of the largest absolute correlation of their amounts with any latent's codes, and each.

        A feature that never fired, or always fired alike, is nan, and not in the mean; such a latent correlates with
        nothing.
        """
        n, s = self.tokens, self.sums
        covariance = s["ac"] - s["a"][:, None] * s["c"] / n
        spreads = [(s[2 * name] - s[name].square() / n).clamp(min=0).sqrt() for name in "ac"]
        # Sums of equal numbers cancel to within rounding only.
        constant = [spread <= 1e-7 * s[2 * name].sqrt() for spread, name in zip(spreads, "ac", strict=True)]
        a, c = (spread.where(~same, torch.inf) for spread, same in zip(spreads, constant, strict=True))
        found = (covariance / a[:, None] / c).abs().amax(1).where(~constant[0], torch.nan)
        return found.nanmean().item(), found
