"""Transferring artifacts to and from a depot, a folder of artifacts at a URL: only what is missing."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

from lmsae.artifacts.artifact import Artifacts
from lmsae.artifacts.depot import Depot
from lmsae.commands.finding import find_noted
from lmsae.errors import ConfigError, DamagedArtifact, MissingArtifact
from lmsae.planning.plan import Plan
from lmsae.planning.sweeps import known_sweeps
from lmsae.runtime.numbers import format_bytes
from lmsae.runtime.remote_folder import RemoteFolder
from lmsae.stages import STAGES

Say = Callable[[str], None]


def upload(
    url: str, names: Sequence[str], stages: Collection[str], artifacts: Artifacts, *, dry_run: bool, say: Say
) -> None:
    """Send the finished artifacts that rows want or keys mean, without names those that any sweep planned here wants;
    with `stages`, only of these. With `dry_run`, tell how much would be sent.

    Raises MissingArtifact, DamagedArtifact when all others are sent, and DepotError.
    """
    if names:
        chosen = [one.reference for name in names for one in find_noted(name, artifacts)]
    else:
        chosen = [reference for sweep in known_sweeps(artifacts) for reference in sweep.references]
        if not chosen:
            raise MissingArtifact(f"no sweep was planned in {artifacts.root} yet: `lmsae plan`, or name keys.")
    wanted = [artifacts[reference] for reference in _in_order(chosen, stages)]
    made = [artifact for artifact in wanted if artifact.is_finished]
    depot, count, sent, damage = Depot(RemoteFolder(url)), 0, 0, list[str]()
    for artifact in made:
        try:
            if dry_run:
                missing = depot.missing(artifact)
                nbytes = None if missing is None else sum(file.bytes for file in missing)
            else:
                nbytes = depot.send(artifact)
        except DamagedArtifact as error:
            damage.append(str(error))
            continue
        if nbytes is not None:
            say(f"{'would send' if dry_run else 'sent'} {artifact.reference}  {format_bytes(nbytes)}")
            count, sent = count + 1, sent + nbytes
    there, unmade = len(made) - count - len(damage), len(wanted) - len(made)
    told = [f"{count} {'to send' if dry_run else 'sent'}, {format_bytes(sent)}", f"{there} there already"]
    say(", ".join([*told, *([f"{unmade} not made yet"] if unmade else [])]))
    if damage:
        raise DamagedArtifact("\n".join(damage))


def download(
    url: str,
    names: Sequence[str],
    stages: Collection[str],
    plan: Callable[[], Plan],
    artifacts: Artifacts,
    *,
    wait: bool,
    say: Say,
) -> None:
    """Fetch what rows of the plan want or keys mean, without names all that the plan wants, as far as it is in the
    depot and not here; with `stages`, only of these.

    Raises MissingArtifact if a name means nothing or the depot has nothing at all, DamagedArtifact when all others are
    fetched, and DepotError.
    """
    depot = Depot(RemoteFolder(url))
    count = fetched = there = absent = 0
    damage = list[str]()
    for reference in _in_order(_wanted(names, plan, depot), stages):
        if artifacts[reference].is_finished:
            there += 1
            continue
        try:
            account = depot.account(reference)
            if account is None:
                absent += 1
                continue
            nbytes = depot.fetch(account, artifacts, wait=wait)
        except DamagedArtifact as error:
            damage.append(str(error))
            continue
        say(f"fetched {reference}  {format_bytes(nbytes)}")
        count, fetched = count + 1, fetched + nbytes
    if absent and depot.is_empty:
        raise MissingArtifact(f"there is nothing at {depot.folder.shown}: mend the spelling, or `lmsae upload` to it.")
    lacks = f", {absent} that {depot.folder.shown} does not have" if absent else ""
    say(f"{count} fetched, {format_bytes(fetched)}, {there} here already{lacks}")
    if damage:
        raise DamagedArtifact("\n".join(damage))


def _wanted(names: Sequence[str], plan: Callable[[], Plan], depot: Depot) -> Iterable[str]:
    """The references that rows of the plan or keys mean. What is no row must be in the depot."""
    if not names:
        return [spec.reference for stage in STAGES for spec in plan().specs(stage)]
    rows = {}
    with suppress(ConfigError):  # keys need no sheet
        rows = {row.name: row for row in plan().rows}
    found = []
    for name in names:
        if name in rows:
            found += [spec.reference for spec in rows[name].specs.values()]
            continue
        stage, slash, key = name.rpartition("/")
        keys = [one for one in depot.find(key) if not slash or one.startswith(f"{stage}/")]
        if len(keys) != 1:
            several = f"begins several keys: {', '.join(keys)}" if keys else "is no row of the sweep, and no key"
            raise MissingArtifact(f"{name!r} {several} in {depot.folder.shown}.")
        found += keys
    return found


def _in_order(references: Iterable[str], stages: Collection[str]) -> list[str]:
    """References each once, in the order of the stages, parents before children; of some stages only if any is
    named."""
    order = list(STAGES)
    chosen = [one for one in dict.fromkeys(references) if not stages or one.partition("/")[0] in stages]
    known = {stage: number for number, stage in enumerate(order)}
    return sorted(chosen, key=lambda one: (known.get(one.partition("/")[0], len(order)), one))
