"""The evaluation of one dictionary without a sheet, as a command: its metrics, of what has to be made first."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import Artifacts
from lmsae.errors import ConfigError, Fault
from lmsae.planning.config_file import load
from lmsae.planning.plan import plan_of
from lmsae.planning.sheet import require_one
from lmsae.report.main_metrics import in_order
from lmsae.stages import STAGES
from lmsae.stages.making import make_artifacts

FLAGS = {
    "dictionary": ("sae", "from"),
    "model": ("model", "name"),
    "dataset": ("dataset", "name"),
    "hook_point": ("sae", "hook_point"),
}
"""The flags of the command, and the column that each is."""


def evaluate(
    chosen: Mapping[str, str | None],
    config: Path,
    overrides: list[str],
    runtime: Mapping[str, Any],
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> None:
    """Make an evaluation and all that it needs, and show its metrics. `chosen` has the values of FLAGS; of the file
    `config` only the section `runtime` is read."""
    experiment: dict[str, dict[str, Any]] = {}
    for flag, (section, name) in FLAGS.items():
        if chosen.get(flag) is not None:
            experiment.setdefault(section, {})[name] = chosen[flag]
    if "from" not in experiment.get("sae", {}):
        raise ConfigError([Fault("--dictionary", None, "sae.from", "is missing: which dictionary is to be evaluated?")])
    if config.exists() and (section := load(config).get("runtime")):
        experiment["runtime"] = section
    plan, settings = plan_of(experiment, None, overrides, runtime)
    artifacts = Artifacts.of(settings)
    plan.write_specs(artifacts)
    row = require_one(plan.rows, [], "one evaluation is of one dictionary")
    wanted = [*row.lineage(row.specs["eval"]).values()]
    for name, stage in STAGES.items():
        references = [reference for reference in wanted if reference.partition("/")[0] == name]
        made = make_artifacts(stage, references, artifacts, settings)
        if references:
            say(f"{name}: {len(made)} made, {len(references) - len(made)} there already")
    evaluation = artifacts[row.specs["eval"].reference]
    show(_table(json.loads((evaluation.path / "metrics.json").read_text())))
    say(f"{evaluation.reference} holds them: {evaluation.path / 'metrics.json'}")


def _table(metrics: Mapping[str, Any]) -> str:
    """A line for each metric that is a number, the main ones first."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    width = max(map(len, numbers))
    return "\n".join(f"{name.ljust(width)}  {numbers[name]:.6g}" for name in in_order(numbers))
