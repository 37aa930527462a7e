"""Metrics: what is measured of a dictionary, by streaming sums in float64.

Numerators and denominators are summed apart over the whole evaluation set: a mean of per-batch ratios is another
number. Every name says which formula it is, because published tables use several under one name.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmsae.metrics.definitions import HISTOGRAM_BINS, HISTOGRAM_HIGH, HISTOGRAM_LOW

ROUNDING = 1e-12
"""A variance below this share of the squared norm is the rounding of sums in float64, and divides nothing."""
LEAST_DIVERGENCE = 1e-7
"""Nats a token. An ablation that moves the model's predictions by less is the rounding of logits and of activations as
they are stored: its cost divides nothing."""


@dataclass
class Reconstruction:
    """Sums over tokens from which every metric of reconstruction follows.

    `center` (d_out,) is the mean activation of calibration text. Only explained_variance_legacy needs it: a mean of
    ratios cannot be centered afterwards, and a batch's own mean would make the metric depend on how batches are cut.
    Means of ratios leave out tokens that divide by nothing: l2_ratio and cossim those of a norm up to `smallest_norm`,
    explained_variance_legacy those at the center. A metric is nan where no token is left, or no variance.
    """

    center: Float[Tensor, " d_out"]
    smallest_norm: float = 0.0
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def update(self, target: Float[Tensor, "tokens d_out"], reconstruction: Float[Tensor, "tokens d_out"]) -> None:
        """Take in a batch of unmasked tokens."""
        y, y_hat = target.double(), reconstruction.double()
        error = y - y_hat
        self.tokens += len(y)
        norm, norm_hat = y.norm(dim=1), y_hat.norm(dim=1)
        dot = (y * y_hat).sum(1)
        self._add("squared_error", error.pow(2).sum())
        self._add("squared_norm", norm.pow(2).sum())
        self._add("squared_norm_hat", norm_hat.pow(2).sum())
        self._add("dot", dot.sum())
        has_norm = norm > self.smallest_norm
        self._add("tokens_with_norm", has_norm.sum())
        self._add("norm_ratio", (norm_hat / norm)[has_norm].sum())
        self._add("cossim", (dot / (norm * norm_hat).clamp(min=1e-30))[has_norm].sum())
        self.vectors = _add_each(self.vectors, target=y.sum(0), error=error.sum(0))
        variance = (y - self.center.double()).pow(2).sum(1)
        varies = variance > ROUNDING * norm.pow(2)
        self._add("tokens_that_vary", varies.sum())
        self._add("legacy", (1 - error.pow(2).sum(1) / variance)[varies].sum())
        self._add_batch(y, norm_hat.pow(2).sum(), dot.sum(), error.pow(2).sum(1))

    def result(self) -> dict[str, float]:
        """The metrics by name; see docs/metrics.md for each formula."""
        n, s = self.tokens, self.sums
        variance = s["squared_norm"] - self.vectors["target"].pow(2).sum().item() / n
        error_variance = s["squared_error"] - self.vectors["error"].pow(2).sum().item() / n
        explained = explain_variance(s["squared_error"], variance, s["squared_norm"])
        legacy = _divide(s["legacy"], s["tokens_that_vary"])
        return {
            "tokens": n,
            "explained_variance": explained,
            # The center may be that of activations as they are stored, and then differs from those that never vary.
            "explained_variance_legacy": math.nan if math.isnan(explained) else legacy,
            "frac_variance_explained": explain_variance(error_variance, variance, s["squared_norm"]),
            "mse": s["squared_error"] / n,
            "l2_ratio": _divide(s["norm_ratio"], s["tokens_with_norm"]),
            "cossim": _divide(s["cossim"], s["tokens_with_norm"]),
            "relative_reconstruction_bias": _divide(s["squared_norm_hat"], s["dot"]),
            "saelens_relative_reconstruction_bias": _divide(s["batch_biases"], s["batches_with_bias"]),
            "saelens_explained_variance_legacy": _divide(s["batch_legacy"], s["tokens_off_batch_mean"]),
        }

    def _add_batch(self, y: Tensor, squared_norm_hat: Tensor, dot: Tensor, squared_error: Tensor) -> None:
        """Take in what SAELens averages over batches, or measures from the mean of a batch."""
        self._add("batches_with_bias", (dot != 0).sum())
        self._add("batch_biases", squared_norm_hat / dot if dot else dot)
        variance = (y - y.mean(0)).pow(2).sum(1)
        varies = variance > ROUNDING * y.pow(2).sum(1)
        self._add("tokens_off_batch_mean", varies.sum())
        self._add("batch_legacy", (1 - squared_error / variance)[varies].sum())

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value.item()


def explain_variance(squared_error: float, variance: float, squared_norm: float) -> float:
    """1 - error / variance, from sums over the same tokens; nan where all of them are the same."""
    return 1 - _divide(squared_error, variance, ROUNDING * squared_norm)


def _divide(numerator: float, denominator: float, least: float = 0.0) -> float:
    """The quotient; nan where the denominator, whatever its sign, is not above `least`."""
    return numerator / denominator if abs(denominator) > least else math.nan


@dataclass
class Firing:
    """Sums over tokens from which every metric of sparsity follows."""

    tokens: int = 0
    l1: float = 0.0
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def update(self, codes: Float[Tensor, "tokens d_sae"]) -> None:
        """Take in a batch of unmasked tokens."""
        self.tokens += len(codes)
        self.l1 += codes.abs().sum(dtype=torch.float64).item()
        firings, code_sums = (codes != 0).sum(0).double(), codes.sum(0, dtype=torch.float64)
        self.vectors = _add_each(self.vectors, firings=firings, code_sums=code_sums)

    def result(self) -> dict[str, float]:
        """Active latents a token and the sum of |codes|; see docs/metrics.md."""
        return {"l0": self.vectors["firings"].sum().item() / self.tokens, "l1": self.l1 / self.tokens}

    def density(self) -> Float[Tensor, " d_sae"]:
        """Firing rate of each latent."""
        return self.vectors["firings"] / self.tokens

    def mean_activation(self) -> Float[Tensor, " d_sae"]:
        """Mean code of each latent over the tokens where it fires; 0 where it never does."""
        return self.vectors["code_sums"] / self.vectors["firings"].clamp(min=1)


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


def decoder_geometry(
    encoder: Float[Tensor, "d_in d_sae"], decoder: Float[Tensor, "d_sae d_out"], *, chunk: int = 1024
) -> dict[str, float]:
    """Mean decoder norm, mean cosine of a latent's encoder and decoder, and mean cosine to the nearest other latent."""
    rows = torch.nn.functional.normalize(decoder.float(), dim=1)
    metrics = {"decoder_norm": decoder.norm(dim=1).mean().item()}
    if encoder.shape[0] == decoder.shape[1]:
        columns = torch.nn.functional.normalize(encoder.float(), dim=0)
        metrics["encoder_decoder_cossim"] = (rows * columns.T).sum(1).mean().item()
    if len(rows) > 1:
        nearest = []
        for start in range(0, len(rows), chunk):
            cosines = rows[start : start + chunk] @ rows.T
            own = torch.arange(start, start + len(cosines))
            cosines[torch.arange(len(cosines)), own] = -1.0
            nearest.append(cosines.amax(1))
        metrics["nearest_decoder_cossim"] = torch.cat(nearest).mean().item()
    return metrics


