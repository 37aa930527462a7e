"""Scoring: reconstruct held-out activations, splice the reconstruction into the model, and measure both."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.evaluation.known import known_features
from lmsae.lm.protocol import LanguageModel
from lmsae.metrics.sums import (
    NextToken,
    Reconstruction,
    decoder_geometry,
    density_counts,
    density_histogram,
    splice_scores,
)

Place = tuple[int, str]
"""A hook point of one of the models, by the model's number."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A dictionary to score, the places that it reads and writes, and the mean activation (calibration text) at each of
    those that it writes."""

    dictionary: Dictionary
    reads: Sequence[Place]
    writes: Sequence[Place]
    means: Sequence[Tensor]

    @property
    def models(self) -> list[int]:
        """The models that it writes into."""
        return list(dict.fromkeys(model for model, _ in self.writes))


@dataclass(frozen=True, slots=True)
class Scored:
    """The text to score on: token ids and which of them count, both (contexts, context_size).

    Tokens whose activation has a norm above `max_norms` at any of its places do not count either.
    """

    ids: Any
    usable: np.ndarray
    max_norms: Mapping[Place, float] = field(default_factory=dict)

    def counted(self, usable: Tensor, activations: Mapping[Place, Tensor]) -> Tensor:
        """Which tokens of a batch count, (contexts, context_size) bool."""
        for place, limit in self.max_norms.items():
            usable = usable & (torch.linalg.vector_norm(activations[place], dim=-1, dtype=torch.float32) <= limit)
        return usable

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and counted positions of `size` contexts at a time."""
        for start in range(0, len(self.usable), size):
            chosen = slice(start, min(start + size, len(self.usable)))
            ids = torch.from_numpy(self.ids[chosen].astype("int64"))
            yield ids, torch.from_numpy(self.usable[chosen])


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
    models: Sequence[LanguageModel],
    subjects: Sequence[Subject],
    text: Scored,
    batch_contexts: int,
    advance: Callable[[int], None],
) -> list[Score]:
    """Score every subject on all contexts of `text`, in their order.

    Tokens that do not count keep their own activation when the model is spliced or ablated, and no metric counts them.
    A dictionary that writes several places is spliced in at all of them at once; of several models the sums are pooled.
    """
    tallies = [_Tally(subject, models) for subject in subjects]
    clean = {model: NextToken() for subject in subjects for model in subject.models}
    ablated: dict[Any, NextToken] = {}
    for ids, usable in text.batches(batch_contexts):
        ids, usable = ids.to(models[0].device), usable.to(models[0].device)
        activations = _read(models, subjects, ids)
        usable = text.counted(usable, activations)
        logits = {model: models[model].logits(ids) for model in clean}
        for model, measured in clean.items():
            measured.update(logits[model], ids, usable)
        done = set()
        for subject, tally in zip(subjects, tallies, strict=True):
            for model in subject.models:
                for key, fills in tally.ablations[model]:
                    if key not in done:
                        done.add(key)
                        replaced = _replaced(activations, fills, usable)
                        measured = ablated.setdefault(key, NextToken())
                        measured.update(_spliced(models, model, ids, replaced), ids, usable, logits[model])
            reconstructions = tally.reconstruct(activations, ids, usable)
            for model in subject.models:
                own = {place: value for place, value in reconstructions.items() if place[0] == model}
                replaced = _replaced(activations, own, usable)
                tally.spliced.update(_spliced(models, model, ids, replaced), ids, usable, logits[model])
        advance(ids.numel())
    return [tally.score(clean, ablated) for tally in tallies]


