"""Upkeep of the artifacts folder: verify that bytes are what they were, and collect what no row wants."""

from collections.abc import Callable, Sequence

from lmsae.artifact import Artifacts
from lmsae.claim import claimed
from lmsae.errors import ArtifactError, MissingArtifact
from lmsae.plan import Plan, passes_on_disk
from lmsae.stages import STAGES

Say = Callable[[str], None]


def verify(artifacts: Artifacts, keys: Sequence[str], say: Say) -> int:
    """Recompute digests, of all artifacts or of some; name each damaged file, and whatever the plan wants and is
    missing. Returns 0 if all is well, else 1."""
    chosen = [artifacts.find(key) for key in keys] if keys else list(artifacts)
    wanted = {artifact.reference for artifact in chosen} if keys else _planned(artifacts)
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


def collect(plan: Plan, artifacts: Artifacts, *, delete: bool, say: Say) -> None:
    """List the artifacts that the plan does not want, with their sizes; with `delete`, remove them."""
    wanted = {spec.reference for stage in STAGES for spec in plan.specs(stage)}
    freed = count = 0
    for artifact in artifacts:
        if artifact.reference in wanted:
            continue
        size = sum(file.stat().st_size for file in artifact.path.rglob("*") if file.is_file())
        say(f"{'removed' if delete else 'unwanted'} {artifact.reference}  {size:,} bytes")
        if delete:
            with claimed(artifact.path):
                artifact.remove()
        freed, count = freed + size, count + 1
    say(f"{count} artifacts, {freed:,} bytes" + ("" if delete or not count else "; `lmsae gc --delete` removes them"))


def _planned(artifacts: Artifacts) -> set[str]:
    if not (artifacts.root / "plan").exists():
        return set()
    return {reference for stage in STAGES for group in passes_on_disk(stage, artifacts) for reference in group}
