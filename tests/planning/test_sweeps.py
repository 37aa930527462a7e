"""Sweeps that share a folder of artifacts: each is known by its files, and has results of its own."""

import json
import shutil
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifacts
from lmsae.planning.sweeps import Sweep, choose_results, known_sweeps, origin_of
from lmsae.stages.origin import Origin
from lmsae.stages.published import Published

WANTS = {"one": ["train/0123", "eval/4567"], "": ["report/89ab"]}


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    """The folder of artifacts in the working directory, as users name it."""
    monkeypatch.chdir(tmp_path)
    for name in ("config", "mine"):
        (tmp_path / name).mkdir()
        for file in ("config.yaml", "sweep.tsv", "other.tsv"):
            (tmp_path / name / file).touch()
    return Artifacts(Path("artifacts"))


def origin(config: str, sheet: str | None = "sweep.tsv") -> Origin:
    path = Path(config)
    return origin_of(path, path.parent / sheet if sheet else None, "row", True, None)


def noted(origin: Origin, results: str, artifacts: Artifacts) -> Sweep:
    sweep = Sweep(origin, Path(results), WANTS)
    sweep.note(artifacts)
    return sweep


def chosen(origin: Origin, artifacts: Artifacts, results: str = "results", is_asked_for: bool = True) -> str:
    return choose_results(origin, Path(results), artifacts, is_asked_for=is_asked_for).as_posix()


def test_a_sweep_is_read_as_it_was_noted(artifacts: Artifacts) -> None:
    sweep = noted(origin("config/config.yaml"), "results", artifacts)
    assert list(known_sweeps(artifacts)) == [sweep]
    assert sweep.references == {"train/0123", "eval/4567", "report/89ab"}
    assert (sweep.names_of_rows("train/0123"), sweep.names_of_rows("report/89ab")) == (["one"], [])


def test_a_project_that_is_copied_has_the_same_sweeps(artifacts: Artifacts, tmp_path: Path, monkeypatch) -> None:
    noted(origin("config/config.yaml"), "results", artifacts)
    copy = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-copy")
    monkeypatch.chdir(copy)
    assert list(known_sweeps(artifacts)) == [Sweep(origin("config/config.yaml"), Path("results"), WANTS)]


def test_the_folder_asked_for_is_had_by_the_first_and_the_next_gets_one_in_it(artifacts: Artifacts) -> None:
    first, sheet, mine = (
        origin("config/config.yaml"),
        origin("config/config.yaml", "other.tsv"),
        origin("mine/config.yaml"),
    )
    assert chosen(first, artifacts) == "results"
    noted(first, "results", artifacts)
    assert [chosen(one, artifacts) for one in (first, sheet, mine)] == ["results", "results/other", "results/mine"]
    assert chosen(mine, artifacts, "elsewhere") == "elsewhere"


def test_a_sweep_keeps_its_folder_when_the_other_has_gone_and_a_new_one_gets_the_first(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    first, mine = origin("config/config.yaml"), origin("mine/config.yaml")
    noted(first, "results", artifacts)
    noted(mine, "results/mine", artifacts)
    shutil.rmtree(tmp_path / "config")
    assert chosen(mine, artifacts) == "results/mine"
    assert chosen(origin("mine/config.yaml", "other.tsv"), artifacts) == "results"


def test_two_folders_of_one_name_are_two_sweeps(artifacts: Artifacts, tmp_path: Path) -> None:
    noted(origin("config/config.yaml"), "results", artifacts)
    noted(origin("mine/config.yaml"), "results/mine", artifacts)
    shutil.copytree(tmp_path / "mine", tmp_path / "deep" / "mine")
    other = origin("deep/mine/config.yaml")
    assert chosen(other, artifacts) == f"results/{other.key(artifacts.root)}"


def test_a_single_experiment_has_a_folder_of_its_own_unless_one_was_asked_for(artifacts: Artifacts) -> None:
    experiment = origin("mine/config.yaml", None)
    assert chosen(experiment, artifacts, is_asked_for=False) == "results/row"
    assert chosen(experiment, artifacts, "out") == "out"
    assert chosen(origin("mine/config.yaml"), artifacts, is_asked_for=False) == "results"


def test_what_python_was_told_of_without_a_name_is_called_after_what_it_wants(artifacts: Artifacts) -> None:
    one, other = (origin_of({}, None, "experiment", False, wants) for wants in (["train/0"], ["train/1"]))
    assert one != other
    assert one.name.startswith("experiment-")
    assert origin_of({}, None, "mine", True, ["train/0"]) == origin_of({}, None, "mine", True, ["train/1"])


def test_results_of_another_folder_of_artifacts_are_respected_too(artifacts: Artifacts) -> None:
    Path("results").mkdir()
    Published(origin("config/config.yaml"), frozenset()).write(Path("results"))
    assert json.loads(Path("results/.published.json").read_text())["sweep"]["files"][0] == "../config/config.yaml"
    assert chosen(origin("mine/config.yaml"), artifacts) == "results/mine"
    assert chosen(origin("config/config.yaml"), artifacts) == "results"
