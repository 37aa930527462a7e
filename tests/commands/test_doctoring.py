"""`lmsae doctor`: whom it judges, by which thresholds, and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact
from tests.miniature import ROWS, Said, keys

Lmsae = Callable[..., Said]
LENIENT = (
    "min_explained_variance=-9",
    "min_ce_loss_score_mean=-9",
    "max_dead_share=1",
    "max_dense_share=1",
    "min_l2_ratio=0",
    "max_l2_ratio=9",
    "min_l0=0",
    "max_l0_share=9",
    "max_late_gain=9",
    "min_path=0",
    "max_overfit=9",
    "max_starved_share=1",
    "max_l0_drift=9",
    "max_off_k=9",
    "max_ce_share=9",
)
"""Thresholds that the miniature, whose model is random, meets."""
HEALTHY = [text for one in LENIENT for text in ("--set", f"doctor.{one}")]


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def evaluated(folder: Path, row: str) -> Artifact:
    return Artifact((folder / "results" / "rows" / row / "eval").resolve())


@pytest.mark.usefixtures("here")
def test_every_row_is_judged_and_the_text_that_a_random_model_cannot_know_is_named(lmsae: Lmsae) -> None:
    said = lmsae("doctor")
    assert said.code == 1
    heads = [line for line in said.out.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in heads[:-1]] == [row["name"] for row in ROWS]
    assert all("unknown_text" in line for line in heads[:-1])
    assert heads[-1] == "0 healthy, 4 not"
    assert "ce_clean is" in said.out
    assert "; metrics.json" in said.out
    assert lmsae("doctor", "all") == said


@pytest.mark.usefixtures("here")
def test_thresholds_that_all_rows_meet_make_them_healthy(lmsae: Lmsae) -> None:
    said = lmsae("doctor", *HEALTHY)
    assert (said.code, said.out.splitlines()[-1]) == (0, "4 healthy, 0 not")
    assert "top: healthy" in said.out


@pytest.mark.usefixtures("here")
def test_one_threshold_of_the_command_is_over_those_of_the_sheet(lmsae: Lmsae) -> None:
    said = lmsae("doctor", "top", *HEALTHY, "--set", "doctor.min_explained_variance=1")
    assert said.code == 1
    assert "top: missing_variance" in said.out
    assert "(healthy: at least 1); metrics.json" in said.out


@pytest.mark.usefixtures("here")
def test_a_preset_is_another_set_of_thresholds(lmsae: Lmsae) -> None:
    others = [text for one in LENIENT if not one.startswith("min_expl") for text in ("--set", f"doctor.{one}")]
    demo, published = (lmsae("doctor", "top", *others, "--preset", name) for name in ("demo", "published"))
    assert "(healthy: at least 0.7)" in demo.out
    assert "(healthy: at least 0.9)" in published.out
    assert lmsae("doctor", "top", *others).out == demo.out


def test_rows_and_keys_of_training_and_evaluation_mean_the_same_dictionary(here: Path, lmsae: Lmsae) -> None:
    evaluation = evaluated(here, "top")
    train = evaluation.spec().inputs["dictionary"]
    said = [lmsae("doctor", name) for name in ("top", "top/eval", evaluation.reference, train, train.split("/")[1][:9])]
    assert {one.code for one in said} == {1}
    assert len({one.out.split(": ", 1)[1] for one in said}) == 1


def test_a_key_is_judged_without_a_sheet(here: Path, lmsae: Lmsae) -> None:
    key = evaluated(here, "top").path.name
    by_sheet = lmsae("doctor", key)
    missing = lmsae("doctor", key, "--sweep", "config/none.tsv")
    assert (missing.code, missing.out) == (by_sheet.code, by_sheet.out)
    assert lmsae("doctor", key, "--sweep", "config/none.tsv", *HEALTHY).code == 0


def test_rows_that_are_not_evaluated_are_told_and_are_not_healthy(made: Path, lmsae: Lmsae) -> None:
    evaluated(made, "top").clear()
    said = lmsae("doctor", *HEALTHY)
    assert said.code == 1
    assert "top: not evaluated yet" in said.out
    assert said.out.splitlines()[-1] == "3 healthy, 0 not, 1 not evaluated"


def test_a_dictionary_without_an_evaluation_is_an_error_that_says_so(made: Path, lmsae: Lmsae) -> None:
    (train, *_) = keys(made, "train")
    for artifact in (made / "artifacts/eval").iterdir():
        Artifact(artifact).remove()
    said = lmsae("doctor", train)
    assert said.code == 2
    assert f"train/{train} is not evaluated yet" in said.err
    said = lmsae("doctor")
    assert (said.code, said.err) == (
        2,
        "lmsae doctor: no row of the sweep is evaluated yet: `lmsae run` makes all of it.\n",
    )


def test_an_artifact_that_is_no_dictionary_is_refused(here: Path, lmsae: Lmsae) -> None:
    said = lmsae("doctor", f"norm/{keys(here, 'norm')[0]}")
    assert said.code == 2
    assert "is no dictionary: name a row, or an artifact of train or eval" in said.err


def test_a_damaged_evaluation_is_not_judged(made: Path, lmsae: Lmsae) -> None:
    metrics = evaluated(made, "top").path / "metrics.json"
    metrics.write_text(metrics.read_text().replace("1", "2"))
    said = lmsae("doctor", "top")
    assert said.code == 2
    assert f"{metrics.relative_to(made)}: its bytes are not those that were written" in said.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("doctor.max_dead_shares=1", "there is no such field"),
        ("doctor.max_dead_share=much", "doctor.max_dead_share"),
        ("doctor.preset=strict", "doctor.preset"),
    ],
)
def test_a_threshold_that_is_none_is_a_fault_of_the_command(lmsae: Lmsae, given: str, said: str) -> None:
    answer = lmsae("doctor", "top", "--set", given)
    assert answer.code == 2
    assert said in answer.err


def test_the_report_judges_as_the_doctor_does(here: Path, lmsae: Lmsae) -> None:
    import csv

    with open(here / "results" / "table.csv", newline="") as file:
        table = {row["name"]: row["diagnoses"].split() for row in csv.DictReader(file)}
    heads = [line for line in lmsae("doctor").out.splitlines() if not line.startswith(" ")][:-1]
    assert {line.split(": ")[0]: line.split(": ")[1].split(", ") for line in heads} == table


def test_thresholds_move_the_report_and_nothing_else(fresh: Path, lmsae: Lmsae) -> None:
    def plans() -> dict[str, str]:
        return {path.stem: path.read_text() for path in (fresh / "artifacts/plan").glob("*.json")}

    assert lmsae("plan", "--quiet").code == 0
    before = plans()
    assert lmsae("plan", "--quiet", "--set", "doctor.preset=published").code == 0
    after = plans()
    assert {stage for stage, text in after.items() if json.loads(text) != json.loads(before[stage])} == {"report"}