class _Tally:
    """What is summed up for one subject."""

    def __init__(self, subject: Subject, models: Sequence[LanguageModel]) -> None:
        self.subject = subject
        self.known = known_features(models, subject.reads, subject.writes)
        self.spliced = NextToken()
        self.total = Reconstruction(torch.cat(list(subject.means)))
        self.sites = [Reconstruction(mean) for mean in subject.means] if len(subject.writes) > 1 else []
        self.ablations = {model: tuple(self._ablations(model)) for model in subject.models}

    def _ablations(self, model: int) -> Iterator[tuple[Any, dict[Place, Tensor]]]:
        """What takes the activations' place under zero and under mean ablation of one model, each with a key that equal
        ones share."""
        own = {place: mean for place, mean in zip(self.subject.writes, self.subject.means, strict=True)}
        mean = {place: fill for place, fill in own.items() if place[0] == model}
        for fills in ({place: torch.zeros_like(fill) for place, fill in mean.items()}, mean):
            yield tuple((place, fill.cpu().numpy().tobytes()) for place, fill in fills.items()), fills

    def reconstruct(self, activations: Mapping[Place, Tensor], ids: Tensor, usable: Tensor) -> dict[Place, Tensor]:
        """The reconstruction at each place written; sums up how good it is."""
        subject = self.subject
        x = torch.cat([activations[place].float() for place in subject.reads], dim=-1)
        target = torch.cat([activations[place].float() for place in subject.writes], dim=-1)
        codes = subject.dictionary.encode(x)
        reconstruction = subject.dictionary.decode(codes, x)
        counted = codes[usable]
        self.total.update(target[usable], reconstruction[usable], counted)
        if self.known:
            self.known.update(ids, usable, counted)
        widths = [len(mean) for mean in subject.means]
        parts = reconstruction.split(widths, dim=-1)
        for site, y, y_hat in zip(self.sites, target.split(widths, dim=-1), parts, strict=False):
            site.update(y[usable], y_hat[usable], counted[:, :1])
        return dict(zip(subject.writes, parts, strict=True))

    def score(self, clean: Mapping[int, NextToken], ablated: Mapping[Any, NextToken]) -> Score:
        """The metrics, when all text has been seen."""
        models = self.subject.models
        zero, mean = (
            NextToken.pooled(ablated[key] for key, _ in kind)
            for kind in zip(*(self.ablations[model] for model in models), strict=True)
        )
        density = self.total.density()
        metrics = {
            **self.total.result(),
            **splice_scores(NextToken.pooled(clean[model] for model in models), self.spliced, zero, mean),
            **density_counts(density),
            **self._decoder(),
            **(self.known.metrics(self.subject.dictionary) if self.known else {}),
            "d_sae": len(density),
            "density_histogram": density_histogram(density),
        }
        for (model, hook_point), site in zip(self.subject.writes, self.sites, strict=False):
            place = f"{hook_point}@{model}" if len(models) > 1 else hook_point
            result = site.result()
            metrics |= {f"{name}[{place}]": result[name] for name in ("explained_variance", "mse", "cossim")}
        latents = {"density": density.float().cpu(), "mean_activation": self.total.mean_activation().float().cpu()}
        return Score(metrics, latents)

    def _decoder(self) -> dict[str, float]:
        """Of dictionaries that have one encoder column and one decoder row a latent, in raw activations if possible."""
        dictionary = self.subject.dictionary
        with contextlib.suppress(ExportError):
            dictionary = dictionary.fold_normalizers()
        encoder, decoder = (getattr(dictionary.geometry, name, None) for name in ("W_enc", "W_dec"))
        if encoder is None or not isinstance(decoder, Tensor) or encoder.ndim != 2 or decoder.ndim != 2:
            return {}
        return decoder_geometry(encoder, decoder)


def _read(models: Sequence[LanguageModel], subjects: Sequence[Subject], ids: Tensor) -> dict[Place, Tensor]:
    """The activations at every place that any subject reads or writes."""
    wanted: dict[int, list[str]] = {}
    for model, hook_point in dict.fromkeys(place for one in subjects for place in (*one.reads, *one.writes)):
        wanted.setdefault(model, []).append(hook_point)
    return {
        (model, hook_point): activations
        for model, hook_points in wanted.items()
        for hook_point, activations in models[model].read(ids, hook_points).items()
    }


def _replaced(
    activations: Mapping[Place, Tensor], replacements: Mapping[Place, Tensor], usable: Tensor
) -> dict[str, Tensor]:
    """By hook point: the replacement at tokens that count, the activation itself at the others."""
    return {
        place[1]: torch.where(usable[..., None], value.to(activations[place].dtype), activations[place])
        for place, value in replacements.items()
    }


def _spliced(models: Sequence[LanguageModel], model: int, ids: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    return models[model].logits_with(ids, {name: lambda _, value=value: value for name, value in values.items()})
