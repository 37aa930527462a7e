"""Publishing to results/: what is there afterwards, and what is left alone."""

import json
import os
from pathlib import Path

import pytest
import torch

from lmsae.artifacts.artifact import Artifacts
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ArtifactError, DamagedArtifact, MissingArtifact
from lmsae.interop import saelens
from lmsae.stages.origin import Origin
from lmsae.stages.published import PUBLISHED, Published
from lmsae.stages.publishing import publish
from tests.report.sweeps import Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def published(sweep: Sweep, results: Path) -> Path:
    publish(sweep.undrawn_report(), sweep.rows, sweep.artifacts, results)
    return results


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path, with its inode and time of change: what was touched differs."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {str(path.relative_to(folder)): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in paths}


def test_results_hold_the_report_links_and_saelens_folders(sweep: Sweep, results: Path) -> None:
    row = sweep.add("one")
    published(sweep, results)
    report = sweep.undrawn_report()
    for entry in report.manifest()["files"]:
        assert (results / entry["path"]).read_bytes() == (report.path / entry["path"]).read_bytes()
    for stage, reference in row.artifacts.items():
        link = results / "rows/one" / stage
        assert not os.path.isabs(os.readlink(link))
        assert link.resolve() == (sweep.artifacts.root / reference).resolve()
    ours = Dictionary.load(results / "rows/one/train")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(saelens.load(results / "saelens/one")(x), ours(x))
    metadata = json.loads((results / "saelens/one/cfg.json").read_text())["metadata"]
    assert metadata["model_name"] == "tiny-lm"
    assert metadata["hook_name"] == "blocks.0.hook_resid_post"
    assert (metadata["context_size"], metadata["prepend_bos"], metadata["dataset_path"]) == (16, True, "some-text")
    assert metadata["lmsae_artifact"] == row.artifacts["train"]


def test_publishing_again_touches_nothing(sweep: Sweep, results: Path) -> None:
    sweep.add("one")
    before = seen(published(sweep, results))
    assert seen(published(sweep, results)) == before


def test_links_hold_where_artifacts_and_results_are_links_themselves(sweep: Sweep, tmp_path: Path) -> None:
    row = sweep.add("one")
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/results").symlink_to(tmp_path / "far/away")
    (tmp_path / "here/artifacts").symlink_to(sweep.artifacts.root)
    publish(sweep.undrawn_report(), sweep.rows, Artifacts(tmp_path / "here/artifacts"), tmp_path / "here/results")
    assert (tmp_path / "here/results/rows/one/train").resolve() == sweep.artifacts[
        row.artifacts["train"]
    ].path.resolve()


def test_a_row_that_the_sweep_no_longer_has_goes_and_files_of_others_stay(sweep: Sweep, results: Path) -> None:
    sweep.add("keep")
    sweep.add("drop")
    sweep.add("drop-with-notes")
    published(sweep, results)
    notes = [results / "notes.txt", results / "saelens/keep/mine.txt", results / "saelens/drop-with-notes/mine.txt"]
    for note in notes:
        note.write_text("mine")
    sweep.rows = sweep.rows[:1]
    published(sweep, results)
    assert {path.name for path in (results / "rows").iterdir()} == {"keep"}
    assert {path.name for path in (results / "saelens").iterdir()} == {"keep", "drop-with-notes"}
    assert {path.name for path in (results / "saelens/drop-with-notes").iterdir()} == {"mine.txt"}
    assert [note.read_text() for note in notes] == ["mine"] * 3


def test_a_row_of_the_same_name_with_other_settings_gets_its_new_dictionary(sweep: Sweep, results: Path) -> None:
    sweep.add("one")
    published(sweep, results)
    (results / "saelens/one/mine.txt").write_text("mine")
    sweep.rows = []
    sweep.add("one", settings={"sae.k": "5"})
    published(sweep, results)
    assert json.loads((results / "saelens/one/cfg.json").read_text())["k"] == 5
    assert (results / "saelens/one/mine.txt").read_text() == "mine"
    assert (results / "rows/one/train").resolve().name in sweep.rows[0].artifacts["train"]


