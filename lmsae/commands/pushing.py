"""Dictionaries on the Hugging Face hub, as a command: a folder for each, with all that loads and explains it."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.artifacts.parcel import PARCEL, Parcel, lineage_of, read_parcel, sent_of
from lmsae.commands.doctoring import ALL, evaluation_of
from lmsae.commands.finding import find_artifact
from lmsae.config import JsonObject
from lmsae.errors import ExportError, LmsaeError, MissingArtifact
from lmsae.planning.plan import Plan
from lmsae.report.card import write_card
from lmsae.runtime.numbers import format_bytes
from lmsae.runtime.repository import Repository
from lmsae.stages import DICTIONARIES
from lmsae.stages.publishing import WHY_NOT, write_saelens, write_why_not
from lmsae.stages.sites import inputs_from

CARD, EVALUATION = "README.md", "eval"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Destination:
    """A repository, and what its owner wants of it: a private one, a license, ids of Neuronpedia by dictionary."""

    repository: Repository
    private: bool = False
    license: str | None = None
    neuronpedia_ids: Mapping[str, str] | None = None


def push(
    names: Sequence[str],
    destination: Destination,
    plan: Callable[[], Plan | None],
    artifacts: Artifacts,
    results: Path,
    *,
    dry_run: bool,
    say: Say,
) -> int:
    """Upload dictionaries by the names of their rows or by keys; `all` means every row of the plan that is made.

    Only files that the repository lacks, or has with other bytes, are sent, in one commit. A dry run names all files
    and asks no network. Returns 0 if every dictionary that was named is there, else 1: what is wrong with one costs no
    other its place. Raises HubError, MissingArtifact and DamagedArtifact.
    """
    chosen, waiting = _choose(names, plan(), artifacts, results)
    ids = destination.neuronpedia_ids or {}
    if unknown := sorted(ids.keys() - {name for name, _ in chosen}):
        raise MissingArtifact(f"--neuronpedia-id names {unknown[0]}, which is not among what is pushed.")
    if not dry_run:
        destination.repository.require_token()
    with tempfile.TemporaryDirectory() as folder:
        parcels, files, lost = [], dict[str, Path](), list[str]()
        for name, made in chosen:
            try:
                parcel, own = _pack(name, made, artifacts, Path(folder), ids.get(name))
            except LmsaeError as error:
                if len(chosen) == 1:
                    raise
                lost.append(f"{name}: {error}")
                continue
            parcels.append(parcel)
            files |= own
        if not parcels:
            raise MissingArtifact("\n".join(["no dictionary can be pushed.", *lost]))
        if dry_run:
            _tell(parcels, files, destination, Path(folder), say)
        else:
            _send(parcels, files, destination, Path(folder), say)
    for line in (*lost, *(f"{name}: not made yet" for name in waiting)):
        say(line)
    return 1 if lost or waiting else 0


def _choose(
    names: Sequence[str], plan: Plan | None, artifacts: Artifacts, results: Path
) -> tuple[list[tuple[str, Artifact]], list[str]]:
    """The dictionaries to push with the names of their folders, and the rows of the plan that are not made yet."""
    if ALL in names:
        if plan is None:
            raise MissingArtifact("the sheet has faults, which `lmsae plan` lists: mend them, or name keys.")
        rows = [(row.name, artifacts[row.dictionary.reference]) for row in plan.rows]
        made = [(name, one) for name, one in rows if one.is_finished]
        if not made:
            raise MissingArtifact("no row of the sweep is made yet: `lmsae run` makes all of it.")
        return made, [name for name, one in rows if not one.is_finished]
    found = {}
    for name in names:
        artifact = find_artifact(name, artifacts, results, lambda: plan)
        if artifact.path.parent.name not in DICTIONARIES:
            raise MissingArtifact(
                f"{artifact.reference} is no dictionary: name a row, or its {DICTIONARIES[0]} artifact."
            )
        artifact.manifest()
        rows = [row.name for row in plan.rows if row.dictionary.reference == artifact.reference] if plan else []
        asked = name.partition("/")[0]
        is_row = (results / "rows" / asked).is_dir() or asked in rows
        found[asked if is_row else rows[0] if rows else artifact.path.name] = artifact
    return list(found.items()), []


def _pack(
    name: str, made: Artifact, artifacts: Artifacts, folder: Path, neuronpedia_id: str | None
) -> tuple[Parcel, dict[str, Path]]:
    """The parcel of a dictionary, and its files by their paths in the repository. `folder` takes what is written anew.

    Raises MissingArtifact and DamagedArtifact."""
    made.require_intact()
    try:
        evaluation = evaluation_of(made, artifacts).require_intact()
    except MissingArtifact:
        evaluation = None
    own = folder / name
    own.mkdir()
    more = {"neuronpedia_id": neuronpedia_id} if neuronpedia_id else {}
    in_saelens = True
    try:
        write_saelens(made, evaluation, artifacts, own, more)
    except ExportError as error:
        write_why_not(made, own, error)
        in_saelens = False
    sent = {made.reference: sent_of(made, "")}
    if evaluation:
        sent[evaluation.reference] = sent_of(evaluation, EVALUATION)
    reads, writes = _places(made, evaluation, artifacts)
    parcel = Parcel(
        name=name,
        dictionary=made.reference,
        evaluation=evaluation.reference if evaluation else None,
        reads=reads,
        writes=writes,
        in_saelens=in_saelens,
        neuronpedia_id=neuronpedia_id,
        metrics=_metrics(evaluation) if evaluation else {},
        # In the order that a file has, so that a card is the same text whether its parcels were read or made.
        specs=dict(sorted(lineage_of(list(sent), artifacts).items())),
        sent=dict(sorted(sent.items())),
    )
    parcel.write(own)
    files = {f"{name}/{file.name}": file for file in sorted(own.iterdir())}
    for reference, one in sent.items():
        inside = "/".join(filter(None, (name, one.folder)))
        files |= {f"{inside}/{entry.path}": artifacts[reference].path / entry.path for entry in one.files}
    return parcel, files


def _metrics(evaluation: Artifact) -> JsonObject:
    """The metrics of an evaluation that are single numbers."""
    metrics = json.loads((evaluation.path / "metrics.json").read_text("utf-8"))
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _places(
    made: Artifact, evaluation: Artifact | None, artifacts: Artifacts
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The hook points that a dictionary reads and writes, as far as training or evaluation know them."""
    spec = made.spec()
    if "sites" in spec.config:
        names = [artifacts[one].spec().config["hook_point"] for one in inputs_from("activations", spec.inputs)]
        sites = spec.config["sites"]
    elif evaluation:
        config = evaluation.spec().config
        names, sites = [place["hook_point"] for place in config["places"]], config["sites"]
    else:
        return (), ()
    reads, writes = (tuple(names[site] for site in sites[side]) for side in ("reads", "writes"))
    return reads, writes


