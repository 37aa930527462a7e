"""Artifacts: named by their spec, finished by their manifest, and never quietly something else."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import (
    CHECKPOINT,
    MANIFEST,
    RUN,
    SPEC,
    TWIN,
    Artifact,
    Artifacts,
    Spec,
    digest_of_file,
    write_atomically,
)
from lmsae.errors import ArtifactError, DamagedArtifact, MissingArtifact, NoSpaceError


def a_spec(**config: object) -> Spec:
    return Spec(stage="train", version=1, config=config, inputs={})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A finished artifact with two files."""
    artifact = Artifacts(tmp_path / "artifacts").add(a_spec(lr=0.1))
    (artifact.path / "payload").mkdir()
    (artifact.path / "payload" / "weights").write_bytes(bytes(range(256)) * 4)
    (artifact.path / "curves.csv").write_text("step,loss\n0,1.5\n")
    artifact.publish({"host": "here"})
    return artifact


def test_the_sha256_of_every_spec_begins_with_its_key(finished: Path) -> None:
    specs = sorted((finished / "artifacts").glob("*/*/spec.json"))
    lines = subprocess.run(["sha256sum", *specs], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(specs) > 10
    for line in lines:
        digest, file = line.split(maxsplit=1)
        assert digest.startswith(Path(file).parent.name)
        assert len(Path(file).parent.name) == 16


def test_a_key_does_not_depend_on_how_the_spec_was_built() -> None:
    one = Spec(stage="train", version=1, config={"a": 1, "b": 2}, inputs={"x": "init/1", "y": "norm/2"})
    other = Spec(inputs={"y": "norm/2", "x": "init/1"}, config={"b": 2, "a": 1}, version=1, stage="train")
    assert one.key == other.key
    assert Spec.read(one.canonical) == one


@pytest.mark.parametrize("change", [{"stage": "init"}, {"version": 2}, {"config": {"lr": 0.2}}, {"inputs": {"x": "y"}}])
def test_every_part_of_a_spec_is_in_its_key(change: dict[str, object]) -> None:
    spec = a_spec(lr=0.1)
    assert Spec(**{**spec.fields(), **change}).key != spec.key


def test_an_artifact_is_finished_when_it_has_a_manifest(tmp_path: Path) -> None:
    artifact = Artifacts(tmp_path).add(a_spec())
    assert not artifact.is_finished
    with pytest.raises(MissingArtifact, match="not finished"):
        artifact.require_intact()
    artifact.publish({})
    assert artifact.is_finished
    assert artifact.require_intact() is artifact


def test_a_manifest_lists_every_file_with_its_size_and_digest(artifact: Artifact) -> None:
    assert artifact.manifest() == {
        "stage": "train",
        "key": artifact.path.name,
        "inputs": {},
        "files": [
            {"path": "curves.csv", "bytes": 16, "blake3": digest_of_file(artifact.path / "curves.csv")},
            {"path": "payload/weights", "bytes": 1024, "blake3": digest_of_file(artifact.path / "payload" / "weights")},
        ],
    }
    assert artifact.bytes() == 1040


def test_a_training_state_is_no_part_of_the_artifact(artifact: Artifact) -> None:
    before = (artifact.path / MANIFEST).read_text()
    (artifact.path / CHECKPOINT).mkdir()
    (artifact.path / CHECKPOINT / "000000000003-12345678.pt").write_bytes(b"state")
    assert artifact.damaged_files() == []
    artifact.publish({"host": "here"})
    assert (artifact.path / MANIFEST).read_text() == before


def test_a_spec_that_a_power_cut_left_short_is_written_again(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    artifact = artifacts.add(a_spec(lr=0.1))
    for left in ("", artifact.spec().canonical[:10]):
        (artifact.path / SPEC).write_text(left)
        assert artifacts.add(a_spec(lr=0.1)).spec() == a_spec(lr=0.1)
    touched = (artifact.path / SPEC).stat().st_mtime_ns
    artifacts.add(a_spec(lr=0.1))
    assert (artifact.path / SPEC).stat().st_mtime_ns == touched


def test_a_manifest_says_nothing_of_time_or_place(artifact: Artifact, tmp_path: Path) -> None:
    other = Artifacts(tmp_path / "elsewhere").add(a_spec(lr=0.1))
    (other.path / "curves.csv").write_text("step,loss\n0,1.5\n")
    (other.path / "payload").mkdir()
    (other.path / "payload" / "weights").write_bytes(bytes(range(256)) * 4)
    other.publish({"host": "there"})
    assert (other.path / MANIFEST).read_bytes() == (artifact.path / MANIFEST).read_bytes()
    assert (other.path / RUN).read_bytes() != (artifact.path / RUN).read_bytes()


def test_a_deleted_manifest_is_restored_from_its_twin(artifact: Artifact) -> None:
    before = (artifact.path / MANIFEST).read_bytes()
    (artifact.path / MANIFEST).unlink()
    assert artifact.is_finished
    assert (artifact.path / MANIFEST).read_bytes() == before


def test_clearing_leaves_the_spec_and_the_claim_only(artifact: Artifact) -> None:
    (artifact.path / ".claim").touch()
    artifact.clear()
    assert sorted(path.name for path in artifact.path.iterdir()) == [".claim", SPEC]
    assert not artifact.is_finished


def test_removing_begins_with_what_makes_it_finished(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        artifact.remove()
    assert not artifact.is_finished
    monkeypatch.undo()
    artifact.remove()
    assert not artifact.path.exists()


@pytest.mark.parametrize("name", [SPEC, MANIFEST, TWIN, "curves.csv", "payload/weights"])
def test_whichever_byte_is_flipped_it_is_found_out(artifact: Artifact, name: str) -> None:
    file = artifact.path / name
    whole = file.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), min(20, len(whole))):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        try:
            damage = artifact.damaged_files()
        except DamagedArtifact as error:
            damage = [str(error)]
        assert len(damage) == 1
        assert str(file) in damage[0].replace(f"{TWIN[1:]}", name)  # a twin that differs is told by the manifest
    file.write_bytes(whole)
    assert artifact.damaged_files() == []


@pytest.mark.parametrize(("change", "message"), [("cut", "has 1,023 bytes; 1,024 bytes"), ("remove", "is missing")])
def test_opening_refuses_a_file_that_is_short_or_gone(artifact: Artifact, change: str, message: str) -> None:
    file = artifact.path / "payload" / "weights"
    file.write_bytes(file.read_bytes()[:-1]) if change == "cut" else file.unlink()
    with pytest.raises(DamagedArtifact, match=message) as error:
        artifact.require_intact()
    assert str(file) in str(error.value)


def test_opening_refuses_a_file_of_the_right_size_with_other_bytes(artifact: Artifact) -> None:
    (artifact.path / "payload" / "weights").write_bytes(bytes(1024))
    with pytest.raises(DamagedArtifact, match=r"payload/weights: its bytes are not those that were written"):
        artifact.require_intact()


def test_opening_leaves_the_chunks_of_arrays_to_their_own_checksums(tmp_path: Path) -> None:
    artifact = Artifacts(tmp_path).add(a_spec())
    array = artifact.path / "activations.zarr"
    (array / "c/0/0").mkdir(parents=True)
    (array / "zarr.json").write_text("{}")
    (array / "c/0/0/0").write_bytes(b"chunk")
    artifact.publish({})
    (array / "c/0/0/0").write_bytes(b"CHUNK")
    artifact.require_intact()
    (array / "zarr.json").write_text("[]")
    with pytest.raises(DamagedArtifact, match=r"zarr\.json"):
        artifact.require_intact()


def test_a_file_that_nobody_wrote_is_damage_too(artifact: Artifact) -> None:
    (artifact.path / "note.txt").touch()
    assert artifact.damaged_files() == [f"{artifact.path / 'note.txt'}: not in the manifest"]


def test_a_manifest_that_is_no_json_is_damage_and_no_traceback(artifact: Artifact) -> None:
    (artifact.path / TWIN).unlink()
    (artifact.path / MANIFEST).write_text("{")
    with pytest.raises(DamagedArtifact, match=MANIFEST):
        artifact.require_intact()


def test_an_artifact_is_found_by_the_first_digits_of_its_key(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    one, other = artifacts.add(a_spec(lr=0.1)), artifacts.add(a_spec(lr=0.2))
    assert artifacts.find(one.path.name[:6]) == one
    assert artifacts.find(f"train/{other.path.name[:6]}") == other
    assert artifacts.find(one.reference) == one
    with pytest.raises(MissingArtifact, match="begins several keys"):
        artifacts.find("train/")
    with pytest.raises(MissingArtifact, match="'zz'"):
        artifacts.find("zz")


def test_lineage_names_parents_before_children_and_each_once(finished: Path) -> None:
    artifacts = Artifacts(finished / "artifacts")
    (report,) = (finished / "artifacts" / "report").iterdir()
    lineage = artifacts.lineage(f"report/{report.name}")
    assert len(lineage) == len(set(lineage)) == sum(1 for _ in artifacts)
    for place, reference in enumerate(lineage):
        assert set(artifacts[reference].spec().inputs.values()) <= set(lineage[:place])


def test_a_lineage_that_lost_a_parent_says_which(tmp_path: Path) -> None:
    artifact = Artifacts(tmp_path).add(Spec(stage="train", version=1, config={}, inputs={"init": "init/0123"}))
    with pytest.raises(ArtifactError, match="0123"):
        Artifacts(tmp_path).lineage(artifact.reference)


def test_specs_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lmsae.artifacts.artifact import Artifacts, Spec\n"
        "spec = Spec(stage='tokenize', version=1, config={'name': 'na\\u00efve'}, inputs={})\n"
        "print(Artifacts(Path(sys.argv[1])).add(spec).spec().key)"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=ascii_only, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*/*/spec.json")
    assert json.loads(file.read_bytes())["config"]["name"] == "naïve"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_full_disk_is_a_sentence_also_where_no_stage_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsae.runtime.drafts.name_draft", lambda path: path.with_name("draft"))
    (tmp_path / "draft").symlink_to("/dev/full")
    with pytest.raises(NoSpaceError, match=r"plan\.json: the disk became full.*lmsae gc"):
        write_atomically(tmp_path / "plan.json", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_of_a_later_form_is_refused_and_not_misread(artifact: Artifact) -> None:
    text = (artifact.path / MANIFEST).read_text()
    assert "version" not in json.loads(text), "its bytes are those of every manifest so far"
    for name in (MANIFEST, TWIN):
        (artifact.path / name).write_text(json.dumps({**json.loads(text), "version": 2}))
    with pytest.raises(DamagedArtifact, match="it has version 2, and this lmsae reads version 1"):
        artifact.manifest()
    assert not Artifact(artifact.path, lender=artifact.path.parent.parent).is_finished
