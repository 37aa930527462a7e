"""Running a plan, or one stage of it, in this process: what every engine's jobs come down to."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lmsae.artifacts.artifact import Artifacts, write_atomically
from lmsae.config import canonical_json, key_of
from lmsae.planning.plan import Plan, passes_on_disk
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES
from lmsae.stages.making import make_artifacts

Say = Callable[[str], None]


def run_plan(plan: Plan, runtime: Runtime, say: Say = print) -> None:
    """Make every artifact of a plan, stage by stage, and publish to `runtime.results`."""
    artifacts = Artifacts(runtime.artifacts)
    plan.write_specs(artifacts)
    for stage in STAGES:
        passes = [[spec.reference for spec in group] for group in plan.passes(stage, runtime.together)]
        _run_passes(stage, passes, artifacts, runtime, say)


def run_stage(stage: str, keys: Sequence[str], runtime: Runtime, say: Say = print) -> None:
    """Make the named artifacts of a stage; without names, those that the plan on disk wants, and index them."""
    artifacts = Artifacts(runtime.artifacts)
    if keys:
        references = [artifacts.find(key if "/" in key else f"{stage}/{key}").reference for key in keys]
        _run_passes(stage, [references], artifacts, runtime, say)
    else:
        passes = passes_on_disk(stage, artifacts)
        _run_passes(stage, passes, artifacts, runtime, say)
        write_index(stage, [reference for group in passes for reference in group], artifacts)


def summarize(stages: Iterable[str], results: Path) -> list[str]:
    """What a user is told in the end of those stages that show something in the folder of results."""
    publishers = [publisher for stage in stages if (publisher := STAGES[stage].publisher)]
    return [publisher.summarize(results) for publisher in publishers]


def write_index(stage: str, references: Sequence[str], artifacts: Artifacts) -> None:
    """Write `index/<stage>.json`: a digest of each artifact's manifest by its reference; the same bytes anywhere."""
    manifests = {reference: artifacts[reference].manifest() for reference in sorted(references)}
    path = artifacts.root / "index" / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    digests = {reference: key_of(canonical_json(manifest)) for reference, manifest in manifests.items()}
    write_atomically(path, json.dumps(digests, indent=1) + "\n")


def _run_passes(stage: str, passes: Sequence[Sequence[str]], artifacts: Artifacts, runtime: Runtime, say: Say) -> None:
    made = 0
    for references in passes:
        done = make_artifacts(STAGES[stage], references, artifacts, runtime)
        made += len(done)
    wanted = sum(len(references) for references in passes)
    say(f"{stage}: {made} made, {wanted - made} there already")
    publisher = STAGES[stage].publisher
    for reference in (reference for references in passes for reference in references):
        if publisher:
            publisher.publish(artifacts[reference], artifacts, runtime.results)
