"""Longer runs: which shorter ones there are that a longer one can go on from, by the artifacts beside it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsae.artifacts.artifact import CHECKPOINT, SPEC, Artifact
from lmsae.stages.stage import Job
from lmsae.training.forks import Schedules, find_fork

if TYPE_CHECKING:
    from lmsae.training.checkpoints import Checkpoints

LENGTH = ("tokens", "epochs")
"""The fields of training that say only how long it is. The order of tokens depends on neither."""


@dataclass(frozen=True, slots=True)
class Extended:
    """The shorter run that a run went on from, and after how many steps."""

    reference: str
    steps: int


def schedules_of(config: Any) -> Schedules:
    """All that a train artifact's config does by the step."""
    return Schedules(config, config.objective.losses, getattr(config.dictionary.act_fn, "k", None))


def extended(job: Job, version: int, checkpoints: "Checkpoints") -> Extended | None:
    """Bring a run that has not begun to the last checkpoint of a shorter one, if there is any that it shares.
    `version` is the stage's.

    Says on stdout which, or why it begins anew though there is a shorter run.
    """
    mine, reasons = schedules_of(job.config), []
    for folder, config in _shorter_runs(job, version):
        shared = find_fork(schedules_of(config), mine)
        reference = Artifact(folder).reference
        if steps := checkpoints.go_on_from(folder / CHECKPOINT, reference, shared.steps):
            print(f"{job.reference}: goes on from step {steps:,} of {reference} ({config.tokens:,} tokens)")
            return Extended(reference, steps)
        if shared.differs:
            reasons.append(f"{reference} shares its first {shared.steps:,} steps alone ({shared.differs} differs then)")
        else:
            reasons.append(f"{reference} has kept no state (runtime.keep_training_state keeps one)")
    if reasons:
        print(f"{job.reference}: trained from the start: {'; '.join(reasons)}")
    return None


def step_to_keep(job: Job) -> int:
    """The last step of a run whose state is that of any longer run too; says on stdout if there is none."""
    mine = schedules_of(job.config)
    shared = find_fork(mine, mine.lengthen())
    if not shared.steps:
        why = f": {shared.differs} differs from the first step on" if shared.differs else ""
        print(f"{job.reference}: no state is kept, for no longer run could go on from it{why}")
    return shared.steps


def _shorter_runs(job: Job, version: int) -> Iterator[tuple[Path, Any]]:
    """The folders and configs of the runs that differ from a job's in nothing but fewer tokens, the longest first."""
    inputs = {name: artifact.reference for name, artifact in job.inputs.items()}
    mine = {"stage": "train", "version": version, "config": job.config.model_dump(mode="json"), "inputs": inputs}
    start = f'"init":"{inputs["init"]}"'
    found = []
    for path in job.out.parent.glob(f"*/{SPEC}"):
        artifact = Artifact(path.parent)
        if start in (text := path.read_text()) and (artifact.is_finished or (artifact.path / CHECKPOINT).exists()):
            spec = json.loads(text)
            if _without_length(spec) == _without_length(mine) and spec["config"]["tokens"] < mine["config"]["tokens"]:
                found.append((artifact.path, type(job.config).model_validate(spec["config"])))
    return iter(sorted(found, key=lambda one: -one[1].tokens))


def _without_length(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "config": {name: value for name, value in spec["config"].items() if name not in LENGTH}}