@dataclass
class NextToken:
    """Sums of the model's next-token cross-entropy, and of its divergence from the clean model, over positions.

    The last position of a context has no next token. Its divergence is summed apart: SAELens counts it.
    """

    positions: int = 0
    cross_entropy: float = 0.0
    divergence: float = 0.0
    last_positions: int = 0
    last_divergence: float = 0.0

    def update(
        self,
        logits: Float[Tensor, "batch position vocab"],
        tokens: Int[Tensor, "batch position"],
        counted: Bool[Tensor, "batch position"],
        clean: Float[Tensor, "batch position vocab"] | None = None,
    ) -> None:
        """Take in a batch. A position counts if `counted` (its own token is not special) and a next token is there."""
        keep = counted[:, :-1]
        log_p = logits[:, :-1][keep].float().log_softmax(-1)
        following = tokens[:, 1:][keep]
        self.positions += len(following)
        picked = log_p.gather(1, following[:, None])
        self.cross_entropy -= picked.sum(dtype=torch.float64).item()
        if clean is not None:
            self.divergence += _sum_divergence(clean[:, :-1][keep], log_p)
            last = counted[:, -1]
            self.last_positions += int(last.sum())
            self.last_divergence += _sum_divergence(clean[:, -1][last], logits[:, -1][last].float().log_softmax(-1))

    def add(self, other: "NextToken") -> None:
        """Take in the sums of other positions."""
        self.positions += other.positions
        self.cross_entropy += other.cross_entropy
        self.divergence += other.divergence
        self.last_positions += other.last_positions
        self.last_divergence += other.last_divergence

    @classmethod
    def pooled(cls, parts: Iterable["NextToken"]) -> "NextToken":
        """The sums of several models together."""
        pooled = cls()
        for part in parts:
            pooled.add(part)
        return pooled

    def mean_cross_entropy(self) -> float:
        """Nats a position."""
        return self.cross_entropy / self.positions

    def mean_divergence(self) -> float:
        """KL(clean || this), nats a position."""
        return self.divergence / self.positions

    def mean_divergence_with_last(self) -> float:
        """The same over last positions too."""
        return (self.divergence + self.last_divergence) / (self.positions + self.last_positions)


