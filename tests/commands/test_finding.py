"""Artifacts by the names that people have for them, with or without a sheet that has faults."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.miniature import ROWS, Said, keys, write_sweep

Lmsae = Callable[..., Said]
FAULTY = [{**ROWS[0], "sae.architecture": "tpok"}, *ROWS[1:]]


@pytest.mark.parametrize("faulty", [False, True])
def test_a_row_is_shown_by_its_name_as_its_training_or_as_a_stage(made: Path, lmsae: Lmsae, faulty: bool) -> None:
    train, evaluation = (f"{stage}/{(made / 'results/rows/top' / stage).resolve().name}" for stage in ("train", "eval"))
    if faulty:
        write_sweep(made, FAULTY)
    for name, reference in {"top": train, "top/train": train, "top/eval": evaluation}.items():
        said = lmsae("show", name)
        assert (said.code, said.err) == (0, "")
        assert said.out.startswith(f"{reference}  finished")


def test_a_key_is_shown_when_the_sheet_has_faults_or_is_gone(made: Path, lmsae: Lmsae) -> None:
    key = keys(made, "norm")[0]
    write_sweep(made, FAULTY)
    unknown = "wanted by nobody knows: the sheet has faults, which `lmsae plan` lists"
    assert unknown in lmsae("show", key).out
    (made / "config/sweep.tsv").unlink()
    assert unknown in lmsae("show", f"norm/{key[:8]}").out


def test_a_row_that_was_changed_means_what_the_sheet_says_now(made: Path, lmsae: Lmsae) -> None:
    before = (made / "results/rows/top/train").resolve().name
    write_sweep(made, [{**ROWS[0], "train.lr": "0.5"}, *ROWS[1:]])
    lmsae("plan", "--quiet")
    said = lmsae("show", "top").out
    assert "not finished" in said.splitlines()[0]
    assert before not in said


def test_a_row_that_the_sheet_has_no_more_is_the_published_one(made: Path, lmsae: Lmsae) -> None:
    write_sweep(made, ROWS[1:])
    said = lmsae("show", "top").out
    assert said.startswith(f"train/{(made / 'results/rows/top/train').resolve().name}  finished")
    assert "wanted by no row of the sweep" in said


def test_a_row_of_two_hook_points_has_several_artifacts_of_a_stage_and_names_them(made: Path, lmsae: Lmsae) -> None:
    both = "blocks.0.hook_resid_post blocks.1.hook_resid_post"
    columns = {"sae.architecture": "crosscoder", "sae.k": "", "sae.hook_point": both, "sae.l1_coefficient": "1"}
    write_sweep(made, [{**ROWS[0], **columns}])
    said = lmsae("show", "top/norm").err
    assert "row top has several artifacts of norm: name one of norm/" in said


@pytest.mark.parametrize("name", ["tpo", "top/report", "../top", "top/train/x"])
def test_a_name_that_means_nothing_is_told_with_the_nearest_row(made: Path, lmsae: Lmsae, name: str) -> None:
    said = lmsae("show", name)
    assert said.code == 2
    assert "has a key that begins with" in said.err
    assert name != "tpo" or "No row is called 'tpo' either; did you mean top?" in said.err


@pytest.mark.parametrize(("stage", "told"), [("evla", "'evla'; did you mean eval?"), ("divide", "'divide'\n")])
def test_a_stage_that_a_row_has_not_is_told_of_the_row_that_there_is(
    made: Path, lmsae: Lmsae, stage: str, told: str
) -> None:
    said = lmsae("show", f"top/{stage}")
    assert said.code == 2
    assert f"Row top has no artifact of {told}" in said.err


@pytest.mark.parametrize("faulty", [False, True])
def test_a_row_is_converted_by_its_name(made: Path, tmp_path: Path, lmsae: Lmsae, faulty: bool) -> None:
    if faulty:
        write_sweep(made, FAULTY)
    folder = tmp_path / "converted"
    said = lmsae("convert", "batch", str(folder))
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"train/{(made / 'results/rows/batch/train').resolve().name} as jumprelu")
    assert (folder / "cfg.json").exists()
