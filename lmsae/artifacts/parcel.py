"""A parcel: artifacts that leave their folder for others, with all that says what they are, in one file beside them."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from lmsae.artifacts.artifact import RUN, Artifact, Artifacts, Spec, digest_of_file
from lmsae.artifacts.claim import hold_claim
from lmsae.artifacts.inside import require_inside, require_reference
from lmsae.config import Frozen, JsonObject
from lmsae.errors import DamagedArtifact, FolderError
from lmsae.runtime.disk import explain_full_disk, require_space

PARCEL = "lmsae.json"
TOLD = ("finished", "lmsae", "commit", "device", "python", "libraries")
"""The facts of run.json that leave this machine: its name and its folders do not."""


class SentFile(Frozen):
    """A file of an artifact, by its path there, with its size and digest."""

    path: str
    bytes: int
    blake3: str


class Sent(Frozen):
    """An artifact in a parcel: the folder of its files within the parcel's, what its manifest says of them, and its
    provenance."""

    folder: str = ""
    files: tuple[SentFile, ...]
    provenance: JsonObject = Field(default_factory=dict)


class Parcel(Frozen):
    """The contents of lmsae.json: the artifacts of one dictionary, the specs of all that they were made from, and what
    people ask of it first."""

    model_config = ConfigDict(extra="ignore")  # a later lmsae may say more

    version: Literal[1] = 1
    name: str
    dictionary: str
    evaluation: str | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    in_saelens: bool = False
    neuronpedia_id: str | None = None
    metrics: JsonObject = Field(default_factory=dict)
    specs: dict[str, Spec]
    sent: dict[str, Sent]

    def write(self, folder: Path) -> None:
        """Write lmsae.json; the same bytes for the same parcel."""
        (folder / PARCEL).write_text(json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n", "utf-8")

    def damaged_files(self, folder: Path) -> list[str]:
        """A line for each file in the parcel's folder that is missing or has other bytes than its artifact had."""
        damage = []
        for file, entry in self._files(folder):
            if not file.is_file():
                damage.append(f"{file}: missing")
            elif digest_of_file(file) != entry.blake3:
                damage.append(f"{file}: its bytes are not those that were written")
        return damage

    def restore(self, folder: Path, artifacts: Artifacts) -> list[str]:
        """Put the artifacts of a parcel back in their place, with the specs of all that they were made from; returns
        the references of those that were not there. Raises DamagedArtifact if any file is not what it was."""
        if damage := self.damaged_files(folder):
            raise DamagedArtifact("\n".join([*damage, "Nothing was restored. Fetch the folder anew."]))
        for spec in self.specs.values():
            artifacts.add(spec)
        return [reference for reference in self.sent if self._restore(reference, folder, artifacts)]

    def _restore(self, reference: str, folder: Path, artifacts: Artifacts) -> bool:
        sent, artifact = self.sent[reference], artifacts.own(reference)
        if artifact.is_finished:
            return False
        require_space(artifact.path, sum(entry.bytes for entry in sent.files), "restore fewer")
        with explain_full_disk(artifact.path), hold_claim(artifact.path):
            artifact.clear()
            for entry in sent.files:
                (artifact.path / entry.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / sent.folder / entry.path, artifact.path / entry.path)
            artifact.publish(sent.provenance)
        return True

    def _files(self, folder: Path) -> Iterator[tuple[Path, SentFile]]:
        for sent in self.sent.values():
            yield from ((folder / sent.folder / entry.path, entry) for entry in sent.files)


def read_parcel(text: str, file: Path) -> Parcel:
    """The parcel that a text describes, which `file` holds. Raises FolderError if it is none, DamagedArtifact if it
    names a file elsewhere or a spec by another key than its own."""
    try:
        parcel = Parcel.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise FolderError(
            f"{file}, {where}: {problem['msg']}. It is no parcel of lmsae, is damaged, or a later lmsae wrote it."
        ) from None
    for reference, spec in parcel.specs.items():
        if spec.reference != require_reference(reference, file):
            raise DamagedArtifact(f"{file}: the spec of {reference} is that of {spec.reference}; it was changed.")
    for reference, sent in parcel.sent.items():
        if reference not in parcel.specs:
            raise DamagedArtifact(f"{file}: it holds {reference} without a spec; it was changed.")
        for name in (*((sent.folder,) if sent.folder else ()), *(entry.path for entry in sent.files)):
            require_inside(name, file)
    return parcel


def lineage_of(references: Sequence[str], artifacts: Artifacts) -> dict[str, Spec]:
    """The specs of some artifacts and of all that they were made from, by reference, parents before children."""
    lineage = dict.fromkeys(one for reference in references for one in artifacts.lineage(reference))
    return {reference: artifacts[reference].spec() for reference in lineage}


def sent_of(artifact: Artifact, folder: str) -> Sent:
    """A finished artifact as a parcel holds it, its files in a folder within the parcel's."""
    try:
        run: Mapping[str, Any] = json.loads((artifact.path / RUN).read_text("utf-8"))
    except (OSError, ValueError):
        run = {}
    told = {name: run[name] for name in TOLD if name in run}
    return Sent(
        folder=folder, files=tuple(SentFile(**entry) for entry in artifact.manifest()["files"]), provenance=told
    )
