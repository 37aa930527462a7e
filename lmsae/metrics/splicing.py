"""Losses of the model, clean, with a reconstruction spliced in and with activations ablated, and their scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmsae.kernels import cpu
from lmsae.metrics.contexts import ContextSums, Places, Ratio, mean_of
from lmsae.metrics.formulas import divide

LEAST_DIVERGENCE = 1e-7
"""Nats a token. An ablation that moves the model's predictions by less is the rounding of logits and of activations as
they are stored: its cost divides nothing."""


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """The model's loss at each token, 0 where there is none: next-token cross-entropy, and the divergence from the
    clean model; and which tokens have a cross-entropy, because they count and a next token is there.

    The last position of a context has no next token, and a divergence all the same.
    """

    has_next: Bool[Tensor, "contexts context_size"]
    cross_entropy: Float[Tensor, "contexts context_size"]
    divergence: Float[Tensor, "contexts context_size"]


NUMBERS_AT_ONCE = 1 << 27
"""Logits that are worked on at a time where torch does it."""


def token_losses(
    logits: Float[Tensor, "contexts context_size vocab"],
    tokens: Int[Tensor, "contexts context_size"],
    counted: Bool[Tensor, "contexts context_size"],
    clean: Float[Tensor, "contexts context_size vocab"] | None = None,
) -> TokenLosses:
    """The losses of a batch. A token counts if `counted`: its own id is not special. `clean` are the logits of the
    clean model; without them there is no divergence."""
    has_next = counted.clone()
    has_next[:, -1] = False
    following, rows = tokens.roll(-1, 1).flatten(), logits.flatten(0, 1)
    losses_of = cpu.losses_of_rows if cpu.can_read_logits(logits) else _losses_of_rows
    cross_entropy, divergence = losses_of(rows, following, None if clean is None else clean.flatten(0, 1))
    cross_entropy, divergence = cross_entropy.view_as(counted), divergence.view_as(counted)
    return TokenLosses(has_next, torch.where(has_next, cross_entropy, 0.0), torch.where(counted, divergence, 0.0))


def _losses_of_rows(logits: Tensor, following: Tensor, clean: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `kernels.cpu.losses_of_rows`, on any device, with log probabilities in float32."""
    cross_entropy, divergence = torch.zeros(2, len(logits), dtype=torch.float64, device=logits.device)
    size = max(1, NUMBERS_AT_ONCE // logits.shape[1])
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        log_p = logits[rows].float().log_softmax(-1)
        cross_entropy[rows] = -log_p.gather(1, following[rows, None])[:, 0].double()
        if clean is not None:
            log_q = clean[rows].float().log_softmax(-1)
            terms = (log_q.exp() * (log_q - log_p)).masked_fill(log_q == -torch.inf, 0.0)
            divergence[rows] = terms.sum(-1, dtype=torch.float64)
    return cross_entropy, divergence


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
        self.add_losses(token_losses(logits, tokens, counted, clean), counted)

    def add_losses(self, losses: TokenLosses, counted: Bool[Tensor, "contexts context_size"]) -> None:
        """Take in the losses of a batch."""
        self.positions += int(losses.has_next.sum())
        self.cross_entropy += losses.cross_entropy.sum().item()
        self.divergence += losses.divergence[:, :-1].sum().item()
        self.last_positions += int(counted[:, -1].sum())
        self.last_divergence += losses.divergence[:, -1].sum().item()

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
        return divide(ce - ce_spliced, ce - base if moves else 0.0), divide(kl - kl_spliced, kl if moves else 0.0)

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


@dataclass
class SpliceSums:
    """Sums of the losses of the clean, the spliced and the ablated models, by context and by bin."""

    by_context: ContextSums = field(default_factory=lambda: ContextSums(*SPLICE_SUMS))

    def update(self, models: Sequence[Sequence[TokenLosses]], places: Places) -> None:
        """Take in a batch: of each model its losses clean, spliced, and ablated with zero, mean and zero everywhere."""
        pooled: dict[str, Tensor] = {}
        for runs in models:
            values = {"positions": runs[0].has_next.double(), "positions_with_last": places.counted.double()}
            for name, losses in zip(("clean", "spliced", "zero", "mean", "zero_everywhere"), runs, strict=True):
                values[f"ce_{name}"] = losses.cross_entropy
                values[f"kl_{name}"] = torch.where(losses.has_next, losses.divergence, 0.0)
                values[f"kl_{name}_with_last"] = losses.divergence
            pooled = {name: pooled.get(name, 0.0) + values[name] for name in SPLICE_SUMS}
        self.by_context.update({name: value[places.counted] for name, value in pooled.items()}, places)

    def errors(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The standard errors over contexts of splice scores; nan where the score is."""
        return {
            name: math.nan if math.isnan(scores[name]) else self.by_context.error(ratio)
            for name, ratio in SPLICE_RATIOS.items()
        }

    def by_bin(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Cross-entropy, clean and spliced, and their difference in each bin, and the standard errors."""
        metrics, errors = {}, {}
        for name in ("ce_clean", "ce_spliced", "ce_difference"):
            metrics[name], errors[name] = self.by_context.of_every_bin(SPLICE_RATIOS[name])
        return metrics, errors


def _share(ablated: str, spliced: str, clean: str | None = None) -> Ratio:
    """(ablated - spliced) / (ablated - clean)."""
    return Ratio({ablated: 1, spliced: -1}, {ablated: 1} if clean is None else {ablated: 1, clean: -1})


SPLICE_RATIOS = {
    "ce_clean": mean_of("ce_clean", "positions"),
    "ce_spliced": mean_of("ce_spliced", "positions"),
    "ce_difference": Ratio({"ce_spliced": 1, "ce_clean": -1}, {"positions": 1}),
    "kl_div": mean_of("kl_spliced", "positions"),
    "ce_zero_ablated": mean_of("ce_zero", "positions"),
    "ce_mean_ablated": mean_of("ce_mean", "positions"),
    "ce_loss_score_zero": _share("ce_zero", "ce_spliced", "ce_clean"),
    "ce_loss_score_mean": _share("ce_mean", "ce_spliced", "ce_clean"),
    "kl_div_score_zero": _share("kl_zero", "kl_spliced"),
    "kl_div_score_mean": _share("kl_mean", "kl_spliced"),
    "saelens_ce_loss_with_ablation": mean_of("ce_zero_everywhere", "positions"),
    "saelens_ce_loss_score": _share("ce_zero_everywhere", "ce_spliced", "ce_clean"),
    "saelens_kl_div_with_sae": mean_of("kl_spliced_with_last", "positions_with_last"),
    "saelens_kl_div_with_ablation": mean_of("kl_zero_everywhere_with_last", "positions_with_last"),
    "saelens_kl_div_score": _share("kl_zero_everywhere_with_last", "kl_spliced_with_last"),
}
"""The splice scores as ratios of sums over tokens."""

SPLICE_SUMS = tuple(dict.fromkeys(name for ratio in SPLICE_RATIOS.values() for name in (*ratio.above, *ratio.below)))
