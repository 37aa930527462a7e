"""A pass: the artifacts that one job of a workflow engine makes, as a small file named by its hash.

    artifacts/passes/<stage>/<name>.json   the artifacts of the pass, and the passes that make their inputs
                             <name>.done   there while all of its artifacts are finished

A job works from these files and never from the sweep, which may have changed since the job was submitted.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts, write_atomically
from lmsae.artifacts.inside import require_reference
from lmsae.config import canonical_json, key_of
from lmsae.errors import DamagedArtifact
from lmsae.planning.plan import Plan
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES

FOLDER = "passes"


@dataclass(frozen=True, slots=True)
class Pass:
    """The artifacts that one job makes, and the passes that it needs, both as `<stage>/<name>`."""

    artifacts: Sequence[str]
    needs: Sequence[str]

    @property
    def text(self) -> str:
        return canonical_json({"artifacts": self.artifacts, "needs": self.needs})

    @property
    def reference(self) -> str:
        """`<stage>/<name>`; the name is the first artifact's key and a digest of the rest."""
        return f"{self.artifacts[0]}-{key_of(self.text)[:8]}"

    @classmethod
    def read(cls, root: Path, reference: str) -> "Pass":
        """The pass of a reference, from the folder of artifacts `root`. Raises DamagedArtifact if its file is none, or
        another pass than its name says."""
        path = root / FOLDER / f"{require_reference(reference, root / FOLDER)}.json"
        try:
            found = json.loads(path.read_text())
            lists = [[require_reference(name, path) for name in found[field]] for field in ("artifacts", "needs")]
            read = cls(*lists)
            if read.reference != reference:
                raise ValueError(f"it is {read.reference}")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DamagedArtifact(f"{path}: it is no pass ({error!r}). Delete it, and plan again.") from None
        return read


def passes_of(plan: Plan, together: int) -> dict[str, list[Pass]]:
    """The passes of every stage of a plan. They depend on the sweep alone, never on what is on disk."""
    maker: dict[str, str] = {}
    passes: dict[str, list[Pass]] = {}
    for stage in STAGES:
        passes[stage] = []
        for specs in plan.passes(stage, together):
            inputs = [parent for spec in specs for parent in spec.inputs.values()]
            needs = sorted({maker[parent] for parent in inputs})
            new = Pass([spec.reference for spec in specs], needs)
            maker |= dict.fromkeys(new.artifacts, new.reference)
            passes[stage].append(new)
    return passes


def write_passes(plan: Plan, runtime: Runtime) -> dict[str, list[str]]:
    """Write a plan's passes, mark those that are done and unmark those that are not; their references by stage."""
    artifacts = Artifacts.of(runtime)
    written: dict[str, list[str]] = {}
    for stage, passes in passes_of(plan, runtime.together).items():
        folder = artifacts.root / FOLDER
        (folder / stage).mkdir(parents=True, exist_ok=True)
        written[stage] = [one.reference for one in passes]
        for one in passes:
            if not (folder / f"{one.reference}.json").exists():
                write_atomically(folder / f"{one.reference}.json", one.text)
            _mark(folder / f"{one.reference}.done", _is_done(stage, one, artifacts, runtime))
    return written


def marked_passes(runtime: Runtime) -> set[str]:
    """The references of all passes that are marked as done, of this plan and of earlier ones."""
    folder = runtime.artifacts / FOLDER
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.done")}


def unmark_undone(references: Iterable[str], runtime: Runtime) -> dict[str, bool]:
    """Remove the marks of those passes that are not done; these, each with whether it failed itself, and not only for
    want of inputs.

    Passes go on although single artifacts fail, so a mark that an engine has set says no more than that the job ended.
    """
    artifacts, undone = Artifacts.of(runtime), {}
    for reference in sorted(references):
        one = Pass.read(artifacts.root, reference)
        if not _is_done(reference.partition("/")[0], one, artifacts, runtime):
            _mark(artifacts.root / FOLDER / f"{reference}.done", False)
            undone[reference] = any(_failed(artifacts[made], artifacts) for made in one.artifacts)
    return undone


def _failed(artifact: Artifact, artifacts: Artifacts) -> bool:
    """True if an artifact is not finished and all of its inputs are."""
    return not artifact.is_finished and all(artifacts[one].is_finished for one in artifact.spec().inputs.values())


def _mark(path: Path, done: bool) -> None:
    if not done:
        path.unlink(missing_ok=True)
    elif not path.exists():
        path.touch()


def _is_done(stage: str, one: Pass, artifacts: Artifacts, runtime: Runtime) -> bool:
    """True if all artifacts of a pass are finished, and those that are published lie in `runtime.results`.

    What is published links to what it was made of, so that must be there too: a dictionary that somebody deleted is
    wanted again. Other inputs of what is finished may be gone, such as activations.
    """
    made = [artifacts[reference] for reference in one.artifacts]
    if not all(artifact.is_finished for artifact in made):
        return False
    publisher = STAGES[stage].publisher
    return publisher is None or all(
        publisher.is_published(artifact, runtime.results)
        and all(artifacts[reference].is_finished for reference in artifact.spec().inputs.values())
        for artifact in made
    )
