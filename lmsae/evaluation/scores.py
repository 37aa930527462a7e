"""Scores: the numbers and vectors that an evaluation found of one dictionary, and their files."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lmsae.metrics.definitions import names_in, plain_name
from lmsae.runtime.tensors import save_tensors

METRICS, LATENTS = "metrics.json", "latents.safetensors"


@dataclass(frozen=True, slots=True)
class Score:
    """Metrics, histograms, and vectors over latents, each by name."""

    metrics: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)

    def __or__(self, other: "Score") -> "Score":
        """Both together."""
        return Score(self.metrics | other.metrics, self.histograms | other.histograms, self.latents | other.latents)

    def select(self, groups: Iterable[str]) -> "Score":
        """The part of the score that some metric groups have found."""
        names = names_in(groups)
        return Score(
            {name: value for name, value in self.metrics.items() if plain_name(name) in names},
            {name: counts for name, counts in self.histograms.items() if name in names},
            {name: vector for name, vector in self.latents.items() if name in names},
        )

    def save(self, folder: Path) -> None:
        """Write `metrics.json` (histograms too; null for what is not finite) and `latents.safetensors` (density,
        mean_activation: (d_sae,) float32)."""
        numbers = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        text = json.dumps({**numbers, **self.histograms}, indent=1, sort_keys=True, allow_nan=False)
        (folder / METRICS).write_text(text + "\n")
        save_tensors(self.latents, folder / LATENTS)

    @classmethod
    def load(cls, folder: Path) -> "Score":
        """The score that `save` wrote into a folder; nan for null."""
        found = json.loads((folder / METRICS).read_text())
        histograms = {name: value for name, value in found.items() if isinstance(value, list)}
        numbers = {name: value for name, value in found.items() if name not in histograms}
        metrics = {name: math.nan if value is None else value for name, value in numbers.items()}
        return cls(metrics, histograms, load_file(folder / LATENTS))
