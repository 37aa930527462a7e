"""An artifact: a directory named by the hash of its spec, finished when it has a manifest.

artifacts/<stage>/<key>/spec.json       what it is; sha256 of this file begins with <key>; until work begins: planned.py
                        <payload>       what the stage wrote
                        manifest.json   every file's size and digest; written last, byte-deterministic
                        run.json        provenance: when, where, by which versions; not identity
                        checkpoint/     what an interrupted run, or a longer one, continues from; not identity
                        source.json     where the plan found what is to be imported; not identity
"""

import json
import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmsae.artifacts.inside import is_reference, require_reference
from lmsae.artifacts.lending import REFUSED, is_refused, is_whole, refuse
from lmsae.artifacts.manifest import MANIFEST, RUN, SPEC, TWIN, Manifest, ManifestFile, read_manifest, write_manifest
from lmsae.artifacts.planned import read_planned, references_beginning
from lmsae.artifacts.spec import Spec
from lmsae.config import JsonObject, key_of
from lmsae.errors import DamagedArtifact, MissingArtifact
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.drafts import DRAFT, draft_of
from lmsae.runtime.runtime import Runtime

CHECKPOINT = "checkpoint"
SOURCE = "source.json"
NOT_PAYLOAD = frozenset({SPEC, MANIFEST, RUN, TWIN, CHECKPOINT, SOURCE, REFUSED})


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact's directory, finished or not."""

    path: Path
    lender: Path | None = None
    """The folder of `runtime.also_look_in` that it lies in, if it is lent: nothing is written there."""

    @property
    def reference(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def is_finished(self) -> bool:
        """True if the manifest is there. A manifest that an engine deleted is restored from its copy.

        A lent artifact is finished if it can be taken (`is_whole`), and nothing is restored there.
        """
        if self.lender is not None:
            return is_whole(self.path)
        if not (self.path / MANIFEST).exists() and (self.path / TWIN).exists():
            _copy_atomically(self.path / TWIN, self.path / MANIFEST)
        return (self.path / MANIFEST).exists()

    def spec(self) -> Spec:
        """The spec, after a check that its hash is the directory's name. Until work on the artifact begins, it is that
        of a plan."""
        try:
            text = (self.path / SPEC).read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return self._planned_spec()
        if key_of(text) != self.path.name:
            raise DamagedArtifact(
                f"{self.path / SPEC}: its sha256 begins with {key_of(text)}, but the directory is named "
                f"{self.path.name}: the spec was changed or damaged. Delete the directory and make it again."
            )
        try:
            spec = Spec.read(text)
        except ValueError as error:
            raise DamagedArtifact(f"{self.path / SPEC}: it is no spec ({error}). {self._mend()}") from None
        for reference in spec.inputs.values():
            require_reference(reference, self.path / SPEC)
        return spec

    def _planned_spec(self) -> Spec:
        """The spec as a plan has it. Raises MissingArtifact if none has one that is whole."""
        text = read_planned(self.path.parent.parent, self.reference)
        with suppress(ValueError):
            if text is not None and key_of(text) == self.path.name:
                return Spec.read(text)
        raise MissingArtifact(
            f"{self.path}: there is no such artifact. `lmsae plan` writes the specs of the sweep as it is now."
        )

    def manifest(self) -> Manifest:
        """The manifest. Raises MissingArtifact while the artifact is not finished."""
        if not self.is_finished:
            if self.lender is not None:
                raise MissingArtifact(f"{self.path}: it is no longer there, or not whole. {self._mend()}")
            raise MissingArtifact(
                f"{self.path}: not finished (no {MANIFEST}). Make it with `lmsae {self.path.parent.name} "
                f"{self.path.name}`, or run the workflow again."
            )
        text = (self.path / MANIFEST).read_text("utf-8", errors="replace")
        twin = self.path / TWIN
        with suppress(ValueError):
            if not twin.exists() or twin.read_text("utf-8", errors="replace") == text:
                return read_manifest(text, self.path / MANIFEST)
        raise DamagedArtifact(f"{self.path / MANIFEST}: it is not what was written. {self._mend()}")

    def require_intact(self, read: Container[str] | None = None) -> "Artifact":
        """This artifact, after a check: it is finished, its spec is true, and every file has its size and its bytes.

        The bytes of shards and chunks of arrays are not read here: they are large, and every read checks their own
        checksums. `read` names the files whose bytes are checked, if they are not all. Raises MissingArtifact or
        DamagedArtifact.
        """
        self.spec()
        for entry in self.manifest()["files"]:
            file = self.path / entry["path"]
            found = file.stat().st_size if file.is_file() else None
            if found != entry["bytes"]:
                state = "is missing" if found is None else f"has {found:,} bytes"
                raise DamagedArtifact(f"{file} {state}; {entry['bytes']:,} bytes were written. {self._mend()}")
            is_read = read is None or entry["path"] in read
            if is_read and not _checks_itself(entry["path"]) and digest_of_file(file) != entry["blake3"]:
                raise DamagedArtifact(f"{file}: its bytes are not those that were written. {self._mend()}")
        return self

    def damaged_files(self) -> list[str]:
        """A line for each file that is missing, has other bytes than were written, or is not in the manifest."""
        self.spec()
        listed = {entry["path"]: entry for entry in self.manifest()["files"]}
        damage = []
        for name, entry in listed.items():
            file = self.path / name
            if not file.is_file():
                damage.append(f"{file}: missing")
            elif digest_of_file(file) != entry["blake3"]:
                damage.append(f"{file}: its bytes are not those that were written")
        damage += [f"{self.path / name}: not in the manifest" for name in _payload(self.path) if name not in listed]
        return damage

    def publish(self, provenance: JsonObject, require_claim: Callable[[], None] = lambda: None) -> None:
        """Write run.json, then the manifest: from here on the artifact is finished.

        `require_claim` raises an error if the artifact is another process's by now; it is asked before each file.
        """
        spec = self.spec()
        files: list[ManifestFile] = [
            {"path": name, "bytes": (self.path / name).stat().st_size, "blake3": digest_of_file(self.path / name)}
            for name in _payload(self.path)
        ]
        assert self.lender is None, "nothing is written where it is lent"
        require_claim()
        write_atomically(self.path / RUN, json.dumps(provenance, indent=1, sort_keys=True) + "\n")
        text = write_manifest(Manifest(stage=spec.stage, key=spec.key, inputs=dict(spec.inputs), files=files))
        for name in (TWIN, MANIFEST):
            require_claim()
            write_atomically(self.path / name, text)

    def clear(self, keep: Set[str] = frozenset()) -> None:
        """Remove what an interrupted run left. The spec, the caller's claim and the names in `keep` stay."""
        assert self.lender is None, "nothing is removed where it is lent"
        for entry in self.path.iterdir():
            if entry.name in {SPEC, REFUSED, *keep} or entry.name.startswith(".claim"):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def remove(self) -> None:
        """Delete the artifact. The manifest goes first: if this is cut short, the rest does not look finished."""
        assert self.lender is None, "nothing is removed where it is lent"
        (self.path / TWIN).unlink(missing_ok=True)
        (self.path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.path)

    def bytes(self) -> int:
        """The size of the payload in bytes, by its manifest."""
        return sum(entry["bytes"] for entry in self.manifest()["files"])

    def _mend(self) -> str:
        if self.lender is not None:
            return (
                f"It is lent by {self.lender} (runtime.also_look_in), and nothing is mended there. Run again, and it "
                "is made here; or ask its owner to make it again."
            )
        return f"Delete {self.path} and run the workflow again; `lmsae verify` looks at every artifact."


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The folder of all artifacts, and folders that lend theirs."""

    root: Path
    lenders: Sequence[Path] = ()
    """Folders of artifacts that are only read (`runtime.also_look_in`), in the order in which they are asked."""

    @classmethod
    def of(cls, runtime: Runtime) -> "Artifacts":
        """The artifacts that a process works on."""
        return cls(runtime.artifacts, runtime.also_look_in)

    def __getitem__(self, reference: str) -> Artifact:
        """The artifact of a reference `<stage>/<key>`. Raises DamagedArtifact if it is something else.

        It is the one here if that is finished, else the first lent one that is. One that is finished nowhere is the one
        here, unless a lender alone has its spec. Whoever makes an artifact asks for its `own` folder.
        """
        own = self.own(reference)
        if not self.lenders or own.is_finished:
            return own
        lent = [Artifact(folder / reference, folder) for folder in self.lenders]
        for one in lent:
            if one.is_finished and not is_refused(own.path, one.path):
                return one
        known = next((one for one in lent if not one.is_finished and (one.path / SPEC).exists()), own)
        return own if known is own or self._has_spec(own) else known

    def _has_spec(self, artifact: Artifact) -> bool:
        return (artifact.path / SPEC).exists() or read_planned(self.root, artifact.reference) is not None

    def finished(self, references: Iterable[str]) -> set[str]:
        """Those of some references whose artifacts are finished. A stage's folder is listed once: of a plan most are
        not there yet."""
        there: dict[str, set[str]] = {}
        found = set[str]()
        for reference in references:
            stage, _, key = reference.partition("/")
            if stage not in there:
                folder = self.root / stage
                there[stage] = set(os.listdir(folder)) if folder.is_dir() else set()
            if (self.lenders or key in there[stage]) and self[reference].is_finished:
                found.add(reference)
        return found

    def own(self, reference: str) -> Artifact:
        """The artifact of a reference in this folder, whoever else may lend it: the one to write."""
        return Artifact(self.root / require_reference(reference, self.root))

    def refuse(self, lent: Artifact) -> None:
        """Take a lent artifact no more, for it is damaged: it is to be made here."""
        self.add(lent.spec())
        refuse(self.own(lent.reference).path, lent.path)

    def around(self, artifact: Path) -> "Artifacts":
        """The artifacts among which those are that the one in a folder was made from: these, if it is one of them, else
        those of the folder that it lies in."""
        home = artifact.absolute().parent.parent.resolve()
        return self if home in {one.resolve() for one in (self.root, *self.lenders)} else Artifacts(home)

    def add(self, spec: Spec) -> Artifact:
        """Write the spec into its artifact's directory, unless it is there already with all its bytes.

        One whose writing was cut short by a power cut, as that of earlier versions could be, is told by its length.
        """
        artifact = self.own(spec.reference)
        path, pieces = artifact.path / SPEC, spec.pieces()
        if not path.exists() or path.stat().st_size != sum(len(piece.encode()) for piece in pieces):
            artifact.path.mkdir(parents=True, exist_ok=True)
            write_atomically(path, *pieces)
        return artifact

    def begin(self, reference: str) -> Artifact:
        """The own directory of an artifact, with its spec in it: work on it can begin. Raises MissingArtifact or
        DamagedArtifact if there is no spec."""
        text = read_planned(self.root, reference)
        whole = text is not None and key_of(text) == reference.rpartition("/")[2]
        return self.add(Spec.read(text) if text is not None and whole else self[reference].spec())

    def __iter__(self) -> Iterator[Artifact]:
        """Every artifact here that has a spec, finished or not, in the order of their paths. None is lent."""
        for spec in sorted(self.root.glob(f"*/*/{SPEC}")):
            yield Artifact(spec.parent)

    def everywhere(self) -> Iterator[Artifact]:
        """Every artifact that has a spec here or at a lender, each once, in the order of their references."""
        folders = (self, *map(Artifacts, self.lenders))
        for reference in sorted({artifact.reference for folder in folders for artifact in folder}):
            yield self[reference]

    def find(self, key: str) -> Artifact:
        """The artifact whose key, or reference `<stage>/<key>`, begins with `key`."""
        if is_reference(key) and self._has_spec(named := self[key]):
            return named
        made = {a.reference for a in self.everywhere() if a.reference.startswith(key) or a.path.name.startswith(key)}
        found = [self[reference] for reference in sorted(made | self._planned(key))]
        if len(found) == 1:
            return found[0]
        if not found:
            raise MissingArtifact(
                f"no artifact under {self.root} has a key that begins with {key!r}; see `lmsae plan`."
            )
        raise MissingArtifact(
            f"{key!r} begins several keys: {', '.join(a.reference for a in found)}. Give more digits."
        )

    def _planned(self, key: str) -> set[str]:
        """The references in plans whose key, or that themselves, begin with `key`."""
        if "/" in key:
            return references_beginning(self.root, key)
        every = references_beginning(self.root, "")
        return {one for one in every if one.startswith(key) or one.rpartition("/")[2].startswith(key)}

    def lineage(self, reference: str) -> list[str]:
        """The references of an artifact's ancestors and of itself, parents before children."""
        order: dict[str, None] = {}

        def visit(current: str) -> None:
            for parent in self[current].spec().inputs.values():
                if parent not in order:
                    visit(parent)
            order.setdefault(current)

        visit(reference)
        return list(order)


def _checks_itself(name: str) -> bool:
    """True for a shard or chunk of an array, which carries checksums of its own."""
    return ".zarr/" in name and not name.endswith("zarr.json")


def digest_of_file(path: Path) -> str:
    """blake3 of a file's bytes, in hex."""
    from blake3 import blake3

    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def write_atomically(path: Path, *pieces: str) -> None:
    """Write a small file, of a text in one or more pieces, so that a reader sees all of it or nothing.

    This holds after a power cut too: the call waits for the disk. Raises NoSpaceError.
    """
    with explain_full_disk(path), draft_of(path) as draft, open(draft, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _copy_atomically(source: Path, target: Path) -> None:
    write_atomically(target, source.read_text("utf-8"))


def _payload(path: Path) -> list[str]:
    names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    # A process that was killed leaves its claim and its drafts behind.
    written = (n for n in names if not n.startswith(".claim") and not n.endswith(DRAFT))
    return sorted(n for n in written if n.partition("/")[0] not in NOT_PAYLOAD)
