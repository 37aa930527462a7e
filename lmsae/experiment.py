"""A sweep or one experiment, from what the user wrote to what was made: what `lmsae run` and `lmsae.run` share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsae.artifacts.artifact import Artifacts
from lmsae.planning.plan import plan_of
from lmsae.stages import DICTIONARIES, STAGES

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interpretation.opening import Features


@dataclass(frozen=True)
class Experiment:
    """One row that has been made: its name, the folder of each of its stages' artifacts, and that of its results."""

    name: str
    artifacts: Mapping[str, Path]
    results: Path

    @cached_property
    def dictionary(self) -> "Dictionary":
        """The dictionary, on the CPU: it reads and writes raw activations of its hook point."""
        from lmsae.dictionary.dictionary import Dictionary

        return Dictionary.load(next(self.artifacts[stage] for stage in DICTIONARIES if stage in self.artifacts))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics that evaluation measured on held-out text."""
        return json.loads((self.artifacts["eval"] / "metrics.json").read_text())

    @cached_property
    def features(self) -> "Features":
        """The meaning of each latent. Raises KeyError if `features.tokens` is 0."""
        from lmsae.interpretation.opening import open_features

        return open_features(self.artifacts["features"], self.results)


def features(name: Path | str, *, artifacts: Path | str = "artifacts", results: Path | str = "results") -> "Features":
    """The meaning of each latent of a dictionary, as the stage `features` described it (docs/features.md).

    `name` is a row, the first digits of a key, or a folder. `artifacts` is the folder of all artifacts, and `results`
    one of those where rows are published. Raises MissingArtifact if the name means nothing, or the artifact is not
    finished, and FolderError for a folder of another version.

        found = lmsae.features("resid2-topk-32")
        found.latent(7)["top_tokens"], found.contexts(7).to_pandas()
    """
    from lmsae.commands.finding import find_described
    from lmsae.interpretation.opening import open_features

    return open_features(find_described(name, Artifacts(Path(artifacts)), Path(results)), Path(results))


def run(experiment: Path | str | Mapping[str, Any], *, name: str | None = None, **runtime: Any) -> Experiment:
    """Make all stages of one experiment and return it. An artifact that exists is not made again.

    `experiment` is a TOML, YAML or JSON file, or the nested dict that such a file holds. `name` is that of its row.
    Further keywords are fields of Runtime (artifacts, results, device, threads, ...). Its report is written to a folder
    of its own, `results/<name>`; without a name, one for each experiment. Raises ConfigError with every fault at once,
    before anything runs.

        sae = {"hook_point": "blocks.1.hook_resid_post", "architecture": "topk", "k": 16, "d_sae": 1024}
        made = lmsae.run({"sae": sae, "train": {"tokens": 1_000_000}})
        made.metrics["explained_variance"], made.dictionary.encode(activations)
    """
    from lmsae.commands.running import run_plan

    config = dict(experiment) if isinstance(experiment, Mapping) else Path(experiment)
    plan, settings = plan_of(config, None, [], runtime, name=name)
    run_plan(plan, settings, say=lambda line: None)
    (planned,) = plan.rows
    specs = {stage: spec for stage in STAGES for spec in plan.specs(stage)} | dict(planned.specs)
    folders = {stage: settings.artifacts / spec.reference for stage, spec in specs.items()}
    return Experiment(planned.name, folders, settings.results)
