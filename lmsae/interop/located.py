"""The place of a finished dictionary: as a user names it, and the files there. No torch.

FOLDER                            a folder on this machine
owner/name[@revision][:folder]    a repository of the hub, and the folder in it
KEY, train/KEY or import/KEY      a dictionary among the artifacts, by its key or the first digits of it
RELEASE:ID                        an entry of SAELens' table, where sae_lens is installed: a folder on the hub
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lmsae.errors import FolderError, suggest
from lmsae.interop.finished import FILES, Format, Release, Repository
from lmsae.runtime import hub

_ON_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([^:]+))?(?::(.+))?", re.ASCII)
_RELEASE = re.compile(r"([^/:@]+):(.+)")
KEY = re.compile(r"(?:(?:train|import)/)?[0-9a-f]{4,16}")
CONFIGS = tuple(dict.fromkeys(config for config, _ in FILES.values()))


class OnHub(NamedTuple):
    """A folder of a repository on the hub, as a user names it."""

    name: str
    revision: str | None
    folder: str
    release: Release | None = None


def parse(name: str) -> OnHub | None:
    """The place on the hub that a name means, or None if it has the form of none. Raises FolderError for a release that
    cannot be looked up."""
    if (match := _ON_HUB.fullmatch(name)) is not None:
        return OnHub(match[1], match[2], _inside(match[3] or "", name))
    if (match := _RELEASE.fullmatch(name)) is not None:
        return _look_up(match[1], match[2])
    return None


def commit_of(place: OnHub) -> str:
    """The commit that a place's revision means now or, without a network, meant last. Raises FolderError."""
    try:
        commit = _ask_commit(place)
    except hub.Unreachable as error:
        if (cached := hub.cached_commit("model", place.name, place.revision)) is not None:
            return cached
        raise FolderError(_say_unreachable(place.name, error)) from None
    hub.remember_commit("model", place.name, place.revision, commit)
    return commit


def _ask_commit(place: OnHub) -> str:
    """The commit by the hub itself. Raises FolderError if the hub refuses, and hub.Unreachable."""
    try:
        return hub.ask_commit("model", place.name, place.revision)
    except hub.Refused as refused:
        reason = {
            "name": "that is no possible name on the hub",
            "gated": "it is gated: ask for access on its hub page, then `hf auth login`",
            "revision": f"it has no revision {place.revision!r}",
            "repository": "there is no such folder, and the hub has no such repository, or it is private: mend the "
            "spelling, or `hf auth login`",
        }[refused.reason]
        raise FolderError(f"{place.name}: {reason}.") from None


def fetch(repository: Repository, names: Sequence[str]) -> Path:
    """The local folder with such files of a repository's folder, those of them that it has: from the cache of the hub's
    client, or else downloaded. Raises FolderError if the hub cannot be reached."""
    name, commit, folder = repository.name, repository.commit, repository.folder
    patterns = [f"{folder}/{one}" if folder else one for one in names]
    cached = hub.cached_files(name, commit, patterns)
    if cached is not None and any((cached / pattern).is_file() for pattern in patterns):
        known = [pattern for pattern in patterns if (cached / pattern).is_file()]
        if len(known) == len(patterns) or names == CONFIGS:
            return cached / folder
    try:
        _ask_commit(
            OnHub(name, commit, folder)
        )  # offline, a download would give back the folder as it is, and no error
        return hub.download_files(name, commit, patterns) / folder
    except hub.Unreachable as error:
        raise FolderError(_say_unreachable(f"{name} at {commit}", error)) from None


def digest_of(folder: Path, kind: Format, digest_of_file: Callable[[Path], str]) -> str:
    """One digest for the files of a dictionary, whatever their folder is called: `blake3:` and 16 digits of the sha256
    of their digests and names. Raises FolderError if one is missing."""
    for name in FILES[kind]:
        if not (folder / name).is_file():
            raise FolderError(f"{folder / name}: there is no such file; a dictionary of {kind} has it.")
    lines = "".join(f"{digest_of_file(folder / name)}  {name}\n" for name in FILES[kind])
    return f"blake3:{hashlib.sha256(lines.encode()).hexdigest()[:16]}"


def _inside(folder: str, name: str) -> str:
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts:
        raise FolderError(f"{name}: {folder!r} leads out of the repository; name a folder in it.")
    return "" if path == PurePosixPath(".") else path.as_posix()


def _look_up(release: str, entry: str) -> OnHub:
    """The place of an entry of SAELens' table, which is read without importing SAELens."""
    found = find_spec("sae_lens")
    table = Path(found.origin).with_name("pretrained_saes.yaml") if found and found.origin else None
    if table is None or not table.is_file():
        raise FolderError(
            f"{release}:{entry} would be an entry of SAELens' table, and SAELens is not installed: `pip install "
            "sae-lens`, or name the repository and folder itself, owner/name:folder."
        )
    import yaml

    releases = yaml.load(table.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if release not in releases:
        raise FolderError(f"SAELens' table has no release {release!r}{suggest(release, releases) or '.'}")
    known = {one["id"]: one for one in releases[release].get("saes", ())}
    if entry not in known:
        raise FolderError(f"SAELens' release {release} has no {entry!r}{suggest(entry, known) or '.'}")
    return OnHub(releases[release]["repo_id"], None, known[entry]["path"], Release(name=release, entry=entry))


def _say_unreachable(what: str, error: Exception) -> str:
    return (
        f"{what} cannot be had. Tried: a local folder of that name (none); the hub ({error}); its cache here. "
        "Mend the spelling or the network, or name a local folder."
    )
