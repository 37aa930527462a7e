"""Collection of what no sweep wants any more: artifacts, and the training states that dictionaries kept."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from lmsae.artifacts.artifact import CHECKPOINT, Artifact, Artifacts
from lmsae.artifacts.claim import hold_claim
from lmsae.artifacts.planned import forget_planned
from lmsae.commands.weighing import size_of, weigh
from lmsae.errors import ArtifactError
from lmsae.planning.plan import Plan
from lmsae.planning.sweeps import Sweep, known_sweeps
from lmsae.runtime.numbers import format_bytes, parse_age, parse_bytes
from lmsae.stages import STAGES

Say = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """The limits of `gc`, as the user wrote them: it takes only some of all that no sweep wants."""

    older_than: str | None = None
    """Only what has not changed for so long."""
    larger_than: str | None = None
    """Only what has at least so many bytes."""
    down_to: str | None = None
    """The oldest first, until the whole folder has at most so many bytes."""

    def choose(self, finds: "Iterable[_Find]", total: int) -> "list[_Find]":
        """Those of some finds, in a folder with a total of bytes, that are to go."""
        least_age = parse_age(self.older_than) if self.older_than else None
        least_size = parse_bytes(self.larger_than) if self.larger_than else None
        now = time.time()
        chosen = [
            find
            for find in finds
            if (least_age is None or now - find.changed >= least_age)
            and (least_size is None or find.nbytes >= least_size)
        ]
        if not self.down_to:
            return chosen
        taken, allowed = [], parse_bytes(self.down_to)
        for find in sorted(chosen, key=lambda find: find.changed):
            if total <= allowed:
                break
            taken.append(find)
            total -= find.nbytes
        return taken


class _Find(NamedTuple):
    """Something to remove: what it is, who wanted it last, and how it goes."""

    what: str
    whose: str
    remove: Callable[[], None]
    artifact: Artifact
    nbytes: int
    changed: float
    """The time of its last change, in seconds since the epoch."""


NO_LIMITS = Limits()


def collect(
    plan: Plan,
    artifacts: Artifacts,
    *,
    delete: bool,
    say: Say,
    states: bool = False,
    forget: str | None = None,
    limits: Limits = NO_LIMITS,
) -> None:
    """List the artifacts that no sweep wants, with their sizes and who wanted them; with `delete`, remove them.

    This sweep wants what its `plan` says now, every other sweep what was planned of it last. One to `forget` wants
    nothing. With `states` also the training states go that finished dictionaries have kept for longer runs. `limits`
    leave what is young or small.
    """
    own = plan.sweep.origin if plan.sweep else None
    known = [*known_sweeps(artifacts)]
    before = [sweep for sweep in known if sweep.origin == own]
    others = [sweep for sweep in known if sweep.origin != own]
    forgotten = _choose(others, forget, artifacts) if forget else []
    kept = [sweep for sweep in others if sweep not in forgotten]
    ours = {spec.reference for stage in STAGES for spec in plan.specs(stage)}
    wanted = ours.union(*(sweep.references for sweep in kept))
    freed = count = 0
    found, total = [*_finds(artifacts, wanted, [*before, *forgotten], states)], size_of(artifacts.root)
    chosen = limits.choose(found, total)
    for find in chosen:
        say(f"{'removed' if delete else 'unwanted'} {find.what}  {find.nbytes:,} bytes{find.whose}")
        if delete:
            with hold_claim(find.artifact.path):
                find.remove()
        freed, count = freed + find.nbytes, count + 1
    if left := len(found) - len(chosen):
        say(f"left {left} that no sweep wants either, {format_bytes(sum(one.nbytes for one in found) - freed)}")
    for sweep in kept:
        say(_describe_kept(sweep, ours, artifacts))
    if delete:
        for sweep in forgotten:
            sweep.path(artifacts).unlink(missing_ok=True)
            forget_planned(artifacts.root, sweep.path(artifacts).stem)
        if plan.sweep and before:
            plan.forget_earlier(artifacts)
    thing = "artifact or state" if states else "artifact"
    things = thing if count == 1 else thing.replace(" or ", "s and ") + "s"
    advice = "" if delete or not count else "; the same command with --delete removes what it lists"
    say(f"{count} {things}, {freed:,} bytes{advice}")
    if limits.down_to and total - freed > parse_bytes(limits.down_to):
        say(f"{format_bytes(total - freed)} stay, more than {limits.down_to}: sweeps want them, or a limit keeps them.")


def _finds(artifacts: Artifacts, wanted: set[str], losers: Sequence[Sweep], states: bool) -> Iterator[_Find]:
    for artifact in artifacts:
        reference, state = artifact.reference, artifact.path / CHECKPOINT
        if reference not in wanted:
            one = weigh(artifact)
            yield _Find(reference, _whose(reference, losers), artifact.remove, artifact, one.nbytes, one.changed)
        elif states and state.exists() and artifact.is_finished:
            remove = partial(shutil.rmtree, state)
            one = weigh(artifact)
            yield _Find(f"state of {reference}", "", remove, artifact, one.of_state, one.changed)


def _whose(reference: str, losers: Sequence[Sweep]) -> str:
    """The sweeps and rows that lose an artifact, for the end of its line."""
    said = []
    for sweep in losers:
        if reference in sweep.references:
            rows = sweep.names_of_rows(reference)
            said.append(f"{sweep.origin}: {'row ' + ', '.join(rows) if rows else 'all rows'}")
    return f"  of {'; '.join(said)}" if said else ""


def _describe_kept(sweep: Sweep, ours: Set[str], artifacts: Artifacts) -> str:
    """A line on what another sweep keeps here, and on how to have it otherwise."""
    there = [artifacts.own(reference) for reference in sweep.references - ours]
    there = [artifact.path for artifact in there if artifact.path.exists()]
    size = format_bytes(sum(map(size_of, there)))
    gone = "" if sweep.origin.is_living else ", whose files are gone"
    name = sweep.origin.key(artifacts.root)
    things = "artifact" if len(there) == 1 else "artifacts"
    return f"kept {len(there)} {things}, {size}, for {sweep.origin}{gone} (`lmsae gc --forget {name}` lists them)"


def _choose(sweeps: Sequence[Sweep], name: str, artifacts: Artifacts) -> list[Sweep]:
    """The other sweep whose name or key begins with `name`."""
    found = [sweep for sweep in sweeps if sweep.origin.key(artifacts.root).startswith(name)]
    if len(found) == 1:
        return found
    known = ", ".join(sweep.origin.key(artifacts.root) for sweep in sweeps) or "none"
    raise ArtifactError(f"{name!r} is not the beginning of one other sweep's name; there are: {known}.")
