"""Verification of the artifacts folder: bytes are what they were, and what the plan wants is there."""

from collections.abc import Callable, Sequence

from lmsae.artifacts.artifact import Artifacts
from lmsae.commands.finding import find_noted
from lmsae.errors import ArtifactError, MissingArtifact
from lmsae.planning.plan import passes_on_disk
from lmsae.stages import STAGES

Say = Callable[[str], None]


def verify(artifacts: Artifacts, keys: Sequence[str], say: Say) -> int:
    """Recompute digests, of all artifacts or of some; name each damaged file, and whatever the plan wants and is
    missing. Returns 0 if all is well, else 1."""
    chosen = [one for key in keys for one in find_noted(key, artifacts)] if keys else list(artifacts)
    wanted = {artifact.reference for artifact in chosen} if keys else _references_of_plan(artifacts)
    if not keys:  # of what others lend, that which is wanted
        chosen += [lent for reference in sorted(wanted) if (lent := artifacts[reference]).lender is not None]
    lacking = [reference for reference in wanted if not artifacts[reference].is_finished]
    missing = len(lacking)
    finished = damaged = own = 0
    for artifact in chosen:
        try:
            damage = artifact.damaged_files()
        except MissingArtifact:
            continue
        except ArtifactError as error:
            damage = [str(error)]
        finished += 1
        damaged += bool(damage)
        own += bool(damage) and artifact.lender is None
        if damage and artifact.lender is not None:
            artifacts.refuse(artifact)
            damage.append(f"{artifact.reference} is lent by {artifact.lender}: `lmsae run` makes it here")
        for line in damage:
            say(line)
    say(f"{finished - damaged} whole, {damaged} damaged, {missing} wanted but not made")
    if own:
        say("Delete a damaged artifact's directory and run the workflow again: it and what lies below it come back.")
    if missing:
        stages = " ".join(f"{stage}_all" for stage in STAGES if any(one.startswith(f"{stage}/") for one in lacking))
        say(f"`lmsae run` makes what is missing. So does `snakemake {stages}`,")
        say(f"or `rm -r {artifacts.root}/index && dvc repro`.")
    return 1 if damaged or missing else 0


def _references_of_plan(artifacts: Artifacts) -> set[str]:
    names = {path.parent.relative_to(artifacts.root / "plan") for path in (artifacts.root / "plan").rglob("*.json")}
    plans = [passes_on_disk(stage, artifacts, str(name)) for name in sorted(names) for stage in STAGES]
    return {reference for passes in plans for group in passes for reference in group}
