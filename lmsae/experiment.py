"""A sweep or one experiment, from what the user wrote to what was made: what `lmsae run` and `lmsae.run` share."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsae.artifacts.artifact import Artifacts
from lmsae.planning.plan import plan_of
from lmsae.stages import STAGES

if TYPE_CHECKING:
    from lmsae.application.loaded import LoadedDictionary
    from lmsae.interpretation.opening import Features


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


def run(experiment: Path | str | Mapping[str, Any], *, name: str | None = None, **runtime: Any) -> "LoadedDictionary":
    """Make all stages of one experiment and return its dictionary. An artifact that exists is not made again.

    `experiment` is a TOML, YAML or JSON file, or the nested dict that such a file holds. `name` is that of its row.
    Further keywords are fields of Runtime (artifacts, results, device, threads, ...). Its report is written to a folder
    of its own, `results/<name>`; without a name, one for each experiment. Raises ConfigError with every fault at once,
    before anything runs.

        sae = {"hook_point": "blocks.1.hook_resid_post", "architecture": "topk", "k": 16, "d_sae": 1024}
        made = lmsae.run({"sae": sae, "train": {"tokens": 1_000_000}})
        made.metrics["explained_variance"], made.generate("import", add={7: 4.0})
    """
    from lmsae.application.loaded import LoadedDictionary
    from lmsae.commands.running import run_plan

    config = dict(experiment) if isinstance(experiment, Mapping) else Path(experiment)
    plan, settings = plan_of(config, None, [], runtime, name=name)
    run_plan(plan, settings, say=lambda line: None)
    (planned,) = plan.rows
    specs = {stage: spec for stage in STAGES for spec in plan.specs(stage)} | dict(planned.specs)
    folders = {stage: settings.artifacts / spec.reference for stage, spec in specs.items()}
    return LoadedDictionary(planned.name, folders, settings.results, runtime=settings)
