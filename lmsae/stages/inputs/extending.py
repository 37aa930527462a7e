"""Longer runs: a run goes on from the last state that it shares with a shorter one, found among its relatives."""

import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import CHECKPOINT, Artifact
from lmsae.artifacts.resuming import NOTE, discard
from lmsae.errors import ArtifactError
from lmsae.stages.along import Along, Scorings
from lmsae.stages.effort import Facts
from lmsae.stages.stage import Job
from lmsae.training.forks import Fork, Schedules, find_fork
from lmsae.training.objective import Learning

if TYPE_CHECKING:
    from lmsae.training.checkpoints import Checkpoints

LENGTH = frozenset({"tokens", "epochs"})
"""The fields of training that say only how long it is. The order of tokens depends on neither."""
ON_THE_WAY = frozenset({"eval_steps", "eval_tokens", "keep_steps", "held_out"})
"""The fields of training that say only what is found out and kept on the way. No weight depends on them."""
DICTIONARY = ("dictionary.json", "dictionary.safetensors", "conversion.json", "curves.csv")
"""The files of a training that do not depend on them either."""


@dataclass(frozen=True, slots=True)
class Extended:
    """The shorter run that a run went on from, and after how many steps."""

    reference: str
    steps: int


def schedules_of(config: Learning) -> Schedules:
    """The schedules of a run: all that its config changes from step to step."""
    return Schedules(config, config.objective.losses, getattr(config.dictionary.act_fn, "k", None))


def take_over_twin(job: Job) -> Facts | None:
    """Write what a job is to make from a finished relative that trained as long and has all that is wanted of the way.

    Prints which one that is, or what those lack. Returns facts for provenance, None if there is no such relative.
    """
    for twin in job.relatives:
        if not twin.is_finished or twin.spec().config["tokens"] != job.config.tokens:
            continue
        try:
            twin.require_intact()
        except ArtifactError as error:
            print(f"{job.reference}: nothing is taken over from {twin.reference}: {error}", file=sys.stderr)
            continue
        if missing := Along(job, Scorings({})).take_over_finished(twin):
            print(f"{job.reference}: {twin.reference} has the same weights and is not enough: {missing}")
            continue
        discard(job.out / CHECKPOINT)
        discard(job.out / NOTE)
        for name in DICTIONARY:
            if (twin.path / name).exists():
                shutil.copyfile(twin.path / name, job.out / name)
        print(f"{job.reference}: takes over the dictionary of {twin.reference}, which has all that is wanted")
        return {"taken_over": twin.reference}
    return None


def extend_shorter_run(job: Job, checkpoints: "Checkpoints") -> Extended | None:
    """Bring a run that has not begun to the last checkpoint of a shorter one, if there is any that it shares.

    Prints which run that is, or why the run begins anew although there is a shorter one.
    """
    mine, reasons = schedules_of(job.config), []
    for artifact, config in _shorter_runs(job):
        shared = find_fork(schedules_of(config), mine)
        reference = artifact.reference
        if steps := checkpoints.go_on_from(artifact.path / CHECKPOINT, reference, shared.steps):
            why = _explain_fork(shared) if steps == shared.steps else ""
            print(f"{job.reference}: goes on from step {steps:,} of {reference} ({config.tokens:,} tokens){why}")
            return Extended(reference, steps)
        if shared.differs:
            reasons.append(f"{reference} shares its first {shared.steps:,} steps alone{_explain_fork(shared)}")
        elif not (artifact.path / CHECKPOINT).exists():
            reasons.append(f"{reference} has kept no state (runtime.keep_training_state keeps one)")
    if reasons:
        print(f"{job.reference}: trained from the start: {'; '.join(reasons)}")
    return None


def step_to_keep(job: Job) -> int:
    """The last step of a run whose state is also that of any longer run.

    Prints a line if there is none, or if they part before the end of the shorter one.
    """
    mine = schedules_of(job.config)
    shared = find_fork(mine, mine.lengthen())
    if not shared.steps:
        why = f": {shared.differs} differs from the first step on" if shared.differs else ""
        print(f"{job.reference}: no state is kept, for no longer run could go on from it{why}")
    elif shared.differs:
        kept = f"keeps the state of step {shared.steps:,} of {mine.steps:,}, where a longer run can go on"
        print(f"{job.reference}: {kept}{_explain_fork(shared)}")
    return shared.steps


def _explain_fork(shared: Fork) -> str:
    """The reason, in parentheses, why two runs part before the last step of the shorter one; empty if they do not."""
    return f" ({shared.differs} differs then)" if shared.differs else ""


def _shorter_runs(job: Job) -> list[tuple[Artifact, Learning]]:
    """The job's relatives that are trained on as many tokens or fewer, with their configs, the longest first."""
    runs = [
        (relative, type(job.config).model_validate(relative.spec().config))
        for relative in job.relatives
        if relative.is_finished or (relative.path / CHECKPOINT).exists()
    ]
    shorter = [(relative, config) for relative, config in runs if config.tokens <= job.config.tokens]
    return sorted(shorter, key=lambda run: -run[1].tokens)
