"""Running a plan, or one stage of it, in this process: what every engine's jobs come down to."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lmsae.artifacts.artifact import Artifacts, write_atomically
from lmsae.commands.foreseeing import Wanted, require_use, wanted_by, wanted_on_disk
from lmsae.config import canonical_json, key_of
from lmsae.planning.plan import Plan, passes_on_disk
from lmsae.planning.sweeps import known_sweeps
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES
from lmsae.stages.making import make_artifacts
from lmsae.stages.origin import Origin

Say = Callable[[str], None]
Destination = tuple[Path, Origin | None]
"""A folder of results, and the sweep that it is for if that is known."""


def run_plan(plan: Plan, runtime: Runtime, say: Say = print, show: Say = lambda summary: None) -> None:
    """Make every artifact of a plan, stage by stage, and publish to `runtime.results`. `say` is told how it goes, and
    `show` in the end what is there to see."""
    artifacts = Artifacts(runtime.artifacts)
    origin = plan.sweep.origin if plan.sweep else None
    plan.write_specs(artifacts)
    wanted = wanted_by(plan)
    for stage in STAGES:
        passes = [[spec.reference for spec in group] for group in plan.passes(stage, runtime.together)]
        _run_passes(stage, passes, wanted, artifacts, runtime, say)
        _publish(stage, passes, artifacts, lambda reference: [(runtime.results, origin)], show)


def run_stage(
    stage: str,
    keys: Sequence[str],
    runtime: Runtime,
    say: Say = print,
    show: Say = lambda summary: None,
    *,
    results: Path | None = None,
) -> None:
    """Make the named artifacts of a stage; without names, those that the plan on disk wants, and index them.

    What is published goes to `results`, or else to the folder of each sweep that wants it.
    """
    artifacts = Artifacts(runtime.artifacts)

    def destinations(reference: str) -> list[Destination]:
        sweeps = [] if results else [one for one in known_sweeps(artifacts) if reference in one.references]
        return [(one.results, one.origin) for one in sweeps] or [(results or runtime.results, None)]

    wanted = wanted_on_disk(artifacts)
    if keys:
        references = [artifacts.find(key if "/" in key else f"{stage}/{key}").reference for key in keys]
        _run_passes(stage, [references], wanted, artifacts, runtime, say)
        _publish(stage, [references], artifacts, destinations, show)
    else:
        passes = passes_on_disk(stage, artifacts)
        _run_passes(stage, passes, wanted, artifacts, runtime, say)
        _publish(stage, passes, artifacts, destinations, show)
        write_index(stage, [reference for group in passes for reference in group], artifacts)


def write_index(stage: str, references: Sequence[str], artifacts: Artifacts) -> None:
    """Write `index/<stage>.json`: a digest of each artifact's manifest by its reference; the same bytes anywhere."""
    manifests = {reference: artifacts[reference].manifest() for reference in sorted(references)}
    path = artifacts.root / "index" / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    digests = {reference: key_of(canonical_json(manifest)) for reference, manifest in manifests.items()}
    write_atomically(path, json.dumps(digests, indent=1) + "\n")


def _run_passes(
    stage: str, passes: Sequence[Sequence[str]], wanted: Wanted, artifacts: Artifacts, runtime: Runtime, say: Say
) -> None:
    made = 0
    for references in passes:
        require_use(references, wanted, artifacts, runtime.device)
        done = make_artifacts(STAGES[stage], references, artifacts, runtime)
        made += len(done)
    asked = sum(len(references) for references in passes)
    say(f"{stage}: {made} made, {asked - made} there already")


def _publish(
    stage: str,
    passes: Sequence[Sequence[str]],
    artifacts: Artifacts,
    destinations: Callable[[str], Sequence[Destination]],
    show: Say,
) -> None:
    """Publish a stage's artifacts, if it has a publisher, to the destinations of each, and show what is there."""
    if not (publisher := STAGES[stage].publisher):
        return
    for reference in (reference for references in passes for reference in references):
        for results, origin in destinations(reference):
            publisher.publish(artifacts[reference], artifacts, results, origin)
            show(publisher.summarize(results))