def test_a_dictionary_without_counterpart_gets_the_reason_instead(sweep: Sweep, results: Path) -> None:
    row = sweep.add("one")
    train = sweep.artifacts[row.artifacts["train"]]
    standardized = Dictionary.load(train.path).config.model_copy(update={"normalize_activations": "layer_norm"})
    Dictionary(standardized).save(train.path)
    train.publish({})
    published(sweep, results)
    assert {path.name for path in (results / "saelens/one").iterdir()} == {"why-not.txt", ".source.json"}
    assert "sae.normalize_activations is layer_norm" in (results / "saelens/one/why-not.txt").read_text()


def test_a_folder_in_the_place_of_a_link_is_not_removed(sweep: Sweep, results: Path) -> None:
    sweep.add("one")
    (results / "rows/one/train").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"rows/one/train is in the way"):
        published(sweep, results)


def test_a_report_that_is_not_finished_is_not_published(sweep: Sweep, results: Path) -> None:
    sweep.add("one")
    report = sweep.undrawn_report()
    for name in ("manifest.json", ".manifest.json"):
        (report.path / name).unlink()
    with pytest.raises(MissingArtifact):
        publish(report, sweep.rows, sweep.artifacts, results)
    assert not results.exists()


@pytest.mark.parametrize("name", ["../mine.txt", "rows/../../mine.txt", "/tmp/mine.txt", None])
def test_an_account_that_names_a_file_elsewhere_is_not_believed(sweep: Sweep, results: Path, name: object) -> None:
    sweep.add("one")
    published(sweep, results)
    (results.parent / "mine.txt").write_text("mine")
    (results / PUBLISHED).write_text(json.dumps({"sweep": None, "names": [name]}))
    with pytest.raises(DamagedArtifact, match=r"\.published\.json: names"):
        published(sweep, results)
    assert (results.parent / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "text", ["", "{", "3", "null", "{}", '{"names": 3}', '{"names": [], "sweep": {"name": 3}}', "[" * 10**5]
)
def test_an_account_of_another_form_is_not_believed(sweep: Sweep, results: Path, text: str) -> None:
    sweep.add("one")
    published(sweep, results)
    (results / PUBLISHED).write_text(text)
    with pytest.raises(DamagedArtifact, match=r"\.published\.json: it .* Delete it"):
        published(sweep, results)


def test_an_account_of_an_earlier_version_is_read(sweep: Sweep, results: Path) -> None:
    sweep.add("one")
    published(sweep, results)
    (results / "old.csv").write_text("")
    (results / PUBLISHED).write_text(json.dumps(["old.csv"]))
    published(sweep, results)
    assert not (results / "old.csv").exists()


def test_nothing_is_removed_behind_a_link_that_somebody_made(sweep: Sweep, results: Path) -> None:
    sweep.add("one")
    published(sweep, results)
    (results.parent / "elsewhere").mkdir()
    (results.parent / "elsewhere" / "mine.txt").write_text("mine")
    (results / "link").symlink_to(results.parent / "elsewhere")
    (results / PUBLISHED).write_text(json.dumps({"sweep": None, "names": ["link/mine.txt"]}))
    published(sweep, results)
    assert (results.parent / "elsewhere" / "mine.txt").exists()


@pytest.mark.parametrize("name", ["../../one", "/tmp/one"])
def test_a_report_whose_rows_lead_elsewhere_is_not_published(sweep: Sweep, results: Path, name: str) -> None:
    sweep.add("one")
    sweep.rows = [sweep.rows[0].model_copy(update={"name": name})]
    with pytest.raises(DamagedArtifact, match=r"spec\.json: names"):
        publish(sweep.undrawn_report(), sweep.rows, sweep.artifacts, results)
    assert [path.name for path in results.iterdir()] == []


def test_a_folder_that_shows_another_sweep_is_left_alone_while_somebody_can_ask_for_that(
    sweep: Sweep, results: Path
) -> None:
    theirs, ours = (Origin(name, (results.parent / f"{name}.yaml",)) for name in ("theirs", "ours"))
    for origin in (theirs, ours):
        origin.files[0].touch()
    sweep.add("one")
    report = sweep.undrawn_report()
    publish(report, sweep.rows, sweep.artifacts, results, theirs)
    before = seen(results)
    with pytest.raises(ArtifactError, match=r"shows another sweep \(.*theirs\.yaml\)"):
        publish(report, sweep.rows, sweep.artifacts, results, ours)
    assert seen(results) == before
    theirs.files[0].unlink()
    publish(report, sweep.rows, sweep.artifacts, results, ours)
    assert Published.read(results).origin == ours
