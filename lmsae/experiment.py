"""A sweep or one experiment, from what the user wrote to what was made: what `lmsae run` and `lmsae.run` share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsae.artifacts.artifact import Artifacts
from lmsae.planning.plan import plan_of
from lmsae.runtime.runtime import Runtime
from lmsae.stages import DICTIONARIES, STAGES
from lmsae.stages.row import PlannedRow

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interpretation.opening import Features


@dataclass(frozen=True)
class Experiment:
    """One row that has been made: its name, the folder of each of its stages' artifacts, and that of its results.

    `rows` are all rows by name: one, unless the experiment has lists. Of several, its own artifacts are those of all of
    them together.
    """

    name: str
    artifacts: Mapping[str, Path]
    results: Path
    rows: Mapping[str, "Experiment"] = field(default_factory=dict)

    @cached_property
    def dictionary(self) -> "Dictionary":
        """The dictionary, on the CPU: it reads and writes raw activations of its hook point."""
        from lmsae.dictionary.dictionary import Dictionary

        return Dictionary.load(self._folder(*DICTIONARIES))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics that evaluation measured on held-out text."""
        return json.loads((self._folder("eval") / "metrics.json").read_text())

    @cached_property
    def features(self) -> "Features":
        """The meaning of each latent. Raises KeyError if `features.tokens` is 0."""
        from lmsae.interpretation.opening import open_features

        return open_features(self._folder("features"))

    def _folder(self, *stages: str) -> Path:
        """The folder of the first of some stages that the row has. Raises KeyError if it has none."""
        for stage in stages:
            if stage in self.artifacts:
                return self.artifacts[stage]
        several = f": choose one of its rows, {', '.join(self.rows)}" if len(self.rows) > 1 else ""
        raise KeyError(f"{self.name} has no {stages[0]}{several}")


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

    return open_features(find_described(name, Artifacts(Path(artifacts)), Path(results)))


def run(experiment: Path | str | Mapping[str, Any], *, name: str | None = None, **runtime: Any) -> Experiment:
    """Make all stages of one experiment and return it. An artifact that exists is not made again.

    `experiment` is a TOML, YAML or JSON file, or the nested dict that such a file holds. `name` is that of its row.
    Further keywords are fields of Runtime (artifacts, results, device, threads, ...). Its report is written to a folder
    of its own, `results/<name>`; without a name, one for each experiment. A list in the place of a value makes a row
    for each of its values (config/README.md). Raises ConfigError with every fault at once, before anything runs.

        sae = {"hook_point": "blocks.1.hook_resid_post", "architecture": "topk", "k": 16, "d_sae": 1024}
        made = lmsae.run({"sae": sae, "train": {"tokens": 1_000_000}})
        made.metrics["explained_variance"], made.dictionary.encode(activations)
        made = lmsae.run({"sae": {**sae, "k": [16, 32]}, "train": {"tokens": 1_000_000}}, name="mine")
        made.rows["mine-k32"].metrics["explained_variance"]
    """
    from lmsae.commands.running import run_plan

    config = dict(experiment) if isinstance(experiment, Mapping) else Path(experiment)
    plan, settings = plan_of(config, None, [], runtime, name=name)
    run_plan(plan, settings, say=lambda line: None)
    of_all = [spec for stage in STAGES.values() if stage.of_sweep for spec in plan.specs(stage.name)]
    shared = {spec.stage: settings.artifacts / spec.reference for spec in of_all}
    rows = {row.name: Experiment(row.name, _folders(row, settings) | shared, settings.results) for row in plan.rows}
    if len(rows) == 1:
        return replace(*rows.values(), rows=rows)
    assert plan.sweep is not None
    return Experiment(plan.sweep.origin.name, shared, settings.results, rows)


def _folders(row: PlannedRow, runtime: Runtime) -> dict[str, Path]:
    return {stage: runtime.artifacts / spec.reference for stage, spec in row.specs.items()}
