"""Scores: the numbers and vectors that an evaluation found of one dictionary, and their files."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsae.metrics.definitions import names_in, plain_name

METRICS, LATENTS = "metrics.json", "latents.safetensors"

Value = float | list[int] | None
"""A metric: a number, or the counts of a histogram. None is a number that was not finite, as files have it."""


@dataclass(frozen=True, slots=True)
class Score:
    """Metrics by name, and vectors over latents by name."""

    metrics: dict[str, Value] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)

    def __or__(self, other: "Score") -> "Score":
        """Both together."""
        return Score(self.metrics | other.metrics, self.latents | other.latents)

    def select(self, groups: Iterable[str]) -> "Score":
        """The metrics and vectors of some groups alone."""
        names = names_in(groups)
        return Score(
            {name: value for name, value in self.metrics.items() if plain_name(name) in names},
            {name: value for name, value in self.latents.items() if name in names},
        )

    def save(self, folder: Path) -> None:
        """Write `metrics.json` (null for what is not finite) and `latents.safetensors` (density, mean_activation:
        (d_sae,) float32)."""
        numbers = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.metrics.items()
        }
        (folder / METRICS).write_text(json.dumps(numbers, indent=1, sort_keys=True, allow_nan=False) + "\n")
        save_file(self.latents, folder / LATENTS)

    @classmethod
    def load(cls, folder: Path) -> "Score":
        """The score that `save` wrote into a folder."""
        return cls(json.loads((folder / METRICS).read_text()), load_file(folder / LATENTS))
