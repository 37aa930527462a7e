"""Weighing the artifacts folder: its bytes by stage, by row and by age, and what is half made."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmsae.artifacts.artifact import CHECKPOINT, SOURCE, Artifact, Artifacts
from lmsae.artifacts.claim import holder_of
from lmsae.artifacts.lending import REFUSED
from lmsae.artifacts.manifest import MANIFEST, SPEC
from lmsae.artifacts.owner import Pulse
from lmsae.planning.sweeps import known_sweeps
from lmsae.runtime.numbers import format_age, format_bytes, format_table
from lmsae.stages import STAGES

Say = Callable[[str], None]
DAY = 86_400
AGES = ((DAY, "today"), (7 * DAY, "a week"), (30 * DAY, "a month"), (90 * DAY, "three months"), (365 * DAY, "a year"))
"""The bounds of the table of ages: less than so many seconds, and what they are called."""
OLDER = "older"
MOST_ROWS = 40
_OF_PLANS = {SPEC, SOURCE, REFUSED}
"""Files that a plan leaves of what nobody has begun to make."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """An artifact's folder: its bytes, those of a training state in it, and when it changed last."""

    artifact: Artifact
    nbytes: int
    of_state: int
    changed: float
    """Seconds since the epoch: when it was finished, or when the newest file of a half-made one was written."""
    is_finished: bool
    is_begun: bool

    @property
    def is_half_made(self) -> bool:
        return self.is_begun and not self.is_finished


def weigh(artifact: Artifact) -> Weighed:
    """Weigh one artifact's folder. Files that go meanwhile weigh nothing."""
    states = dict(_files_of(artifact.path))
    manifest, names = MANIFEST, {path.partition("/")[0] for path in states}
    newest = max((changed for _, changed in states.values()), default=0.0)
    return Weighed(
        artifact,
        nbytes=sum(size for size, _ in states.values()),
        of_state=sum(size for path, (size, _) in states.items() if path.startswith(f"{CHECKPOINT}/")),
        changed=states[manifest][1] if manifest in states else newest,
        is_finished=manifest in states,
        is_begun=bool(names - _OF_PLANS),
    )


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder, none of those behind links."""
    return sum(size for _, (size, _) in _files_of(folder))


def show_usage(artifacts: Artifacts, say: Say) -> None:
    """Tell how many bytes a folder of artifacts holds: by stage, by row of every sweep that was planned here, by age;
    then name each artifact that is half made, and whether anybody makes it."""
    weighed = [weigh(artifact) for artifact in artifacts]
    sweeps = [*known_sweeps(artifacts)]
    wanted = {reference for sweep in sweeps for reference in sweep.references}
    total = size_of(artifacts.root)
    say("\n".join(_by_stage(weighed, wanted, total)))
    nbytes = {one.artifact.reference: one.nbytes for one in weighed}
    several = len(sweeps) > 1
    rows = {
        f"{sweep.origin.name}: {row}" if several else row: references
        for sweep in sweeps
        for row, references in sweep.wants.items()
        if row
    }
    if rows:
        say("\n".join(["", *_by_row(rows, nbytes)]))
    say("\n".join(["", *_by_age(weighed, wanted)]))
    half_made = [one for one in weighed if one.is_half_made]
    for one in half_made:
        say(f"{'' if one is not half_made[0] else chr(10)}{_describe_half_made(one, wanted)}")
    if half_made:
        say("A run goes on from what is half made, or begins it anew. `lmsae gc` lists what no sweep wants.")


def _by_stage(weighed: Iterable[Weighed], wanted: set[str], total: int) -> list[str]:
    lines = [["stage", "finished", "half made", "bytes", "of states", "no sweep wants"]]
    groups: dict[str, list[Weighed]] = {stage: [] for stage in STAGES}
    for one in weighed:
        groups.setdefault(one.artifact.path.parent.name, []).append(one)
    for stage, group in groups.items():
        if group:
            lines.append([stage, *_counts(group), *_sizes(group, wanted)])
    everything = [one for group in groups.values() for one in group]
    notes = total - sum(one.nbytes for one in everything)
    lines.append(["plans and notes", "", "", format_bytes(notes), "", ""])
    lines.append(["all", *_counts(everything), format_bytes(total), *_sizes(everything, wanted)[1:]])
    return format_table(lines)


def _counts(group: Sequence[Weighed]) -> list[str]:
    return [str(sum(one.is_finished for one in group)), str(sum(one.is_half_made for one in group))]


def _sizes(group: Sequence[Weighed], wanted: set[str]) -> list[str]:
    unwanted = sum(one.nbytes for one in group if one.artifact.reference not in wanted)
    return [format_bytes(n) for n in (sum(one.nbytes for one in group), sum(one.of_state for one in group), unwanted)]


def _by_row(rows: Mapping[str, Iterable[str]], nbytes: Mapping[str, int]) -> list[str]:
    """The largest rows first: what a row wants, and what no other row wants with it."""
    uses = Counter(reference for references in rows.values() for reference in {*references})
    sizes = [
        (
            sum(nbytes.get(one, 0) for one in {*references}),
            sum(nbytes.get(one, 0) for one in {*references} if uses[one] == 1),
            row,
        )
        for row, references in rows.items()
    ]
    largest = sorted(sizes, key=lambda size: (-size[0], size[2]))
    lines = [["row", "bytes", "of it alone"]]
    lines += [[row, format_bytes(all_), format_bytes(alone)] for all_, alone, row in largest[:MOST_ROWS]]
    more = [f"... and {len(largest) - MOST_ROWS} more rows"] if len(largest) > MOST_ROWS else []
    return [*format_table(lines), *more]


def _by_age(weighed: Iterable[Weighed], wanted: set[str]) -> list[str]:
    now, groups = time.time(), dict[str, list[Weighed]]({name: [] for _, name in AGES} | {OLDER: []})
    for one in weighed:
        age = now - one.changed
        groups[next((name for limit, name in AGES if age < limit), OLDER)].append(one)
    lines = [["last changed within", "artifacts", "bytes", "no sweep wants"]]
    for name, group in groups.items():
        if group:
            all_, _, unwanted = _sizes(group, wanted)
            lines.append([name, str(sum(one.is_begun for one in group)), all_, unwanted])
    return format_table(lines)


def _describe_half_made(one: Weighed, wanted: set[str]) -> str:
    match holder_of(one.artifact.path):
        case None:
            whose = "nobody makes it"
        case who, Pulse.ALIVE:
            whose = f"{who} makes it"
        case who, Pulse.DEAD:
            whose = f"{who} made it and is dead"
        case who, _:
            whose = f"claimed by {who}"
    age = format_age(time.time() - one.changed)
    unwanted = "" if one.artifact.reference in wanted else "; no sweep wants it"
    return f"half made {one.artifact.reference}  {format_bytes(one.nbytes)}, changed {age} ago, {whose}{unwanted}"


def _files_of(folder: Path | str, name: str = "") -> Iterator[tuple[str, tuple[int, float]]]:
    """Each file in a folder, by its path there, with its bytes and the time of its last change."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):  # removed since then
        return
    with entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _files_of(entry.path, f"{name}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    yield f"{name}{entry.name}", (state.st_size, state.st_mtime)
