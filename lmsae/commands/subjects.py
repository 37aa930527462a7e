"""Subjects: finished dictionaries that a person has named, what was measured of them, and where they belong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.commands.finding import find_artifact
from lmsae.config import JsonObject
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import ArtifactError, ExportError, MissingArtifact
from lmsae.lm import ResolvedModel, read_config
from lmsae.lm.hook_points import hook_points, layer_of
from lmsae.planning.plan import Plan
from lmsae.stages import DICTIONARIES
from lmsae.stages.sites import inputs_from


@dataclass(frozen=True, slots=True)
class Origin:
    """The language model that a dictionary belongs to, and the hook points that it reads and writes there."""

    model: ResolvedModel
    reads: Sequence[str]
    writes: Sequence[str]

    @property
    def config(self) -> JsonObject:
        """The model's config.json."""
        return read_config(self.model)

    @property
    def layers(self) -> int:
        """The number of the model's layers."""
        return 1 + max(map(layer_of, hook_points(self.config)))


@dataclass(frozen=True)
class Subject:
    """A finished dictionary by the name that a person gave it: a row, or a key."""

    name: str
    made: Artifact
    artifacts: Artifacts
    results: Path
    plan: Callable[[], Plan | None]

    @classmethod
    def find(cls, name: str, artifacts: Artifacts, results: Path, plan: Callable[[], Plan | None]) -> "Subject":
        """The dictionary that a name means. Raises ArtifactError if it means none, or one that is not finished."""
        made = find_artifact(name, artifacts, results, plan)
        if made.spec().stage not in DICTIONARIES:
            raise ArtifactError(f"{made.reference} is no dictionary: name a row, or a train artifact.")
        return cls(name, made.require_intact(), artifacts, results, plan)

    @property
    def label(self) -> str:
        """The name as one part of a path."""
        return self.name.replace("/", "-")

    @cached_property
    def config(self) -> DictionaryConfig:
        """The config of the dictionary as it was finished."""
        from lmsae.dictionary.dictionary import CONFIG
        from lmsae.dictionary.reading import read_config

        return read_config(self.made.path / CONFIG, DictionaryConfig)

    def measured(self, stage: str) -> Artifact:
        """The finished artifact of `eval` or `features` of this dictionary.

        That of the row, if the name is a row's. Raises MissingArtifact if there is none, or several for a key.
        """
        planned = self.plan()
        specs = [spec for row in (planned.rows if planned else ()) if row.name == self.name for spec in row.of(stage)]
        published = self.results / "rows" / self.name / stage
        if specs:
            found = [self.artifacts[specs[0].reference]]
        elif published.is_dir():
            found = [self.artifacts["/".join(published.resolve().parts[-2:])]]
        else:
            found = [one for one in self.artifacts.everywhere() if one.is_finished and self._is_measured_by(one, stage)]
        if len(found) > 1:
            listed = ", ".join(one.reference for one in found)
            raise MissingArtifact(f"{self.name} has several artifacts of {stage} ({listed}): name its row instead.")
        if not found:
            raise MissingArtifact(
                f"there are no {stage} of {self.name}: its row has none, or it has not been made. `lmsae run` makes "
                f"what rows want; a row with features.tokens 0 wants no features."
            )
        return found[0].require_intact()

    def _is_measured_by(self, artifact: Artifact, stage: str) -> bool:
        return artifact.reference.startswith(f"{stage}/") and self.made.reference in artifact.spec().inputs.values()

    @cached_property
    def origin(self) -> Origin:
        """The model and the hook points. A dictionary that was trained elsewhere has those of its evaluation.

        Raises ExportError for a dictionary of several models.
        """
        spec = self.made.spec()
        if captures := [self.artifacts[one].spec().config for one in inputs_from("activations", spec.inputs)]:
            sites, models = spec.config["sites"], [one["model"]["source"] for one in captures]
        else:
            config = self.measured("eval").spec().config
            sites, captures = config["sites"], config["places"]
            models = [config["models"][place["model"]]["source"] for place in captures]
        names = [one["hook_point"] for one in captures]
        if any(model != models[0] for model in models):
            raise ExportError(f"{self.name} reads several models. Other tools have dictionaries of one model alone.")
        reads, writes = ([names[number] for number in sites[side]] for side in ("reads", "writes"))
        return Origin(ResolvedModel.model_validate(models[0]), reads, writes)
