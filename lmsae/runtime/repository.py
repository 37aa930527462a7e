"""A model repository on the Hugging Face hub: what it holds, files sent to it in one commit, files fetched from it."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from lmsae.errors import HubError, LmsaeError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_BLOCK = 1 << 20
_NEW_TOKEN = "make one that may write at https://huggingface.co/settings/tokens"
_KEPT = "what has arrived is kept"
_OF_CLIENTS = ("requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2", "hf_xet")
"""The packages whose errors say that nothing was reached, by version of the hub's client."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of a repository: its size, and the digest that the hub has of it, sha256 of a large one and git's of
    another."""

    nbytes: int
    sha256: str | None
    git: str

    def is_like(self, file: Path) -> bool:
        """True if a file on this machine has these bytes."""
        if file.stat().st_size != self.nbytes:
            return False
        if self.sha256 is not None:
            return _digest(file, hashlib.sha256()) == self.sha256
        return _digest(file, hashlib.sha1(b"blob %d\0" % self.nbytes, usedforsecurity=False)) == self.git


def _digest(file: Path, digest: Any) -> str:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of models on the hub, at a branch, tag or commit; None is its main branch."""

    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise HubError(f"{self.name!r} is no possible name on the hub; wanted: owner/name.")

    def require_token(self) -> None:
        """Raise HubError if this machine has no token of the hub. The hub says later whether it is a good one."""
        from huggingface_hub import get_token

        if not get_token():
            raise HubError(f"there is no token of the hub here: `hf auth login`, or set HF_TOKEN; {_NEW_TOKEN}.")

    def make(self, *, private: bool) -> None:
        """Create the repository and the branch, unless they are there. Raises HubError, also if the repository is
        public and `private` is asked for."""
        from huggingface_hub import HfApi

        api = HfApi()
        with self._explained():
            api.create_repo(self.name, private=private or None, exist_ok=True)
            if private and not api.repo_info(self.name).private:
                raise HubError(
                    f"{self.name} is there already, and public: leave --private away, name another repository, or make "
                    f"it private at {api.endpoint}/{self.name}/settings."
                )
            if self.revision and not self.revision.startswith("refs/"):
                api.create_branch(self.name, branch=self.revision, exist_ok=True)

    def commit(self) -> str:
        """The commit that the revision means now. Raises HubError."""
        from huggingface_hub import HfApi

        with self._explained():
            found = HfApi().repo_info(self.name, revision=self.revision)
        assert found.sha is not None, "the hub names the commit of every revision"
        return found.sha

    def files(self) -> dict[str, Remote]:
        """All files that it holds, by their paths. Raises HubError."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        with self._explained():
            tree = list(HfApi().list_repo_tree(self.name, recursive=True, revision=self.revision))
        found = [one for one in tree if isinstance(one, RepoFile)]
        return {one.path: Remote(one.size, one.lfs.sha256 if one.lfs else None, one.blob_id) for one in found}

    def send(self, files: Mapping[str, Path], message: str) -> str:
        """Send files, by their paths in the repository, in one commit; returns the commit's page. Raises HubError.

        Large files go first, each by itself. After an interruption those that arrived are not sent again.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        additions = [CommitOperationAdd(path, file) for path, file in files.items()]
        with self._explained():
            info = HfApi().create_commit(self.name, additions, commit_message=message, revision=self.revision)
        return str(info.commit_url)

    def read(self, path: str) -> str:
        """The text of a small file. Raises HubError."""
        from huggingface_hub import hf_hub_download

        with self._explained():
            return Path(hf_hub_download(self.name, path, revision=self.revision)).read_text("utf-8")

    def fetch(self, paths: Sequence[str]) -> Path:
        """The local folder, in the cache of the hub's client, with such files of a commit. Raises HubError."""
        from huggingface_hub import snapshot_download

        with self._explained():
            patterns = [re.sub(r"([*?\[])", r"[\1]", path) for path in paths]
            return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=patterns))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """While this is entered, what the hub's client raises becomes a HubError that says how to mend it.

        Its own messages are not passed on as they are: they are of many lines, for programmers.
        """
        try:
            yield
        except LmsaeError:
            raise
        except Exception as error:
            if (told := self._tell(_root_of(error))) is None:
                raise
            raise HubError(f"{self.name}: {told}.") from None

    def _tell(self, error: Exception) -> str | None:
        """The words for an error of the hub's client; None for one that is not of the hub."""
        from huggingface_hub import errors

        if isinstance(error, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so the hub is not asked; unset it and run again"
        if isinstance(error, errors.HFValidationError):
            return "that is no possible name on the hub, wanted: owner/name"
        if isinstance(error, errors.GatedRepoError):
            return "it is gated; ask for access on its hub page, then `hf auth login`"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"it has no revision {self.revision!r}; mend the spelling"
        if isinstance(error, errors.RepositoryNotFoundError):
            return "the hub has no such repository, or it is private; mend the spelling, or `hf auth login`"
        if isinstance(error, errors.HfHubHTTPError):
            return self._tell_status(error)
        lost = (ConnectionError, TimeoutError, errors.LocalEntryNotFoundError, errors.FileMetadataError)
        if isinstance(error, lost) or type(error).__module__.split(".")[0] in _OF_CLIENTS:
            return f"the hub cannot be reached ({_first_line(error)}); mend the network and run again, {_KEPT}"
        if type(error) in (RuntimeError, ValueError):  # of the client's part that sends files
            return f"the hub's client has failed ({_first_line(error)}); run again, {_KEPT}"
        return None

    def _tell_status(self, error: Any) -> str:
        """The words for an answer of the hub that is an error."""
        status = int(error.response.status_code)
        if status == HTTPStatus.UNAUTHORIZED:
            return f"the hub does not know your token; `hf auth login`, or set HF_TOKEN to another: {_NEW_TOKEN}"
        if status == HTTPStatus.FORBIDDEN:
            return f"your token may not do this there; {_NEW_TOKEN}, or name a repository of your own"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            wait = error.response.headers.get("Retry-After")
            when = f"in {wait} seconds" if wait else "later"
            return f"the hub's limit of requests is reached; run again {when}, {_KEPT}"
        if status in (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED):
            return "somebody else has changed it at the same time; run again"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return f"the hub answers with error {status}; run again later, {_KEPT}"
        said = " ".join(str(error.server_message or "").split())[:300]
        return f"the hub answers with error {status}{f' ({said})' if said else ''}; mend that and run again"


def _first_line(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])


def _root_of(error: Exception) -> Exception:
    """The error behind one that says only that an upload or a download has failed."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while type(error) is RuntimeError or isinstance(error, LocalEntryNotFoundError):
        if not isinstance(error.__cause__, Exception):
            break
        error = error.__cause__
    return error
