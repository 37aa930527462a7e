"""Commands take the names of rows, and the folder of a project elsewhere."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.commands.finding import find_noted
from lmsae.errors import MissingArtifact
from tests.miniature import HERE, ROWS, Said, keys, manifests, write_sweep

Lmsae = Callable[..., Said]
TOP, BATCH = ROWS[:2]
RULE = {**TOP, "sae.k": "{4, 5}"}


def plans(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "artifacts/plan").glob("*.json")}


def test_run_makes_the_rows_that_are_named_and_what_they_need(made: Path, lmsae: Lmsae) -> None:
    write_sweep(made, [{**RULE, "train.lr": "0.01"}, BATCH])
    before = manifests(made)
    said = lmsae("run", "top-k5")
    assert said.code == 0, said.err
    new = Counter(reference.partition("/")[0] for reference in manifests(made).keys() - before.keys())
    assert new == Counter(init=1, train=1, eval=1, features=1, page=1)
    assert said.err.endswith("report: not made of some rows; `lmsae run` makes it of all\n")
    assert len(keys(made, "train")) == 3, "the plan on disk is the whole sweep's"
    assert "removed" not in lmsae("gc").out
    assert "top-k5" in lmsae("show", "top-k5").out


def test_plan_shows_the_rows_that_are_named(fresh: Path, lmsae: Lmsae) -> None:
    write_sweep(fresh, [RULE, BATCH])
    all_rows = lmsae("plan").out
    assert all(name in all_rows for name in ("top-k4", "top-k5", "batch"))
    said = lmsae("plan", "top-k5")
    assert "top-k5" in said.out
    assert "top-k4" not in said.out
    assert "report" not in said.out
    assert len(keys(fresh, "train")) == 3


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_row_that_is_not_there_is_met_with_the_nearest_before_anything_runs(
    fresh: Path, lmsae: Lmsae, command: str
) -> None:
    said = lmsae(command, "topp", "jump", "nobody")
    assert said.code == 2
    assert "2 faults found" in said.err
    assert "config/config.yaml + config/sweep.tsv, row topp: there is no such row; did you mean top" in said.err
    assert "row nobody: there is no such row" in said.err
    assert manifests(fresh) == {}


@pytest.mark.usefixtures("fresh")
def test_rows_of_an_experiment_with_lists_are_planned_and_named_singly(lmsae: Lmsae) -> None:
    sae = {"hook_point": HERE, "architecture": "topk", "k": [4, 5], "d_sae": 64}
    text = {"model": {"name": "model"}, "dataset": {"name": "text"}, "tokenize": {"context_size": 32}}
    Path("mine.json").write_text(json.dumps({**text, "sae": sae, "train": {"tokens": 8192, "batch_size": 256}}))
    said = lmsae("plan", "mine.json")
    assert said.code == 0, said.err
    assert all(name in said.out for name in ("mine-k4", "mine-k5"))
    said = lmsae("plan", "mine.json", "mine-k5")
    assert ("mine-k4" in said.out, "mine-k5" in said.out) == (False, True)
    assert not Path("artifacts/plan").exists(), "the plan on disk is a sweep's"


@pytest.mark.parametrize("stage", ["norm", "train"])
def test_a_stage_makes_what_a_row_wants_of_it(made: Path, lmsae: Lmsae, stage: str) -> None:
    key = keys(made, stage)[0]
    Artifact(made / "artifacts" / stage / key).clear()
    assert f"{stage}/{key}" not in manifests(made)
    said = lmsae(stage, "top")
    assert (said.code, said.err) == (0, f"{stage}: 1 made, 0 there already\n")
    assert f"{stage}/{key}" in manifests(made)


def test_verify_takes_a_row(made: Path, lmsae: Lmsae) -> None:
    wants = json.loads(next((made / "artifacts/sweeps").glob("*.json")).read_text())["wants"]["top"]
    assert lmsae("verify", "top").out == f"{len(wants)} whole, 0 damaged, 0 wanted but not made\n"


@pytest.mark.parametrize(("name", "stage", "said"), [
    ("topp", "train", "No planned row is called 'topp' either; did you mean top"),
    ("top", "import", "row top wants nothing of import"),
])  # fmt: skip
def test_what_no_row_and_no_key_is_called_is_met_with_the_nearest(
    finished: Path, name: str, stage: str, said: str
) -> None:
    with pytest.raises(MissingArtifact) as error:
        find_noted(name, Artifacts(finished / "artifacts"), stage)
    assert said in str(error.value)


def test_a_folder_stands_for_the_one_that_a_command_is_started_in(
    fresh: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / "elsewhere").mkdir()
    monkeypatch.chdir(fresh / "elsewhere")
    said = lmsae("plan", "--folder", "..")
    assert said.code == 0, said.err
    assert Path.cwd() == fresh / "elsewhere"
    assert plans(fresh)
    assert not list((fresh / "elsewhere").iterdir())
    assert "config/config.yaml: there is no such file" in lmsae("plan").err


def test_a_folder_that_is_not_there_is_refused_with_the_command_that_makes_it(lmsae: Lmsae) -> None:
    said = lmsae("plan", "--folder", "nowhere")
    assert said.code == 2
    assert "--folder, column nowhere: there is no such folder" in said.err
    assert "`lmsae new nowhere` makes a project there" in said.err


def test_a_plan_of_a_name_leaves_the_others_on_disk(made: Path, lmsae: Lmsae) -> None:
    before = plans(made)
    write_sweep(made, [TOP])
    assert lmsae("plan", "--plan", "second").code == 0
    assert plans(made) == before
    assert len(json.loads((made / "artifacts/plan/second/train.json").read_text())["passes"]) == 1
    assert lmsae("train", "--plan", "second").err == "train: 0 made, 1 there already\n"
    assert len(json.loads((made / "artifacts/index/second/train.json").read_text())) == 1
    shutil.rmtree(made / "artifacts/plan")
    assert lmsae("plan", "--plan", "second").code == 0
    assert "0 damaged, 1 wanted but not made" in lmsae("verify").out, "the report of this plan"


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", ""])
def test_a_plan_has_the_name_of_one_folder(name: str, lmsae: Lmsae, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lmsae("plan", "--plan", name)
    assert "is no name of a folder" in capsys.readouterr().err
