"""Collection of what no sweep wants any more: artifacts, and the training states that dictionaries kept."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lmsae.artifacts.artifact import CHECKPOINT, Artifact, Artifacts
from lmsae.artifacts.claim import hold_claim
from lmsae.errors import ArtifactError
from lmsae.planning.plan import Plan
from lmsae.planning.sweeps import Sweep, known_sweeps
from lmsae.runtime.numbers import format_bytes
from lmsae.stages import STAGES

Say = Callable[[str], None]


class _Find(NamedTuple):
    """Something to remove: what it is, where it lies, who wanted it last, and how it goes."""

    what: str
    path: Path
    whose: str
    remove: Callable[[], None]
    artifact: Artifact


def collect(
    plan: Plan, artifacts: Artifacts, *, delete: bool, say: Say, states: bool = False, forget: str | None = None
) -> None:
    """List the artifacts that no sweep wants, with their sizes and who wanted them; with `delete`, remove them.

    This sweep wants what its `plan` says now, every other sweep what was planned of it last. One to `forget` wants
    nothing. With `states` also the training states go that finished dictionaries have kept for longer runs.
    """
    own = plan.sweep.origin if plan.sweep else None
    before = [sweep for sweep in known_sweeps(artifacts) if sweep.origin == own]
    others = [sweep for sweep in known_sweeps(artifacts) if sweep.origin != own]
    forgotten = _choose(others, forget, artifacts) if forget else []
    kept = [sweep for sweep in others if sweep not in forgotten]
    ours = {spec.reference for stage in STAGES for spec in plan.specs(stage)}
    wanted = ours.union(*(sweep.references for sweep in kept))
    freed = count = 0
    for find in _finds(artifacts, wanted, [*before, *forgotten], states):
        size = _size(find.path)
        say(f"{'removed' if delete else 'unwanted'} {find.what}  {size:,} bytes{find.whose}")
        if delete:
            with hold_claim(find.artifact.path):
                find.remove()
        freed, count = freed + size, count + 1
    for sweep in kept:
        say(_describe_kept(sweep, ours, artifacts))
    if delete:
        for sweep in forgotten:
            sweep.path(artifacts).unlink(missing_ok=True)
        if plan.sweep and before:
            plan.sweep.note(artifacts)
    things, command = ("artifacts and states", "gc --states") if states else ("artifacts", "gc")
    command += f" --forget {forget}" if forget else ""
    advice = "" if delete or not count else f"; `lmsae {command} --delete` removes them"
    say(f"{count} {things}, {freed:,} bytes{advice}")


def _finds(artifacts: Artifacts, wanted: set[str], losers: Sequence[Sweep], states: bool) -> Iterator[_Find]:
    for artifact in artifacts:
        reference, state = artifact.reference, artifact.path / CHECKPOINT
        if reference not in wanted:
            yield _Find(reference, artifact.path, _whose(reference, losers), artifact.remove, artifact)
        elif states and state.exists() and artifact.is_finished:
            yield _Find(f"state of {reference}", state, "", partial(shutil.rmtree, state), artifact)


def _whose(reference: str, losers: Sequence[Sweep]) -> str:
    """The sweeps and rows that lose an artifact, for the end of its line."""
    said = []
    for sweep in losers:
        if reference in sweep.references:
            rows = sweep.names_of_rows(reference)
            said.append(f"{sweep.origin}: {'row ' + ', '.join(rows) if rows else 'all rows'}")
    return f"  of {'; '.join(said)}" if said else ""


def _describe_kept(sweep: Sweep, ours: set[str], artifacts: Artifacts) -> str:
    """A line on what another sweep keeps here, and on how to have it otherwise."""
    there = [artifacts[reference] for reference in sweep.references - ours]
    there = [artifact.path for artifact in there if artifact.path.exists()]
    size = format_bytes(sum(map(_size, there)))
    gone = "" if sweep.origin.is_living else ", whose files are gone"
    name = sweep.origin.key(artifacts.root)
    return f"kept {len(there)} artifacts, {size}, for {sweep.origin}{gone} (`lmsae gc --forget {name}` lists them)"


def _choose(sweeps: Sequence[Sweep], name: str, artifacts: Artifacts) -> list[Sweep]:
    """The other sweep whose name or key begins with `name`."""
    found = [sweep for sweep in sweeps if sweep.origin.key(artifacts.root).startswith(name)]
    if len(found) == 1:
        return found
    known = ", ".join(sweep.origin.key(artifacts.root) for sweep in sweeps) or "none"
    raise ArtifactError(f"{name!r} is not the beginning of one other sweep's name; there are: {known}.")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
