"""Along the way: evaluations on held-out text and kept dictionaries, which change no weight and miss nothing."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lmsae.artifacts.artifact import Artifact
from lmsae.dictionary.dictionary import Dictionary
from lmsae.lm.huggingface import HuggingFaceModel
from lmsae.metrics.definitions import GROUPS
from lmsae.planning.plan import plan_of
from lmsae.stages.along import DENSITIES, KEPT, LINES, METRICS
from lmsae.training.run import Run
from tests.miniature import Said, keys, make_until, row_of, write_config, write_model, write_sweep

Command = Callable[..., Said]
FREE = {"train.optimizer": "schedule_free", "train.lr_schedule": "constant"}
ROWS = [
    row_of("topk", **{"train.ema": "0.9", "train.resample_steps": "8"}),
    row_of("topk", **{"name": "free"}, **FREE),
    row_of("topk", **{"name": "converted", "sae.convert_to_jumprelu": "true"}),
    row_of("batchtopk", **{"train.ema": "0.9"}),
    row_of("gated"),
    row_of("standard"),
    row_of("p_anneal", **{"train.precision": "bfloat16", "train.optimizer": "muon"}),
    row_of("jumprelu", **{"activations.source": "live"}),
    row_of("matryoshka", **{"train.initial_k": "16", "train.k_warm_up_steps": "8"}),
    row_of("topk", **{"name": "e2e", "sae.losses": "e2e_kl", "sae.e2e_kl_coefficient": "100"}),
    row_of("crosscoder", **{"model.others": "other"}),
    row_of("clt"),
    row_of("lorsa"),
]
NAMES = [row["name"] for row in ROWS]
ALONG = {"train.eval_steps": "12", "train.keep_steps": "log", "train.eval_tokens": "1024"}
EVALUATED, KEPT_STEPS = [1, 2, 4, 8, 12, 16, 24, 32], ["1", "16", "2", "4", "8"]
PLAIN = {"topk": "topk", "batch": "batchtopk", "gate": "gated"}
"""Rows of one pass: their names, and their architectures."""


def trained(rows: list[dict[str, str]], until: str = "train") -> dict[str, Path]:
    """The trainings of a sweep in the working directory, by row."""
    write_sweep(Path(), rows)
    make_until(until)
    return found("train")


def found(stage: str) -> dict[str, Path]:
    plan, _ = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    return {row.name: Path("artifacts", row.specs[stage].reference).absolute() for row in plan.rows}


def lines_of(artifact: Path) -> list[dict[str, float]]:
    with open(artifact / LINES, newline="") as file:
        return [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]


def payload(artifact: Path) -> dict[str, bytes]:
    assert Artifact(artifact).damaged_files() == []
    return {entry["path"]: (artifact / entry["path"]).read_bytes() for entry in Artifact(artifact).manifest()["files"]}


@pytest.fixture(scope="module")
def both(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
    """The trainings of every row without anything on the way, and with it, and the evaluations of these."""
    folder = tmp_path_factory.mktemp("along") / "here"
    shutil.copytree(pristine, folder)
    write_model(folder, "other", seed=1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        without = trained(ROWS)
        shutil.copytree("artifacts/train", "without/train")
        aside = {name: folder / "without" / "train" / path.name for name, path in without.items()}
        shutil.rmtree("artifacts/train")
        along = trained([row | ALONG for row in ROWS], "eval")
        return aside, along, found("eval")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_found_on_the_way_changes_no_bit_of_the_dictionary(name: str, both: Any) -> None:
    without, along, _ = both
    plain = payload(without[name])
    assert {"dictionary.safetensors", "curves.csv"} <= plain.keys()
    assert plain == {path: data for path, data in payload(along[name]).items() if path in plain}
    assert {LINES, DENSITIES, "steps/16/dictionary.safetensors"} <= payload(along[name]).keys() - plain.keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_last_evaluation_has_the_numbers_of_the_eval_stage_on_the_same_tokens(name: str, both: Any) -> None:
    _, along, evaluations = both
    scored = json.loads((evaluations[name] / "metrics.json").read_text())
    line = lines_of(along[name])[-1]
    assert scored["tokens"] > 900
    assert {metric: line[metric] for metric in METRICS} == {metric: scored[metric] for metric in METRICS}
    with open(along[name] / DENSITIES, newline="") as file:
        last = [int(one["latents"]) for one in csv.DictReader(file) if one["steps"] == "32"]
    assert last == scored["density_histogram"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_evaluated_at_even_distances_and_at_what_is_kept(name: str, both: Any) -> None:
    lines = lines_of(both[1][name])
    assert list(lines[0]) == ["steps", "tokens", *METRICS, "dead"]
    assert [line["steps"] for line in lines] == EVALUATED
    assert [line["tokens"] for line in lines] == [256 * steps for steps in EVALUATED]
    assert len({line["explained_variance"] for line in lines}) == len(EVALUATED)
    assert sorted(path.name for path in (both[1][name] / KEPT).iterdir()) == KEPT_STEPS


STEADY = {"train.lr_schedule": "constant", "train.lr_warm_up_steps": "4"}
SHORTER: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("topk", {}),
    "mean of weights": ("topk", {"train.ema": "0.9"}),
    "threshold": ("batchtopk", {"train.ema": "0.9"}),
    "schedule-free": ("topk", {"train.optimizer": "schedule_free"}),
    "gate": ("gated", {}),
    "unit rows": ("standard", {"train.ema": "0.9"}),
    "converted": ("batchtopk", {"sae.convert_to_jumprelu": "true"}),
}


@pytest.mark.slow
def test_a_kept_dictionary_is_that_of_a_run_which_ends_there_where_no_schedule_knows_the_end(made: Path) -> None:
    """The same bytes, and usable: the evaluation of the shorter run is the line of the longer one."""
    rows = []
    for name, (architecture, cells) in SHORTER.items():
        steady = STEADY | ({} if "topk" in architecture else {"train.sparsity_warm_up_steps": "3"})
        row = row_of(architecture, **steady, **cells)
        name = name.replace(" ", "-")
        rows.append(row | ALONG | {"name": f"{name}-long"})
        rows.append(row | {"name": f"{name}-short", "train.tokens": str(256 * 16)})
    trainings = trained(rows, "eval")
    for name in (row["name"].removesuffix("-long") for row in rows[::2]):
        kept, short = trainings[f"{name}-long"] / KEPT / "16", trainings[f"{name}-short"]
        for file in ("dictionary.safetensors", "dictionary.json"):
            assert (kept / file).read_bytes() == (short / file).read_bytes(), name
        assert Dictionary.load(kept).config == Dictionary.load(short).config
        evaluation = found("eval")[f"{name}-short"]
        scored = json.loads((evaluation / "metrics.json").read_text())
        (line,) = (line for line in lines_of(trainings[f"{name}-long"]) if line["steps"] == 16)
        assert {metric: line[metric] for metric in METRICS} == {metric: scored[metric] for metric in METRICS}, name
        mine, theirs = load_file(kept / "latents.safetensors"), load_file(evaluation / "latents.safetensors")
        assert all(mine[vector].equal(theirs[vector]) for vector in ("density", "mean_activation"))
    assert len(list(made.glob("artifacts/train/*/steps/16"))) == len(SHORTER)


@pytest.mark.slow
@pytest.mark.usefixtures("made")
def test_rows_have_alone_what_they_have_in_company() -> None:
    rows = [row_of(architecture, **ALONG, **{"name": name}) for name, architecture in PLAIN.items()]
    rows[1] |= {"train.eval_steps": "5", "train.eval_tokens": "512"}
    together = {name: payload(path) for name, path in trained(rows).items()}
    shutil.rmtree("artifacts/train")
    alone = {row["name"]: payload(trained([row])[row["name"]]) for row in rows}
    assert together == alone
    counts = {name: len(files[LINES].splitlines()) for name, files in together.items()}
    assert counts == {"topk": 9, "batch": 13, "gate": 9}


@pytest.mark.usefixtures("made")
def test_the_models_read_the_text_once_and_then_run_only_with_a_dictionary_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    for name in ("read", "logits", "logits_with", "logits_from"):
        real = getattr(HuggingFaceModel, name)

        def call(model: Any, ids: Any, *given: Any, real: Any = real, name: str = name) -> Any:
            if len(ids) == 16:  # not those that it is tried on when it is loaded
                calls.append(name)
            return real(model, ids, *given)

        monkeypatch.setattr(HuggingFaceModel, name, call)
    along = {"train.eval_steps": "8", "train.eval_tokens": "1024"}  # two batches of 16 contexts, four evaluations
    rows = [row_of(architecture, **along, **{"name": name}) for name, architecture in PLAIN.items()]
    trained(rows)
    assert (calls.count("read"), calls.count("logits") + calls.count("logits_with")) == (2, 0)
    assert calls.count("logits_from") == 2 * 2 + 2 * 4 * len(rows)  # the model as it is, ablated, and with a dictionary


# Longer runs, and trainings that differ in what is wanted on the way alone


def steady(tokens: int, **cells: str) -> dict[str, str]:
    row = row_of("batchtopk", **cells)
    return row | {"train.lr_schedule": "constant", "train.lr_warm_up_steps": "4", "train.tokens": str(256 * tokens)}


def facts(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "run.json").read_text())["facts"]


@pytest.fixture
def keeping(made: Path) -> Path:
    """The working directory, where training states are kept."""
    write_config(made, runtime={"device": "cpu", "threads": 1, "keep_training_state": True})
    return made


@pytest.mark.slow
@pytest.mark.usefixtures("keeping")
def test_a_longer_run_goes_on_with_what_the_shorter_one_has_found(tmp_path: Path) -> None:
    (shorter,) = trained([steady(20, **ALONG)]).values()
    (longer,) = trained([steady(40, **ALONG)]).values()
    assert facts(longer)["extends"] == {"reference": f"train/{shorter.name}", "steps": 19}
    went_on = payload(longer)
    assert [line["steps"] for line in lines_of(longer)] == [1, 2, 4, 8, 12, 16, 24, 32, 36, 40]
    shutil.move(shorter, tmp_path / "away")
    shutil.rmtree(longer)
    (straight,) = trained([steady(40, **ALONG)]).values()
    assert facts(straight)["extends"] is None
    assert payload(straight) == went_on


@pytest.mark.slow
@pytest.mark.usefixtures("keeping")
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"train.eval_steps": "5"}, "its dictionary was not evaluated so after 5 steps"),
        ({"train.eval_tokens": "512"}, "its dictionary was not evaluated so after 1 steps"),
        ({"train.keep_steps": "3 8"}, "its dictionary was not evaluated so after 3 steps"),
        (
            {"train.eval_steps": "", "train.eval_tokens": "", "train.keep_steps": "3 8"},
            "its dictionary was not kept after 3 steps",
        ),
    ],
)
def test_a_longer_run_that_wants_more_begins_anew_and_says_so(
    wanted: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained([steady(20, **ALONG)])
    capsys.readouterr()
    (longer,) = trained([steady(40, **ALONG | wanted)]).values()
    assert facts(longer)["extends"] is None
    assert f"{said}, as is wanted here" in capsys.readouterr().err


@pytest.mark.usefixtures("keeping")
def test_a_longer_run_takes_no_kept_dictionary_that_is_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    (shorter,) = trained([steady(20, **ALONG)]).values()
    (shorter / KEPT / "4" / "dictionary.json").write_text("{}")
    (longer,) = trained([steady(40, **ALONG)]).values()
    assert facts(longer)["extends"] is None
    assert "steps/4/dictionary.json is not what was written" in capsys.readouterr().err
    assert payload(longer).keys() >= {f"steps/{steps}/dictionary.json" for steps in (1, 2, 4, 8, 16, 32)}


@pytest.mark.slow
@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    "fewer",
    [
        {"train.eval_steps": "", "train.keep_steps": "", "train.eval_tokens": ""},
        {"train.eval_steps": "", "train.eval_tokens": ""},
        {"train.eval_steps": "24", "train.keep_steps": ""},
        {"train.keep_steps": "2 16"},
    ],
)
def test_who_wants_less_on_the_way_takes_all_over_and_trains_nothing(
    fewer: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = row_of("topk", **{"sae.convert_to_jumprelu": "true"})
    (more,) = trained([row | ALONG]).values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", None)
        (taken,) = trained([row | ALONG | fewer]).values()
    assert facts(taken)["taken_over"] == f"train/{more.name}"
    found = payload(taken)
    shutil.move(more, tmp_path / "away")
    shutil.rmtree(taken)
    (anew,) = trained([row | ALONG | fewer]).values()
    assert payload(anew) == found


@pytest.mark.usefixtures("made")
def test_who_wants_more_on_the_way_trains_again_to_the_same_weights_and_is_told_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (less,) = trained([row_of("topk")]).values()
    capsys.readouterr()
    (more,) = trained([row_of("topk", **ALONG)]).values()
    told = capsys.readouterr().out
    assert f"train/{less.name} has the same weights and is not enough: its dictionary was not evaluated so" in told
    assert (more / "dictionary.safetensors").read_bytes() == (less / "dictionary.safetensors").read_bytes()


@pytest.mark.usefixtures("made")
def test_a_damaged_twin_is_passed_over() -> None:
    (more,) = trained([row_of("topk", **ALONG)]).values()
    (more / "dictionary.safetensors").write_bytes(b"")
    (plain,) = trained([row_of("topk") | {"train.lr": "0.0011"} | ALONG]).values()
    (less,) = trained([row_of("topk") | ALONG | {"train.keep_steps": ""}]).values()
    assert "taken_over" not in facts(less) | facts(plain)


# What people see


@pytest.mark.usefixtures("made")
def test_a_log_has_a_line_for_each_round_of_evaluations(lmsae: Command, made: Path) -> None:
    write_config(made, runtime={"device": "cpu", "threads": 1, "progress": None})
    rows = [row_of(architecture, **ALONG, **{"name": name}) for name, architecture in PLAIN.items()]
    write_sweep(made, rows)
    make_until("init")
    said = [line for line in lmsae("train").err.splitlines() if "held-out" in line]
    assert len(said) == len(EVALUATED)
    variances = [lines_of(path)[-1]["explained_variance"] for path in found("train").values()]
    assert said[-1].startswith(
        f"train: after 32 steps, on held-out text: explained variance {min(variances):.3g} to {max(variances):.3g}, L0 "
    )


def test_what_is_kept_and_evaluated_stands_in_the_plan(fresh: Path, lmsae: Command) -> None:
    write_sweep(fresh, [row_of("topk")])
    plain = lmsae("plan").out
    write_sweep(fresh, [row_of("topk", **ALONG)])
    along = lmsae("plan").out
    weights = 2 * 16 * 64 * 4
    assert f"{5 * weights / 1000:.3g} kB of dictionaries on the way" in along
    assert "on the way" not in plain
    specs = [Artifact(fresh / "artifacts/train" / key).spec() for key in keys(fresh, "train")]
    assert specs[0].config["held_out"]["groups"].keys() == {"reconstruction", "sparsity", "model"}


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"train.keep_steps": "sometimes"}, "wanted: log, one duration (every 500 steps), or several that rise"),
        ({"train.keep_steps": "8 4"}, "wanted: log, one duration (every 500 steps), or several that rise"),
        ({"train.keep_steps": "4 32"}, "this row trains for 32 steps; wanted: fewer than that"),
        ({"train.eval_tokens": "100"}, "changes nothing in this row: it needs train.eval_steps above 0"),
        ({"train.eval_steps": "-1"}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_refused_in_planning(fresh: Path, lmsae: Command, cells: dict[str, str], said: str) -> None:
    write_sweep(fresh, [row_of("topk", **cells)])
    answer = lmsae("plan")
    assert answer.code == 2
    assert said in answer.err + answer.out


@pytest.mark.usefixtures("made")
def test_a_row_planned_with_metrics_of_another_version_fails_and_its_companion_is_trained(
    lmsae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of lmsae."""
    write_sweep(Path(), [row_of("gated"), row_of("topk", **{"name": "before", "train.eval_steps": "8"})])
    make_until("init")
    trainings = found("train")
    newer = replace(GROUPS["sparsity"], version=GROUPS["sparsity"].version + 1)
    monkeypatch.setitem(GROUPS, "sparsity", newer)
    planned_anew = found("train")
    assert planned_anew["gated"] == trainings["gated"]
    assert planned_anew["before"] != trainings["before"], "its key knows the version"
    said = lmsae("train")
    assert said.code == 2
    assert "wants the metric group sparsity in version" in said.err
    assert {name: Artifact(path).is_finished for name, path in trainings.items()} == {"gated": True, "before": False}


@pytest.mark.slow
@pytest.mark.usefixtures("made")
def test_the_report_draws_what_was_measured_on_the_way_of_those_rows_that_wanted_it() -> None:
    heading = "Held-out text in the course of training"
    trained([row_of("topk", **{"train.eval_steps": "8"}), row_of("batchtopk")], "report")
    page = Path("results/report.html").read_text()
    assert page.count(f">{heading}</h2>") == 1
    assert Path("results/plots/along-1.svg").exists()
    trained([row_of("batchtopk")], "report")
    assert heading not in Path("results/report.html").read_text()
