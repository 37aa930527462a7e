"""Passes as files: their marks say what is done, whoever has set them; what they name stays in the folder."""

import json
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.commands.foreseeing import wanted_on_disk
from lmsae.errors import DamagedArtifact
from lmsae.planning.passes import FOLDER, Pass, marked_passes, unmark_undone, write_passes
from lmsae.planning.plan import passes_on_disk, plan_of
from tests.miniature import keys


def test_a_mark_of_a_pass_that_is_not_done_is_removed_and_what_failed_itself_is_told(made: Path) -> None:
    plan, runtime = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    written = write_passes(plan, runtime)
    marked = marked_passes(runtime)
    assert marked == {reference for references in written.values() for reference in references}
    assert unmark_undone(marked, runtime) == {}
    trained = keys(made, "train")[0]
    Artifact(made / "artifacts/train" / trained).clear()
    for key in keys(made, "eval"):
        evaluation = Artifact(made / "artifacts/eval" / key)
        if f"train/{trained}" in evaluation.spec().inputs.values():
            evaluation.clear()
    undone = unmark_undone(marked, runtime)
    root = Artifacts(runtime.artifacts).root
    lost = {reference: Pass.read(root, reference).artifacts for reference in undone}
    assert {reference.partition("/")[0]: failed for reference, failed in undone.items()} == {
        "train": True,
        "eval": False,
        "report": False,  # whose bytes are there, and a dictionary that it shows is not
    }
    assert any(f"train/{trained}" in artifacts for artifacts in lost.values())
    assert marked_passes(runtime) == marked - undone.keys()


ELSEWHERE = ["../train/0", "train/../../x", "/etc/hostname", "train/a/b", "train", "", None, 3, ["train/0"]]
MALFORMED = ["", "null", "[]", "3", '"text"', "{}", '{"artifacts": 3, "needs": []}', '{"artifacts": [], "needs": []}']
MALFORMED += ["[" * 10**5, '{"artifacts": ["train/0"]}', '{"artifacts": "train/0", "needs": []}', "\udcff"]


def write(root: Path, reference: str, text: str) -> None:
    path = root / FOLDER / f"{reference}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def test_a_pass_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Pass(["train/0a", "train/1b"], ["init/2c-3d"])
    write(tmp_path, made.reference, made.text)
    assert Pass.read(tmp_path, made.reference) == made


@pytest.mark.parametrize("field", ["artifacts", "needs"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_pass_that_names_anything_elsewhere_is_damaged(tmp_path: Path, field: str, name: object) -> None:
    write(tmp_path, "train/0-1", json.dumps({"artifacts": ["train/0"], "needs": [], field: [name]}))
    with pytest.raises(DamagedArtifact, match=r"train/0-1\.json: names .* wanted a reference"):
        Pass.read(tmp_path, "train/0-1")


@pytest.mark.parametrize("text", MALFORMED)
def test_a_file_of_any_other_form_is_no_pass(tmp_path: Path, text: str) -> None:
    write(tmp_path, "train/0-1", text)
    with pytest.raises(DamagedArtifact, match=r"train/0-1\.json: (it is no pass|names)"):
        Pass.read(tmp_path, "train/0-1")


def test_a_pass_whose_artifacts_were_changed_is_not_the_one_that_its_name_says(tmp_path: Path) -> None:
    made = Pass(["train/0a", "train/1b"], [])
    write(tmp_path, made.reference, Pass(["train/0a", "train/2c"], []).text)
    with pytest.raises(DamagedArtifact, match="it is no pass"):
        Pass.read(tmp_path, made.reference)


@pytest.mark.parametrize("reference", ["../../outside", "train/../../outside", "/etc/hostname", "train"])
def test_a_pass_is_read_of_its_own_folder_only(tmp_path: Path, reference: str) -> None:
    (tmp_path / "outside.json").write_text(Pass(["train/0"], []).text)
    with pytest.raises(DamagedArtifact, match="wanted a reference"):
        Pass.read(tmp_path / "artifacts", reference)


def write_plan(root: Path, text: str) -> Artifacts:
    (root / "plan").mkdir()
    (root / "plan/train.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    return Artifacts(root)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_plan_that_names_anything_elsewhere_is_damaged(tmp_path: Path, name: object) -> None:
    artifacts = write_plan(tmp_path, json.dumps({"stage": "train", "passes": [["train/0", name]]}))
    with pytest.raises(DamagedArtifact, match=r"plan/train\.json: names .* wanted a reference"):
        passes_on_disk("train", artifacts)
    assert wanted_on_disk(artifacts) == {}, "a job that was told what to make needs no plan"


@pytest.mark.parametrize("passes", ["3", "[3]", "null", '"train/0"', '{"train/0": 1}', '["train/0"]', '[["init/0"]]'])
def test_a_plan_of_another_form_or_of_another_stage_is_damaged(tmp_path: Path, passes: str) -> None:
    artifacts = write_plan(tmp_path, f'{{"stage": "train", "passes": {passes}}}')
    with pytest.raises(DamagedArtifact, match=r"plan/train\.json: (cannot be read as a plan|names)"):
        passes_on_disk("train", artifacts)


@pytest.mark.parametrize("text", [*MALFORMED[:6], "[" * 10**5, "\udcff"])
def test_a_file_of_any_other_form_is_no_plan(tmp_path: Path, text: str) -> None:
    with pytest.raises(DamagedArtifact, match="write it again with `lmsae plan`"):
        passes_on_disk("train", write_plan(tmp_path, text))