def _sum_divergence(clean: Tensor, log_p: Tensor) -> float:
    """KL(clean || p), summed over positions; logits of the clean model and log p are (positions, vocab)."""
    log_q = clean.float().log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(dtype=torch.float64).item()


def splice_scores(
    clean: NextToken, spliced: NextToken, zero: NextToken, mean: NextToken, zero_everywhere: NextToken
) -> dict[str, float]:
    """The losses of the model when the dictionary's reconstruction takes the activations' place.

    ce_loss_score = (CE_ablated - CE_spliced) / (CE_ablated - CE_clean), under zero and under mean ablation; likewise
    kl_div_score = (KL_ablated - KL_spliced) / KL_ablated. They are nan where ablation costs nothing. What begins with
    `saelens_` is as SAELens defines it: ablation takes the tokens that do not count too, and KL counts last positions.
    """
    base, ce_spliced = clean.mean_cross_entropy(), spliced.mean_cross_entropy()

    def shares(ce: float, kl: float, kl_spliced: float) -> tuple[float, float]:
        moves = kl > LEAST_DIVERGENCE
        return _divide(ce - ce_spliced, ce - base if moves else 0.0), _divide(kl - kl_spliced, kl if moves else 0.0)

    scores = {
        "ce_clean": base,
        "ce_spliced": ce_spliced,
        "ce_difference": ce_spliced - base,
        "kl_div": spliced.mean_divergence(),
        "saelens_kl_div_with_sae": spliced.mean_divergence_with_last(),
    }
    for name, ablated in (("zero", zero), ("mean", mean)):
        ce, kl = ablated.mean_cross_entropy(), ablated.mean_divergence()
        scores[f"ce_{name}_ablated"] = ce
        scores[f"ce_loss_score_{name}"], scores[f"kl_div_score_{name}"] = shares(ce, kl, scores["kl_div"])
    ce, kl = zero_everywhere.mean_cross_entropy(), zero_everywhere.mean_divergence_with_last()
    scores["saelens_ce_loss_with_ablation"], scores["saelens_kl_div_with_ablation"] = ce, kl
    ce_share, kl_share = shares(ce, kl, scores["saelens_kl_div_with_sae"])
    return {**scores, "saelens_ce_loss_score": ce_share, "saelens_kl_div_score": kl_share}
