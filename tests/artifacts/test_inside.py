"""Names that files hold stay inside of their folder. The files that try otherwise are harmless and made here."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsae.artifacts.artifact import MANIFEST, SPEC, TWIN, Artifact, Artifacts, Spec
from lmsae.artifacts.inside import is_reference, require_inside
from lmsae.config import key_of
from lmsae.errors import DamagedArtifact, LmsaeError, MissingArtifact

OUTSIDE = ["/tmp/x", "../x", "a/../../x", "..", ".", "", "a//b", "a/", "./a", "a/./b", "\0", "a\0b", None, 3, ["a"]]
INSIDE = ["a", "a/b", "plots/pareto-1.svg", ".hidden", "..a", "a..", "c.0.0.0", "na ïve"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_elsewhere_is_refused_with_the_file_that_holds_it(name: object) -> None:
    with pytest.raises(DamagedArtifact, match=r"^some/list\.json: names"):
        require_inside(name, Path("some/list.json"))


@pytest.mark.parametrize("name", INSIDE)
def test_a_name_of_a_file_inside_is_what_it_was(name: str) -> None:
    assert require_inside(name, Path("list.json")) == name


@given(st.text(alphabet="a./\\\0 -", max_size=12))
def test_no_name_that_is_let_through_leads_out(name: str) -> None:
    folder = Path("/some/folder")
    try:
        require_inside(name, Path("list.json"))
    except DamagedArtifact:
        return
    assert (folder / name).resolve() != folder
    assert (folder / name).resolve().is_relative_to(folder)


@pytest.mark.parametrize(
    "name", ["train", "/train/0", "train/../0", "../0", "train/.", "train/0/1", "train/0\n", "", None]
)
def test_a_reference_is_a_stage_and_a_key(name: object, tmp_path: Path) -> None:
    assert not is_reference(name)
    with pytest.raises(DamagedArtifact, match="wanted a reference <stage>/<key>"):
        Artifacts(tmp_path)[name]  # pyright: ignore[reportArgumentType]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A finished artifact of one file; two folders up lies another file."""
    artifact = Artifacts(tmp_path / "artifacts").add(Spec(stage="train", version=1, config={}, inputs={}))
    (artifact.path / "weights").write_text("weights")
    artifact.publish({})
    (tmp_path / "outside.txt").write_text("mine")
    return artifact


def rewrite(artifact: Artifact, text: str) -> None:
    for name in (MANIFEST, TWIN):
        (artifact.path / name).write_text(text)


@pytest.mark.parametrize("name", ["../../../outside.txt", "/etc/hostname", None])
def test_a_manifest_that_names_a_file_elsewhere_is_damaged(artifact: Artifact, name: object) -> None:
    manifest = json.loads((artifact.path / MANIFEST).read_text())
    manifest["files"][0]["path"] = name
    rewrite(artifact, json.dumps(manifest))
    for look in (artifact.manifest, artifact.require_intact, artifact.damaged_files, artifact.bytes):
        with pytest.raises(DamagedArtifact, match=r"manifest\.json: names"):
            look()


MALFORMED = [
    "",
    "null",
    "[]",
    "3",
    '"text"',
    "{}",
    '{"files": 3}',
    '{"files": [3]}',
    '{"files": [{"path": "a"}]}',
    "[" * 10**5,
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_manifest_of_any_other_form_is_damaged(artifact: Artifact, text: str) -> None:
    rewrite(artifact, text)
    with pytest.raises(DamagedArtifact, match=r"manifest\.json: it is not what was written"):
        artifact.require_intact()


@pytest.mark.parametrize(
    "change",
    [{"key": "0"}, {"stage": "init"}, {"inputs": 3}, {"files": [{"path": "weights", "bytes": "7", "blake3": ""}]}],
)
def test_a_manifest_of_another_artifact_or_with_other_kinds_of_values_is_damaged(
    artifact: Artifact, change: dict[str, object]
) -> None:
    rewrite(artifact, json.dumps(json.loads((artifact.path / MANIFEST).read_text()) | change))
    with pytest.raises(DamagedArtifact, match=r"manifest\.json: it is not what was written"):
        artifact.require_intact()


def test_a_folder_in_the_place_of_a_file_is_damage(artifact: Artifact) -> None:
    (artifact.path / "weights").unlink()
    (artifact.path / "weights").mkdir()
    with pytest.raises(DamagedArtifact, match="weights is missing"):
        artifact.require_intact()
    assert artifact.damaged_files() == [f"{artifact.path / 'weights'}: missing"]


@pytest.mark.parametrize(
    "text",
    ["null", "[]", "{}", '{"stage":"train","version":1,"config":{},"inputs":{"init":"../../outside"}}'],
)
def test_a_spec_that_is_true_to_its_key_and_no_spec_is_damaged(tmp_path: Path, text: str) -> None:
    artifact = Artifact(tmp_path / "train" / key_of(text))
    artifact.path.mkdir(parents=True)
    (artifact.path / SPEC).write_text(text)
    with pytest.raises(DamagedArtifact, match=r"spec\.json: (it is no spec|names '../../outside')"):
        artifact.spec()


@pytest.mark.parametrize("key", ["../x", "/etc", "", "a/b/c"])
def test_a_key_that_leads_elsewhere_is_no_artifacts(artifact: Artifact, key: str) -> None:
    artifacts = Artifacts(artifact.path.parents[1])
    if key:
        with pytest.raises(MissingArtifact):
            artifacts.find(key)
    with pytest.raises(LmsaeError):
        artifacts[key]
