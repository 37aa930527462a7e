"""Metrics: what is measured of a dictionary, by streaming sums in float64.

Numerators and denominators are summed apart over the whole evaluation set: a mean of per-batch ratios is another
number. Every name says which formula it is, because published tables use several under one name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.metrics.contexts import ContextSums, Places, Ratio, mean_of
from lmsae.metrics.definitions import HISTOGRAM_BINS, HISTOGRAM_HIGH, HISTOGRAM_LOW

ROUNDING = 1e-12
"""A variance below this share of the squared norm is the rounding of sums in float64, and divides nothing."""


@dataclass
class Reconstruction:
    """Sums over tokens from which every metric of reconstruction follows.

    `center` (d_out,) is the mean activation of calibration text. Only explained_variance_legacy needs it: a mean of
    ratios cannot be centered afterwards, and a batch's own mean would make the metric depend on how batches are cut.
    Means of ratios leave out tokens that divide by nothing: l2_ratio and cossim those of a norm up to `smallest_norm`,
    explained_variance_legacy those at the center. A metric is nan where no token is left, or no variance. Batches that
    come with the places of their tokens give standard errors, too, and explained variance by bins.
    """

    center: Float[Tensor, " d_out"]
    smallest_norm: float = 0.0
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    by_context: ContextSums = field(default_factory=lambda: ContextSums(*RECONSTRUCTION_SUMS))

    def update(
        self,
        target: Float[Tensor, "tokens d_out"],
        reconstruction: Float[Tensor, "tokens d_out"],
        places: Places | None = None,
    ) -> None:
        """Take in a batch of unmasked tokens."""
        y, y_hat = target.double(), reconstruction.double()
        error = y - y_hat
        squared_norm, squared_norm_hat, squared_error = (side.square().sum(1) for side in (y, y_hat, error))
        norm, norm_hat, dot = squared_norm.sqrt(), squared_norm_hat.sqrt(), (y * y_hat).sum(1)
        has_norm = norm > self.smallest_norm
        variance = (y - self.center.double()).square().sum(1)
        varies = variance > ROUNDING * squared_norm
        values = {
            "tokens": torch.ones_like(dot),
            "squared_error": squared_error,
            "squared_norm": squared_norm,
            "squared_norm_hat": squared_norm_hat,
            "dot": dot,
            "norm": norm,
            "norm_hat": norm_hat,
            "tokens_with_norm": has_norm,
            "norm_ratio": torch.where(has_norm, norm_hat / norm, 0.0),
            "cossim": torch.where(has_norm, dot / (norm * norm_hat).clamp(min=1e-30), 0.0),
            "tokens_that_vary": varies,
            "legacy": torch.where(varies, 1 - squared_error / variance, 0.0),
            "variance": variance,
        }
        self.tokens += len(y)
        for name, value in values.items():
            self._add(name, value.sum())
        self.vectors |= _add_each(self.vectors, target=y.sum(0), error=error.sum(0))
        self._add_batch(y, values)
        if places is not None:
            self.by_context.update(values, places)
            self._add_places(y, values, places)

    def result(self) -> dict[str, float]:
        """The metrics by name; see docs/metrics.md for each formula."""
        n, s = self.tokens, self.sums
        variance = s["squared_norm"] - self.vectors["target"].pow(2).sum().item() / n
        error_variance = s["squared_error"] - self.vectors["error"].pow(2).sum().item() / n
        explained = explain_variance(s["squared_error"], variance, s["squared_norm"])
        legacy = divide(s["legacy"], s["tokens_that_vary"])
        return {
            "tokens": n,
            "explained_variance": explained,
            # The center may be that of activations as they are stored, and then differs from those that never vary.
            "explained_variance_legacy": math.nan if math.isnan(explained) else legacy,
            "frac_variance_explained": explain_variance(error_variance, variance, s["squared_norm"]),
            "mse": s["squared_error"] / n,
            "l2_norm_in": s["norm"] / n,
            "l2_norm_out": s["norm_hat"] / n,
            "l2_ratio": divide(s["norm_ratio"], s["tokens_with_norm"]),
            "cossim": divide(s["cossim"], s["tokens_with_norm"]),
            "relative_reconstruction_bias": divide(s["squared_norm_hat"], s["dot"]),
            "saelens_relative_reconstruction_bias": divide(s["batch_biases"], s["batches_with_bias"]),
            "saelens_explained_variance_legacy": divide(s["batch_legacy"], s["tokens_off_batch_mean"]),
        }

    def errors(self) -> dict[str, float]:
        """The standard errors over contexts of those metrics that are ratios of sums over tokens."""
        result = self.result()
        errors = {"explained_variance": self.by_context.error(self._explained(), more=self._covary())}
        errors |= {name: self.by_context.error(ratio) for name, ratio in RECONSTRUCTION_RATIOS.items()}
        return {name: math.nan if math.isnan(result[name]) else error for name, error in errors.items()}

    def by_bin(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Tokens and explained variance in each bin, and the standard errors of the latter.

        The variance in a bin is that around the mean of all tokens, so that the bins' sums add up to those of all.
        """
        members, mean = self.vectors["members"][1:], self.vectors["target"] / self.tokens
        squared_norm, target = self.vectors["bin_squared_norm"][1:], self.vectors["bin_target"][1:]
        variance = squared_norm - 2 * target @ mean + members * mean.square().sum()
        squared_error = self.vectors["bin_squared_error"][1:]
        explained = [
            explain_variance(*sums)
            for sums in zip(squared_error.tolist(), variance.tolist(), squared_norm.tolist(), strict=True)
        ]
        _, errors = self.by_context.of_every_bin(self._explained())
        return {"tokens": members.tolist(), "explained_variance": explained}, {"explained_variance": errors}

    def _explained(self) -> Ratio:
        """Explained variance as a ratio of sums over tokens: of squared distances from the center, less what the mean
        of all text, which is not known while it is read, is off it."""
        variance = {"variance": 1.0, "tokens": -self._shift().square().sum().item()}
        return Ratio({**variance, "squared_error": -1.0}, variance)

    def _shift(self) -> Tensor:
        return self.vectors["target"] / self.tokens - self.center.double()

    def _covary(self) -> float:
        """The gain of the squared residuals of explained variance if distances are taken from the mean of all text.

        A residual is then F V - E with V less by 2 s·m, where F is the unexplained share, m the mean and s the
        context's sum, both from the center, and s without what m makes of it. Its product with the residual is summed
        here, and its own square is left out: it is the square of two sampling errors.
        """
        shift, ratio = self._shift(), self._explained()
        unexplained = 1 - self.by_context.ratio(ratio)
        along = self.vectors["products"] @ shift  # of variance, tokens and squared error with s·m
        coefficients = torch.tensor([unexplained, ratio.below["tokens"] * unexplained, -1.0], dtype=torch.float64)
        with_tokens = torch.tensor([self.by_context.product(name, "tokens") for name in COVARYING])
        residual = along.cpu() + ratio.below["tokens"] * with_tokens
        return float(-4 * unexplained * coefficients @ residual)

    def _add_places(self, y: Tensor, values: Mapping[str, Tensor], places: Places) -> None:
        """Take in what explained variance by bins, and its standard error, are made of."""
        members = places.members[places.counted].T
        contexts = torch.nn.functional.one_hot(places.counted.nonzero()[:, 0], len(places.counted)).double()
        sums = contexts.T @ torch.stack([values[name] for name in COVARYING], dim=1)
        self.vectors |= _add_each(
            self.vectors,
            products=sums.T @ (contexts.T @ (y - self.center.double())),
            members=members.sum(1),
            bin_target=members @ y,
            bin_squared_norm=members @ values["squared_norm"],
            bin_squared_error=members @ values["squared_error"],
        )

    def _add_batch(self, y: Tensor, values: Mapping[str, Tensor]) -> None:
        """Take in what SAELens averages over batches, or measures from the mean of a batch."""
        squared_norm_hat, dot = values["squared_norm_hat"].sum(), values["dot"].sum()
        self._add("batches_with_bias", (dot != 0).sum())
        self._add("batch_biases", squared_norm_hat / dot if dot else dot)
        variance = (y - y.mean(0)).square().sum(1)
        varies = variance > ROUNDING * values["squared_norm"]
        self._add("tokens_off_batch_mean", varies.sum())
        self._add("batch_legacy", (1 - values["squared_error"] / variance)[varies].sum())

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value.item()


