"""Scoring: reconstruct held-out activations, splice the reconstruction into the model, and measure both."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.lm.protocol import LanguageModel
from lmsae.metrics import (
    NextToken,
    Reconstruction,
    decoder_geometry,
    density_counts,
    density_histogram,
    splice_scores,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A dictionary to score, where it belongs in the model, and the mean activation there (held-aside text)."""

    dictionary: Dictionary
    hook_point: str
    mean: Tensor


@dataclass(frozen=True, slots=True)
class Score:
    """All that evaluation found: scalars, the density histogram, and vectors over latents."""

    metrics: dict[str, Any]
    latents: dict[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write `metrics.json` (null for what is not finite) and `latents.safetensors` (density, mean_activation:
        (d_sae,) float32)."""
        numbers = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.metrics.items()
        }
        (folder / "metrics.json").write_text(json.dumps(numbers, indent=1, sort_keys=True, allow_nan=False) + "\n")
        save_file(self.latents, folder / "latents.safetensors")


@torch.inference_mode()
def score(
    model: LanguageModel,
    subjects: Sequence[Subject],
    tokens: Any,
    contexts: int,
    batch_contexts: int,
    advance: Callable[[int], None],
) -> list[Score]:
    """Score every subject on the first `contexts` held-out contexts of `tokens` (a TokenSet), in their order.

    Special tokens keep their own activation when the model is spliced or ablated, and no metric counts them.
    """
    hook_points = list(dict.fromkeys(subject.hook_point for subject in subjects))
    fills = {key: fill for subject in subjects for key, fill in _fills(subject)}
    clean = NextToken()
    ablated = {key: NextToken() for key in fills}
    spliced = [NextToken() for _ in subjects]
    sums = [Reconstruction(subject.mean) for subject in subjects]
    for start in range(0, contexts, batch_contexts):
        chosen = slice(start, min(start + batch_contexts, contexts))
        batch = torch.from_numpy(tokens.held_out[chosen].astype("int64")).to(model.device)
        usable = torch.from_numpy(tokens.usable("held_out", chosen)).to(model.device)
        logits = model.logits(batch)
        clean.update(logits, batch, usable)
        activations = model.read(batch, hook_points)
        for key, measured in ablated.items():
            x = activations[key[0]]
            replaced = torch.where(usable[..., None], fills[key].to(x.dtype), x)
            measured.update(_spliced(model, batch, key[0], replaced), batch, usable, logits)
        for subject, measured, total in zip(subjects, spliced, sums, strict=True):
            x = activations[subject.hook_point]
            codes = subject.dictionary.encode(x.float())
            reconstruction = subject.dictionary.decode(codes, x.float())
            total.update(x[usable].float(), reconstruction[usable], codes[usable])
            replaced = torch.where(usable[..., None], reconstruction.to(x.dtype), x)
            measured.update(_spliced(model, batch, subject.hook_point, replaced), batch, usable, logits)
        advance(batch.numel())
    scores = []
    for subject, measured, total in zip(subjects, spliced, sums, strict=True):
        zero, mean = (ablated[key] for key, _ in _fills(subject))
        scores.append(_score(subject, total, splice_scores(clean, measured, zero, mean)))
    return scores


def _fills(subject: Subject) -> list[tuple[tuple[str, bytes], Tensor]]:
    """What takes the activations' place under zero and under mean ablation, each with a key that equal ones share."""
    fills = torch.zeros_like(subject.mean), subject.mean
    return [((subject.hook_point, fill.cpu().numpy().tobytes()), fill) for fill in fills]


def _spliced(model: LanguageModel, batch: Tensor, hook_point: str, replacement: Tensor) -> Tensor:
    return model.logits_with(batch, {hook_point: lambda _: replacement})


def _score(subject: Subject, total: Reconstruction, splice: dict[str, float]) -> Score:
    density = total.density()
    folded = subject.dictionary.folded().geometry
    metrics = {
        **total.result(),
        **splice,
        **density_counts(density),
        **decoder_geometry(folded.W_enc, folded.W_dec),
        "d_sae": len(density),
        "density_histogram": density_histogram(density),
    }
    latents = {"density": density.float().cpu(), "mean_activation": total.mean_activation().float().cpu()}
    return Score(metrics, latents)