def _tell(parcels: Sequence[Parcel], files: Mapping[str, Path], to: Destination, folder: Path, say: Say) -> None:
    """Say what a push would send, with the card of these dictionaries alone."""
    files = {CARD: _write_card(parcels, to, folder, ""), **files}
    for path, file in sorted(files.items()):
        say(f"{format_bytes(file.stat().st_size):>10}  {path}")
    total = format_bytes(sum(file.stat().st_size for file in files.values()))
    what = f"{len(parcels)} dictionar{'y' if len(parcels) == 1 else 'ies'}, {len(files)} files, {total}"
    say(f"{what} would go to {to.repository.name}. Nothing was sent, and the hub was not asked what it has.")


def _send(parcels: Sequence[Parcel], files: Mapping[str, Path], to: Destination, folder: Path, say: Say) -> None:
    repository = to.repository
    repository.make(private=to.private)
    there = repository.files()
    others = list(_others(parcels, repository, list(there), say))
    old = repository.read(CARD) if CARD in there else ""
    everything = sorted([*parcels, *others], key=lambda parcel: parcel.name)
    files = {CARD: _write_card(everything, to, folder, old), **files}
    missing = {path: file for path, file in files.items() if path not in there or not there[path].is_like(file)}
    for parcel in (one for one in parcels if not one.in_saelens):
        say(f"{parcel.name}: for lmsae only; {parcel.name}/{WHY_NOT} says why")
    if not missing:
        say(f"{repository.name} has all {len(files)} files already")
        return
    count = (
        f"{len(missing)} of {len(files)} files ({format_bytes(sum(one.stat().st_size for one in missing.values()))})"
    )
    say(f"sending {count} to {repository.name}; the others are there")
    names = ", ".join(parcel.name for parcel in parcels[:5]) + (" ..." if len(parcels) > 5 else "")
    say(f"sent: {repository.send(missing, f'Upload {names} with lmsae')}")


def _others(parcels: Sequence[Parcel], repository: Repository, there: Sequence[str], say: Say) -> Iterator[Parcel]:
    """The dictionaries that earlier pushes brought into a repository, which its card is of, too."""
    ours = {f"{parcel.name}/{PARCEL}" for parcel in parcels}
    others = sorted(path for path in there if path.endswith(f"/{PARCEL}") and path.count("/") == 1 and path not in ours)
    folder = repository.fetch(others) if others else Path()
    for path in others:
        try:
            yield read_parcel((folder / path).read_text("utf-8"), Path(path))
        except LmsaeError as error:
            say(f"{error} The card leaves it out.")


def _write_card(parcels: Sequence[Parcel], to: Destination, folder: Path, old: str) -> Path:
    repository, card = to.repository, folder / CARD
    card.write_text(
        write_card(parcels, repository.name, revision=repository.revision, license=to.license, old=old), "utf-8"
    )
    return card
