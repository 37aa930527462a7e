"""The Hugging Face hub and its cache on this machine: the commit that a revision means, and the files of a commit."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

RepositoryKind = Literal["model", "dataset"]
Reason = Literal["name", "gated", "revision", "repository"]

PATIENCE_S = 5.0
"""The time that the hub gets to answer: a plan must not hang on it."""


class Refused(Exception):
    """The hub's answer is no: it is no possible name, asks for access first, or has no such revision or repository."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Unreachable(Exception):
    """The hub did not answer, or not in full; the text is the kind and the first line of the client's error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(" ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]]))


def ask_commit(kind: RepositoryKind, name: str, revision: str | None) -> str:
    """The commit of a repository's revision, None being its main branch, by the hub itself and within seconds.

    Raises Refused or Unreachable.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=PATIENCE_S)
    except HFValidationError:
        raise Refused("name") from None
    except GatedRepoError:
        raise Refused("gated") from None
    except RevisionNotFoundError:
        raise Refused("revision") from None
    except RepositoryNotFoundError:
        raise Refused("repository") from None
    except Exception as error:  # requests', httpx's or httpx2's, by version of the hub's client
        raise Unreachable(error) from error
    assert found.sha is not None, "the hub names the commit of every revision"
    return found.sha


def cached_commit(kind: RepositoryKind, name: str, revision: str | None) -> str | None:
    """The commit that the local cache holds of a revision; without one, of the main branch, or else the newest."""
    folder = _cache(kind, name)
    reference = folder / "refs" / (revision or "main")
    if reference.is_file():
        return reference.read_text().strip()
    if revision is not None:
        return revision if (folder / "snapshots" / revision).is_dir() else None
    snapshots = sorted((folder / "snapshots").glob("*"), key=lambda path: (path.stat().st_mtime, path.name))
    return snapshots[-1].name if snapshots else None


def remember_commit(kind: RepositoryKind, name: str, revision: str | None, commit: str) -> None:
    """Note in the local cache which commit a branch or tag means, so that it can be resolved without a network.

    The hub's client notes it only when it downloads by branch, and lmsae downloads by commit.
    """
    if revision != commit:
        reference = _cache(kind, name) / "refs" / (revision or "main")
        with suppress(OSError):  # a cache that is shared and read-only
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit)


def cached_files(name: str, commit: str, patterns: list[str]) -> Path | None:
    """The folder of a model's commit in the local cache, perhaps without some of the files, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def snapshot_folder(name: str, commit: str) -> Path:
    """The folder of a model's commit in the local cache, whether it is there or not, and whole or not."""
    return _cache("model", name) / "snapshots" / commit


def download_files(name: str, commit: str, patterns: list[str]) -> Path:
    """Download the files of a model's commit that match the patterns; returns their folder. Raises Unreachable."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=patterns))
    except Exception as error:  # requests', httpx's or httpx2's, by version of the hub's client
        raise Unreachable(error) from error


def _cache(kind: RepositoryKind, name: str) -> Path:
    """The folder of a repository in the local cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type=kind))
