"""A stage sees its job and nothing else: each is made where nothing exists but its inputs."""

import json
import shutil
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES, STAND_INS
from lmsae.stages.stage import Job


def payload(artifact: Artifact) -> dict[str, bytes]:
    """The files of a finished artifact, by name."""
    return {entry["path"]: (artifact.path / entry["path"]).read_bytes() for entry in artifact.manifest()["files"]}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in STAND_INS])
def test_a_stage_makes_the_same_bytes_where_nothing_but_its_inputs_exists(
    stage: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "text"):  # what configs name by a path
        shutil.copytree(finished / name, tmp_path / "empty" / name)
    monkeypatch.chdir(tmp_path / "empty")
    (folder, *_) = sorted((finished / "artifacts" / stage).iterdir())
    made, spec = Artifact(folder), Artifact(folder).spec()
    inputs = {}
    for number, (name, reference) in enumerate(sorted(spec.inputs.items())):
        # Each in a place of its own, so that no way leads from one to another.
        alone = tmp_path / f"input-{number}" / reference
        shutil.copytree(finished / "artifacts" / reference, alone)
        inputs[name] = Artifact(alone)
    job = Job(made.reference, STAGES[stage].config.model_validate(spec.config), inputs, tmp_path / "out", [])
    job.out.mkdir()
    ((done, _),) = STAGES[stage].make([job], Runtime(device="cpu", threads=1, artifacts=tmp_path / "none"))
    assert done is job
    found = {path.relative_to(job.out).as_posix(): path.read_bytes() for path in job.out.rglob("*") if path.is_file()}
    assert found == payload(made)


def test_the_inputs_that_a_stage_declares_are_all_that_its_spec_names(finished: Path) -> None:
    for artifact in Artifacts(finished / "artifacts"):
        spec = artifact.spec()
        named = {name.split("/")[0].partition(".")[0] for name in spec.inputs}
        wanted = {name for name, parent in STAGES[spec.stage].inputs.items() if parent != "import"}
        assert named == wanted, json.dumps(spec.inputs)
