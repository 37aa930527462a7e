"""A depot: artifacts in a folder at a URL, each file by its digest.

    URL/<stage>/<key>/<blake3>        a file of the artifact
                      artifact.json   its spec, its files and its provenance; written last: its presence means whole

Files that have one digest have the same bytes, so two machines that send one artifact at once do each other no harm,
even if theirs differ in the last bits: the account that is written last names its own files.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from lmsae.artifacts.artifact import NOT_PAYLOAD, Artifact, Artifacts, Spec, digest_of_file
from lmsae.artifacts.claim import hold_claim
from lmsae.artifacts.inside import require_inside
from lmsae.artifacts.parcel import SentFile, sent_of
from lmsae.config import Frozen, JsonObject
from lmsae.errors import DamagedArtifact, MissingArtifact
from lmsae.runtime.disk import explain_full_disk, require_space
from lmsae.runtime.remote_folder import RemoteFolder

ACCOUNT, DOWNLOAD = "artifact.json", "download"
BLOCK = 1 << 25
"""Bytes that are read at once."""
AT_ONCE = 8
"""Files that are on their way at once."""


class StoredFile(SentFile):
    """A file of an artifact, which lies in the depot by its digest."""

    blake3: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Account(Frozen):
    """The contents of artifact.json."""

    version: Literal[1] = 1
    spec: Spec
    files: tuple[StoredFile, ...]
    provenance: JsonObject = Field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True, slots=True)
class Depot:
    """The artifacts in a folder at a URL. Every method may raise DepotError."""

    folder: RemoteFolder

    @property
    def is_empty(self) -> bool:
        """Nothing is there, or there is no such folder."""
        return not self.folder.names("*")

    def account(self, reference: str) -> Account | None:
        """The account of an artifact that is whole in the depot; None if it is not there. Raises DamagedArtifact if it
        is that of another artifact, or none."""
        place = f"{self.folder.shown}/{reference}/{ACCOUNT}"
        try:
            account = Account.model_validate_json(self.folder.read(f"{reference}/{ACCOUNT}"))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            problem = error.errors()[0]
            where = ", ".join([place, *filter(None, [".".join(map(str, problem["loc"]))])])
            raise DamagedArtifact(f"{where}: {problem['msg']}. {_AGAIN}") from None
        if account.spec.reference != reference:
            raise DamagedArtifact(f"{place}: it is that of {account.spec.reference}. {_AGAIN}")
        for file in account.files:
            first = require_inside(file.path, Path(place)).partition("/")[0]
            if first in {*NOT_PAYLOAD, DOWNLOAD} or first.startswith(".claim"):
                raise DamagedArtifact(f"{place}: names the file {file.path}, which no stage writes. {_AGAIN}")
        return account

    def find(self, key: str) -> list[str]:
        """The references of what is whole there and has a key that begins so."""
        return [name.rpartition("/")[0] for name in self.folder.names(f"*/{key}*/{ACCOUNT}")]

    def missing(self, artifact: Artifact) -> list[StoredFile] | None:
        """The files of a finished artifact that the depot lacks, each digest once; None if the artifact is whole
        there."""
        there = self.folder.sizes(artifact.reference)
        if ACCOUNT in there:
            account = self.account(artifact.reference)
            if account and not _lacking(account, there):
                return None
        return _lacking(_account_of(artifact), there)

    def send(self, artifact: Artifact) -> int | None:
        """Send the files of a finished artifact that the depot lacks, then its account; returns their bytes, or None if
        the artifact was whole there already. Raises DamagedArtifact, and sends nothing of that file, if a file is not
        what was written."""
        missing = self.missing(artifact)
        if missing is None:
            return None
        account = _account_of(artifact)
        with _each_at_once() as pool:
            for _ in pool.map(lambda file: self._send_file(artifact, file), missing):
                pass
        there = self.folder.sizes(artifact.reference)
        if lacking := _lacking(account, there):
            raise DamagedArtifact(
                f"{self.folder.shown}/{artifact.reference}/{lacking[0].blake3} has {there.get(lacking[0].blake3, 0):,} "
                f"bytes after it was sent, not {lacking[0].bytes:,}; somebody else has written there. Run it again."
            )
        self.folder.write(f"{artifact.reference}/{ACCOUNT}", account.text.encode())
        return sum(file.bytes for file in missing)

    def fetch(self, account: Account, artifacts: Artifacts, *, wait: bool) -> int:
        """Fetch an artifact and publish it among those here; returns the bytes that were fetched. What an interrupted
        call has fetched is not fetched again. Raises DamagedArtifact, and publishes nothing, if any file is not what it
        was, and BusyArtifact while another process makes the artifact."""
        artifact = artifacts.add(account.spec)
        staging = artifact.path / DOWNLOAD
        require_space(artifact.path, account.nbytes, "download fewer artifacts (--stage)")
        with explain_full_disk(artifact.path), hold_claim(artifact.path, wait=wait) as claims:
            if artifact.is_finished:
                return 0
            staging.mkdir(exist_ok=True)
            files = {file.blake3: file for file in account.files}.values()
            with _each_at_once() as pool:
                fetched = sum(pool.map(lambda file: self._fetch_file(account.spec.reference, file, staging), files))
            claims.require(artifact.path)
            artifact.clear({DOWNLOAD})
            uses = Counter(file.blake3 for file in account.files)
            for file in account.files:
                target = artifact.path / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                uses[file.blake3] -= 1
                (shutil.copyfile if uses[file.blake3] else shutil.move)(staging / file.blake3, target)
            shutil.rmtree(staging)
            provenance = {**account.provenance, "downloaded_from": self.folder.shown}
            artifact.publish(provenance, lambda: claims.require(artifact.path))
        return fetched

    def _send_file(self, artifact: Artifact, file: StoredFile) -> None:
        local = artifact.path / file.path
        if digest_of_file(local) != file.blake3:
            raise DamagedArtifact(f"{local}: its bytes are not those that were written. `lmsae verify` names the mend.")
        self.folder.send(local, f"{artifact.reference}/{file.blake3}")

    def _fetch_file(self, reference: str, file: StoredFile, staging: Path) -> int:
        """Fetch a file into the folder for what has arrived, under its digest; returns the bytes that were fetched."""
        target, part = staging / file.blake3, staging / f"{file.blake3}.part"
        if target.exists():
            return 0
        have = part.stat().st_size if part.exists() else 0
        if have > file.bytes:
            part.unlink()
            have = 0
        path = f"{reference}/{file.blake3}"
        try:
            with part.open("ab") as out:
                for start in range(have, file.bytes, BLOCK):
                    out.write(self.folder.read(path, start, min(start + BLOCK, file.bytes)))
        except FileNotFoundError:
            raise DamagedArtifact(f"{self.folder.shown}/{path} ({file.path}) is missing. {_AGAIN}") from None
        if part.stat().st_size == file.bytes and digest_of_file(part) == file.blake3:
            part.replace(target)
            return file.bytes - have
        part.unlink()
        if have:  # perhaps it was what an interrupted call left that is damaged
            return self._fetch_file(reference, file, staging)
        raise DamagedArtifact(
            f"{self.folder.shown}/{path}: {file.path} of {reference} is not what was sent. Delete that file there, and "
            "upload the artifact again from where it was made; or make it here (`lmsae run`)."
        )


_AGAIN = "Upload the artifact again from where it was made, or make it here (`lmsae run`)."


def _account_of(artifact: Artifact) -> Account:
    if not artifact.is_finished:
        raise MissingArtifact(f"{artifact.reference} is not finished.")
    sent = sent_of(artifact, "")
    files = tuple(StoredFile(**file.model_dump()) for file in sent.files)
    return Account(spec=artifact.spec(), files=files, provenance=sent.provenance)


def _lacking(account: Account, there: Mapping[str, int]) -> list[StoredFile]:
    """The files of an account, each digest once, that are not there with all their bytes."""
    files = {file.blake3: file for file in account.files}
    return [file for digest, file in files.items() if there.get(digest) != file.bytes]


class _Pool(ThreadPoolExecutor):
    """Threads that begin nothing more once one of them has failed."""

    def __exit__(self, *error: object) -> None:
        self.shutdown(wait=True, cancel_futures=error[0] is not None)


def _each_at_once() -> _Pool:
    return _Pool(AT_ONCE)
