"""Conversion of a trained dictionary to jumprelu, and its cost in quality."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.metrics.formulas import explain_variance
from lmsae.sparsity.thresholds import to_jumprelu


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of a dictionary on some tokens: explained variance (pooled) and mean number of active latents."""

    explained_variance: float
    l0: float


@dataclass(frozen=True, slots=True)
class Cost:
    """A dictionary's quality before and after conversion, on the same tokens."""

    tokens: int
    before: Quality
    after: Quality

    def as_metrics(self) -> dict[str, float]:
        """Flat numbers, by name."""
        return {
            "conversion_tokens": self.tokens,
            **{f"conversion_{name}_before": value for name, value in asdict(self.before).items()},
            **{f"conversion_{name}_after": value for name, value in asdict(self.after).items()},
        }

    def __str__(self) -> str:
        before, after = self.before, self.after
        return (
            f"explained variance {before.explained_variance:.4f} -> {after.explained_variance:.4f}, "
            f"L0 {before.l0:.2f} -> {after.l0:.2f} ({self.tokens:,} calibration tokens)"
        )


def convert_to_jumprelu(dictionary: Dictionary) -> Dictionary:
    """A copy of a dictionary of the topk family whose latents fire above the threshold that they learned in training.

    Raises ExportError where there is no such threshold.
    """
    act_fn, state = to_jumprelu(dictionary.config.act_fn, dictionary.sparsity)
    converted = Dictionary(dictionary.config.model_copy(update={"act_fn": act_fn})).to(next(dictionary.parameters()))
    for part in ("geometry", "read", "write"):
        getattr(converted, part).load_state_dict(getattr(dictionary, part).state_dict())
    converted.sparsity.load_state_dict(state)
    return converted.train(dictionary.training).requires_grad_(False)


def measure_cost(
    dictionary: Dictionary, converted: Dictionary, x: Tensor, target: Tensor, usable: Tensor | None
) -> Cost:
    """The cost of conversion on raw activations: x (tokens, d_in) and target (tokens, d_out), or whole contexts of them
    with `usable` (contexts, context_size)."""
    tokens = len(x) if usable is None else int(usable.sum())
    return Cost(tokens, *(_measure_quality(one, x, target, usable) for one in (dictionary, converted)))


@torch.no_grad()
def _measure_quality(
    dictionary: Dictionary, x: Tensor, target: Tensor, usable: Tensor | None, chunk: int = 4096
) -> Quality:
    """Sums in float64 over pieces of the tokens or contexts."""
    was_training = dictionary.training
    dictionary.eval()
    counted = target if usable is None else target[usable]
    mean = counted.mean(0, dtype=torch.float64)
    squared_error = variance = squared_norm = active = 0.0
    step = chunk if usable is None else max(1, chunk // x.shape[1])
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        codes = dictionary.encode(x[rows])
        y_hat, y = dictionary.decode(codes, x[rows]), target[rows]
        if usable is not None:
            codes, y_hat, y = codes[usable[rows]], y_hat[usable[rows]], y[usable[rows]]
        squared_error += (y_hat.double() - y.double()).pow(2).sum().item()
        variance += (y.double() - mean).pow(2).sum().item()
        squared_norm += y.double().pow(2).sum().item()
        active += (codes != 0).sum().item()
    dictionary.train(was_training)
    return Quality(explain_variance(squared_error, variance, squared_norm), active / len(counted))