RECONSTRUCTION_RATIOS = {
    "explained_variance_legacy": mean_of("legacy", "tokens_that_vary"),
    "mse": mean_of("squared_error"),
    "l2_norm_in": mean_of("norm"),
    "l2_norm_out": mean_of("norm_hat"),
    "l2_ratio": mean_of("norm_ratio", "tokens_with_norm"),
    "cossim": mean_of("cossim", "tokens_with_norm"),
    "relative_reconstruction_bias": mean_of("squared_norm_hat", "dot"),
}
"""The metrics of reconstruction that have a standard error, as ratios of sums over tokens; explained_variance has one,
too."""

COVARYING = ("variance", "tokens", "squared_error")
"""The sums of which explained variance is made."""

RECONSTRUCTION_SUMS = (
    *dict.fromkeys(name for ratio in RECONSTRUCTION_RATIOS.values() for name in (*ratio.above, *ratio.below)),
    "variance",
)


def explain_variance(squared_error: float, variance: float, squared_norm: float) -> float:
    """1 - error / variance, from sums over the same tokens; nan where all of them are the same."""
    return 1 - divide(squared_error, variance, ROUNDING * squared_norm)


def divide(numerator: float, denominator: float, least: float = 0.0) -> float:
    """The quotient; nan where the denominator, whatever its sign, is not above `least`."""
    return numerator / denominator if abs(denominator) > least else math.nan


