"""The manifest of an artifact: every file with its size and digest, as manifest.json holds it."""

import json
from pathlib import Path
from typing import TypedDict

from lmsae.artifacts.inside import require_inside
from lmsae.errors import DamagedArtifact

SPEC, MANIFEST, RUN = "spec.json", "manifest.json", "run.json"
# A copy of the manifest. Workflow engines delete declared outputs before a rerun; the copy restores the manifest.
TWIN = ".manifest.json"
VERSION = 1
"""The form of manifests. They do not name it, so that their bytes are what they were; a later form will."""


class ManifestFile(TypedDict):
    """One file of an artifact, with its size and digest; `path` is relative to the artifact's directory."""

    path: str
    bytes: int
    blake3: str


class Manifest(TypedDict):
    """The contents of manifest.json."""

    stage: str
    key: str
    inputs: dict[str, str]
    files: list[ManifestFile]


def write_manifest(manifest: Manifest) -> str:
    """The text of manifest.json."""
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def read_manifest(text: str, file: Path) -> Manifest:
    """The manifest of the artifact in whose directory `file` lies.

    Raises ValueError if the text is not such a manifest, and DamagedArtifact if it names a file elsewhere, or has a
    later form.
    """
    try:
        found = json.loads(text)
        if (version := found.get("version", VERSION)) != VERSION:
            raise DamagedArtifact(
                f"{file}: it has version {version!r}, and this lmsae reads version {VERSION}. Read it with the lmsae "
                "that wrote it, or a later one."
            )
        files: list[ManifestFile] = [
            {"path": require_inside(path, file), "bytes": size, "blake3": digest}
            for path, size, digest in ((entry["path"], entry["bytes"], entry["blake3"]) for entry in found["files"])
        ]
        manifest = Manifest(stage=found["stage"], key=found["key"], inputs=dict(found["inputs"]), files=files)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    names = {entry["path"] for entry in files}
    kinds_agree = all(isinstance(one["bytes"], int) and isinstance(one["blake3"], str) for one in files)
    if (manifest["stage"], manifest["key"]) != (file.parent.parent.name, file.parent.name):
        raise ValueError("it is that of another artifact")
    if not kinds_agree or len(names) < len(files):
        raise ValueError("its list of files is none")
    return manifest
