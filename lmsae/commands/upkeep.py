"""Upkeep of the artifacts folder: verify that bytes are what they were, and collect what no row wants."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial

from lmsae.artifacts.artifact import CHECKPOINT, Artifacts
from lmsae.artifacts.claim import hold_claim
from lmsae.errors import ArtifactError, MissingArtifact
from lmsae.planning.plan import Plan, passes_on_disk
from lmsae.stages import STAGES

Say = Callable[[str], None]


def verify(artifacts: Artifacts, keys: Sequence[str], say: Say) -> int:
    """Recompute digests, of all artifacts or of some; name each damaged file, and whatever the plan wants and is
    missing. Returns 0 if all is well, else 1."""
    chosen = [artifacts.find(key) for key in keys] if keys else list(artifacts)
    wanted = {artifact.reference for artifact in chosen} if keys else _references_of_plan(artifacts)
    missing = sum(not artifacts[reference].is_finished for reference in wanted)
    finished = damaged = 0
    for artifact in chosen:
        try:
            damage = artifact.damaged_files()
        except MissingArtifact:
            continue
        except ArtifactError as error:
            damage = [str(error)]
        finished += 1
        damaged += bool(damage)
        for line in damage:
            say(line)
    say(f"{finished - damaged} whole, {damaged} damaged, {missing} wanted but not made")
    if damaged:
        say("Delete a damaged artifact's directory and run the workflow again: it and what lies below it come back.")
    if missing:
        say("Run the workflow (snakemake, dvc repro or lmsae run) to make what is missing.")
    return 1 if damaged or missing else 0


def collect(plan: Plan, artifacts: Artifacts, *, delete: bool, say: Say, states: bool = False) -> None:
    """List the artifacts that the plan does not want, with their sizes; with `delete`, remove them. With `states` also
    the training states that finished dictionaries have kept for longer runs."""
    wanted = {spec.reference for stage in STAGES for spec in plan.specs(stage)}
    freed = count = 0
    for artifact in artifacts:
        if artifact.reference not in wanted:
            what, path, remove = artifact.reference, artifact.path, artifact.remove
        elif states and (state := artifact.path / CHECKPOINT).exists() and artifact.is_finished:
            what, path, remove = f"state of {artifact.reference}", state, partial(shutil.rmtree, state)
        else:
            continue
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        say(f"{'removed' if delete else 'unwanted'} {what}  {size:,} bytes")
        if delete:
            with hold_claim(artifact.path):
                remove()
        freed, count = freed + size, count + 1
    things, command = ("artifacts and states", "gc --states") if states else ("artifacts", "gc")
    advice = "" if delete or not count else f"; `lmsae {command} --delete` removes them"
    say(f"{count} {things}, {freed:,} bytes{advice}")


def _references_of_plan(artifacts: Artifacts) -> set[str]:
    if not (artifacts.root / "plan").exists():
        return set()
    return {reference for stage in STAGES for group in passes_on_disk(stage, artifacts) for reference in group}