@dataclass
class Firing:
    """Sums over tokens from which every metric of sparsity follows. Batches that come with the places of their tokens
    give standard errors, metrics by bins, and firings by context, too."""

    tokens: int = 0
    l1: float = 0.0
    vectors: dict[str, Tensor] = field(default_factory=dict)
    by_context: ContextSums = field(default_factory=lambda: ContextSums("tokens", "firings", "l1"))

    def update(self, codes: Float[Tensor, "tokens d_sae"], places: Places | None = None) -> None:
        """Take in a batch of unmasked tokens."""
        # As floats, which count up to 2^24 and are summed ten times as fast as truth values.
        fired, l1 = (codes != 0).float(), codes.abs().sum(1, dtype=torch.float64)
        self.tokens += len(codes)
        self.l1 += l1.sum().item()
        firings, code_sums = fired.sum(0).double(), codes.sum(0, dtype=torch.float64)
        self.vectors |= _add_each(self.vectors, firings=firings, code_sums=code_sums)
        if places is not None:
            self.by_context.update({"tokens": torch.ones_like(l1), "firings": fired.sum(1), "l1": l1}, places)
            by_context = fired.new_zeros(len(places.counted), fired.shape[1])
            by_context.index_add_(0, places.counted.nonzero()[:, 0], fired)
            self.vectors |= _add_each(self.vectors, contexts=(by_context > 0).sum(0))

    def result(self) -> dict[str, float]:
        """Active latents a token and the sum of |codes|; see docs/metrics.md."""
        return {"l0": self.vectors["firings"].sum().item() / self.tokens, "l1": self.l1 / self.tokens}

    def errors(self) -> dict[str, float]:
        """The standard errors over contexts of both."""
        return {name: self.by_context.error(ratio) for name, ratio in FIRING_RATIOS.items()}

    def by_bin(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Active latents a token in each bin, and their standard errors."""
        l0, errors = self.by_context.of_every_bin(FIRING_RATIOS["l0"])
        return {"l0": l0}, {"l0": errors}

    def density(self) -> Float[Tensor, " d_sae"]:
        """Firing rate of each latent."""
        return self.vectors["firings"] / self.tokens

    def mean_activation(self) -> Float[Tensor, " d_sae"]:
        """Mean code of each latent over the tokens where it fires; 0 where it never does."""
        return self.vectors["code_sums"] / self.vectors["firings"].clamp(min=1)

    def firings_per_context(self) -> Float[Tensor, " d_sae"]:
        """Mean number of tokens on which a latent fires, over the contexts in which it does; 0 where it never does. All
        batches must have come with places."""
        return self.vectors["firings"] / self.vectors["contexts"].clamp(min=1)


FIRING_RATIOS = {"l0": mean_of("firings"), "l1": mean_of("l1")}
"""The metrics of sparsity that have a standard error, as ratios of sums over tokens."""


def _add_each(sums: dict[str, Tensor], **batch: Tensor) -> dict[str, Tensor]:
    return {name: sums[name] + value if name in sums else value for name, value in batch.items()}


def density_counts(density: Float[Tensor, " d_sae"]) -> dict[str, float]:
    """The numbers of latents that are dead (never fired), rare (< 1e-5), dense (> 1e-2) and very dense (> 1e-1)."""
    n = len(density)
    dead = int((density == 0).sum())
    return {
        "dead": dead,
        "dead_share": dead / n,
        "rare_1e-5": int(((density > 0) & (density < 1e-5)).sum()),
        "dense_1e-2": int((density > 1e-2).sum()),
        "dense_1e-1": int((density > 1e-1).sum()),
    }


def density_histogram(density: Float[Tensor, " d_sae"]) -> list[int]:
    """Latents by log10 of their firing rate, in 60 bins from -6 to 0; dead latents are in none."""
    alive = density[density > 0].log10().clamp(HISTOGRAM_LOW, HISTOGRAM_HIGH)
    return torch.histc(alive, bins=HISTOGRAM_BINS, min=HISTOGRAM_LOW, max=HISTOGRAM_HIGH).int().tolist()
