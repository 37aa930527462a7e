"""Dictionaries from the Hugging Face hub, as a command: a folder of a repository, checked, and their artifacts."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from lmsae.artifacts.artifact import Artifacts, digest_of_file
from lmsae.artifacts.inside import require_inside
from lmsae.artifacts.parcel import PARCEL, Parcel, read_parcel
from lmsae.errors import ArtifactError, DamagedArtifact, HubError, suggest
from lmsae.interop.located import parse
from lmsae.runtime.disk import explain_full_disk, require_space
from lmsae.runtime.drafts import draft_of
from lmsae.runtime.numbers import format_bytes
from lmsae.runtime.repository import Remote, Repository

OF_THE_HUB = ".gitattributes"
"""A file that the hub itself puts into every repository."""


def pull(name: str, folder: Path | None, artifacts: Artifacts, *, restore: bool, say: Callable[[str], None]) -> Path:
    """Fetch `owner/name[@revision][:path]` into a folder, one of the name's last part by default; returns the folder.

    With `restore` the dictionaries and evaluations that lmsae pushed go back among the artifacts as well: rows that
    want them find them made. What is in the folder already and has the same bytes stays. Raises HubError, ArtifactError
    if a file of other bytes is in the way, and DamagedArtifact if a file is not what was pushed.
    """
    place = parse(name)
    if place is None or place.release:
        raise HubError(f"{name!r} is no place on the hub; wanted: owner/name[@revision][:folder].")
    repository = Repository(place.name, place.revision)
    pinned = Repository(place.name, repository.commit())
    there = {path: one for path, one in pinned.files().items() if path != OF_THE_HUB}
    wanted = _inside(place.folder, there, name)
    target = folder or Path(PurePosixPath(place.folder or place.name).name)
    nbytes = sum(there[path].nbytes for path in wanted.values())
    require_space(target, nbytes, "pull one folder, owner/name:folder", "name a folder on another disk")
    fetched = pinned.fetch(list(wanted.values()))
    files = {path: fetched / whole for path, whole in wanted.items()}
    _require_free(files, target)
    with explain_full_disk(target):
        for path, file in files.items():
            _copy(file, target / path)
    say(f"{target} holds {len(files)} files ({format_bytes(nbytes)}) of {place.name} at {pinned.revision}")
    parcels = list(_parcels(files, target))
    if restore and not parcels:
        raise HubError(f"{name}: lmsae did not push it, so there is no artifact to restore; {target} holds the files.")
    for one, parcel in parcels:
        if damage := parcel.damaged_files(one):
            raise DamagedArtifact("\n".join([*damage, f"{name} is not what was pushed; push it again."]))
        for reference in parcel.restore(one, artifacts) if restore else ():
            say(f"restored {artifacts[reference].path}")
    return target


def _inside(folder: str, there: dict[str, Remote], name: str) -> dict[str, str]:
    """The paths of the files in a folder of a repository, relative to it, with their whole paths."""
    before = f"{folder}/" if folder else ""
    found = {path.removeprefix(before): path for path in there if path.startswith(before)}
    if not found:
        folders = sorted({path.rpartition("/")[0] for path in there} - {""})
        known = suggest(folder, folders) or (f"; it has {', '.join(folders[:10])}" if folders else "; it is empty")
        raise HubError(f"{name}: the repository has no folder {folder!r}{known}.")
    return {require_inside(path, Path(name)): whole for path, whole in found.items()}


def _require_free(files: dict[str, Path], target: Path) -> None:
    """Raise ArtifactError if anything of other bytes stands where a file is to go, or a link leads out of there."""
    for path, file in files.items():
        there = target / path
        if not there.resolve().is_relative_to(target.resolve()):
            raise ArtifactError(f"{there} leads out of {target} by a link. Name a new folder.")
        if os.path.lexists(there) and not (there.is_file() and digest_of_file(there) == digest_of_file(file)):
            raise ArtifactError(f"{there} is there already, with other bytes. Name a new folder, or move it away.")


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(target) as draft:
            shutil.copyfile(source, draft)


def _parcels(files: Iterable[str], target: Path) -> Iterator[tuple[Path, Parcel]]:
    """The parcels among some files, each with its folder."""
    for path in sorted(files):
        file = target / path
        if file.name == PARCEL:
            yield file.parent, read_parcel(file.read_text("utf-8"), file)
