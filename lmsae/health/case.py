"""A case: all that is known of a trained dictionary when its health is judged."""

import csv
import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import Artifact
from lmsae.config import JsonObject
from lmsae.metrics.definitions import GROUPS, names_in
from lmsae.sparsity.config import ACT_FNS, SelectsK


@dataclass(frozen=True, slots=True)
class Case:
    """The metrics of a dictionary, NaN where one has no value, its training curves by name, and the config that it was
    trained with; what is not known is missing."""

    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    histogram: Sequence[int] = ()
    not_wanted: Set[str] = frozenset()
    """Metrics that were not to be measured: of own activations those that need a model."""

    def metric(self, name: str) -> float:
        """A metric; NaN if it was not measured."""
        return self.metrics.get(name, math.nan)

    @property
    def dictionary(self) -> JsonObject:
        """The dictionary's config; empty if it is not known."""
        return self.training.get("dictionary", {})

    @property
    def width(self) -> int | None:
        """The width of the widest hook point that it reads."""
        reads = self.dictionary.get("widths", {}).get("reads")
        return max(reads) if reads else None

    @property
    def act_fn(self) -> str | None:
        """The kind of its activation function."""
        return self.dictionary.get("act_fn", {}).get("kind")

    @property
    def reads_centered(self) -> bool:
        """True if its decoder bias is subtracted from what latents read, so that none leads by the mean alone."""
        geometry = self.dictionary.get("geometry", {})
        return geometry.get("kind") == "sae" and geometry.get("apply_b_dec_to_input", True)

    @property
    def chooses_k(self) -> bool:
        """True if each token has its k largest latents at inference too, and no threshold decides."""
        config = ACT_FNS.get(self.act_fn or "")
        return config is not None and issubclass(config, SelectsK) and not config.selects_over_batch

    @property
    def is_of_matrices(self) -> bool:
        """True for a molt: its latents are matrices and no directions, and few of them do much."""
        return self.dictionary.get("geometry", {}).get("kind") == "molt"

    @property
    def reads_several_models(self) -> bool:
        """True if it was measured in more models than one."""
        return any(name.endswith("@1]") for name in self.metrics)

    @property
    def losses(self) -> dict[str, JsonObject]:
        """The losses beside reconstruction, by kind."""
        return {loss["kind"]: loss for loss in self.training.get("objective", {}).get("losses", ())}


def read_case(train: Artifact, evaluation: Artifact) -> Case:
    """The case of a finished dictionary, from its training and its evaluation."""
    measured = json.loads((evaluation.path / "metrics.json").read_text())
    histogram = measured.pop("density_histogram")
    metrics = {name: math.nan if value is None else value for name, value in measured.items()}
    metrics["dense_share"] = dense_share(metrics)
    wanted = evaluation.spec().config.get("groups", GROUPS)
    not_wanted = names_in(GROUPS.keys() - wanted.keys())
    return Case(metrics, read_curves(train.path / "curves.csv"), train.spec().config, histogram, not_wanted)


def dense_share(metrics: Mapping[str, float]) -> float:
    """Share of latents that fire on more than a tenth of all tokens; NaN where it was not measured."""
    latents = metrics.get("d_sae", 0)
    return metrics.get("dense_1e-1", math.nan) / latents if latents else math.nan


def read_curves(path: Path) -> dict[str, list[float]]:
    """The curves of a file by name: whole numbers where all of a curve were written so. None where there is no file: a
    dictionary that was not trained here has no curves."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        header, *lines = csv.reader(file)
    return {name: _parse([line[i] for line in lines]) for i, name in enumerate(header)}


def _parse(texts: Sequence[str]) -> list[float]:
    if all(text.isdecimal() for text in texts):
        return [int(text) for text in texts]
    return [float(text or "nan") for text in texts]
