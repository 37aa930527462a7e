"""What `lmsae plan` and `lmsae show` print."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact
from lmsae.runtime.limits import LIBRARIES, Limit
from tests.miniature import ROWS, Said, keys, write_config, write_sweep

Lmsae = Callable[..., Said]


def table(said: Said) -> dict[str, list[str]]:
    """The lines of both tables, split at two spaces, by their first cell, without what they tell of memory."""
    text = re.sub(r"(, |  )[\d.]+ [kMG]B of memory", "", said.out)
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines if line}


def test_a_plan_of_nothing_made_says_what_is_to_come(fresh: Path, lmsae: Lmsae) -> None:
    said = table(lmsae("plan"))
    assert said["tokenize"] == ["1", "4 rows", "0", "1", "1"]
    assert said["activations"] == ["2", "2 rows", "0", "2", "1", "known once tokenized"]
    assert said["train"] == ["4", "1 rows", "0", "4", "2", "32.8 k tokens"]
    assert said["eval"] == ["4", "1 rows", "0", "4", "1", "4.1 k tokens"]
    assert said["report"] == ["1", "4 rows", "0", "1", "1"]
    assert said["top"][0] == f"to do {keys(fresh, 'tokenize')[0][:6]}"


def test_once_the_tokens_are_counted_a_plan_knows_the_bytes_to_come(made: Path, lmsae: Lmsae) -> None:
    counts = json.loads(next((made / "artifacts").glob("tokenize/*/counts.json")).read_text())
    shards = (file for file in (made / "artifacts").glob("activations/*/*.zarr/c/**/*") if file.is_file())
    there = sum(file.stat().st_size for file in shards)
    for key in keys(made, "activations"):
        Artifact(made / "artifacts" / "activations" / key).clear()
    tokens = 2 * 32 * counts["train_contexts"]  # two hook points
    size = f"{tokens / 1e3:.3g} k tokens, {there / 1e6:.3g} MB"
    assert table(lmsae("plan"))["activations"] == ["2", "2 rows", "0", "2", "1", size]


def test_a_plan_of_all_that_is_made_has_nothing_to_do(made: Path, lmsae: Lmsae) -> None:
    said = table(lmsae("plan"))
    assert said["train"] == ["4", "1 rows", "4", "0", "0"]
    assert all(cell.startswith("done") for cell in said["jump"])


def test_tokenize_and_the_plan_tell_how_much_held_out_text_stands_in_the_training_text(
    fresh: Path, lmsae: Lmsae
) -> None:
    for file in [*(fresh / "text").iterdir()][:30]:
        (fresh / "text" / f"copy-{file.name}").write_text(file.read_text())
    write_config(fresh, tokenize={"context_size": 64})
    assert "held-out windows" not in lmsae("plan").out
    said = lmsae("tokenize").out
    counts = json.loads(next((fresh / "artifacts").glob("tokenize/*/counts.json")).read_text())
    told = f"{100 * counts['held_out_overlap']:.1f} % of the held-out windows of 32 tokens stand in the training text"
    assert counts["held_out_overlap"] > 0.1
    key = keys(fresh, "tokenize")[0]
    assert said.startswith(f"tokenize/{key}: {told} too: near-duplicates")
    assert f"\ntokenize {key[:6]}: {told} too: near-duplicates" in lmsae("plan").out


def test_a_plan_tells_the_memory_of_passes_and_warns_of_those_that_this_machine_cannot_hold(
    made: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in keys(made, "train"):
        Artifact(made / "artifacts" / "train" / key).clear()
    # 2,048 tokens as they are stored and in order, three dictionaries with moments, a gradient, and calibration
    window, weights = 2048 * (2 * 32 + 49), 4 * 2 * 16 * 64 * (3 * 3 + 2)
    tokens = json.loads(next((made / "artifacts").glob("tokenize/*/counts.json")).read_text())["train_contexts"] * 32
    needs = LIBRARIES["resident"] + window + weights + 8 * 4 * 1024 * 64 + 0.05 * tokens
    said = lmsae("plan")
    assert re.search(rf"^train .* tokens, .*{needs / 1e6:.3g} MB of memory$", said.out, re.MULTILINE), said
    assert "on this machine" not in said.out
    monkeypatch.setattr(
        "lmsae.stages.fitting.tightest_limit", lambda: Limit(LIBRARIES["resident"] + 10**6, "the limit")
    )
    said = lmsae("plan")
    assert said.code == 0, "jobs may run elsewhere"
    assert (
        "train: on this machine, needs about 482 MB of memory, 480 MB of them for the libraries, and the limit is"
        in said.out
    )
    assert "calibrated on: lower tokenize.calibration_tokens, or raise the limit" in said.out


def test_a_quiet_plan_prints_nothing_and_is_written_all_the_same(fresh: Path, lmsae: Lmsae) -> None:
    assert lmsae("plan", "--quiet") == Said(0, "", "")
    assert len(keys(fresh, "train")) == 4


def test_a_long_plan_shows_the_first_rows_and_counts_the_others(fresh: Path, lmsae: Lmsae) -> None:
    write_sweep(fresh, [{**ROWS[0], "name": f"row{i}", "train.seed": str(i)} for i in range(50)])
    said = lmsae("plan").out
    assert "row39" in said
    assert "row40" not in said
    assert said.endswith("... and 10 more rows\n")


def test_show_tells_what_an_artifact_is_where_it_comes_from_and_who_wants_it(made: Path, lmsae: Lmsae) -> None:
    key = keys(made, "norm")[0]
    said = lmsae("show", key[:8]).out
    assert f"norm/{key}  finished" in said
    assert "wanted by top, batch, plain\n" in said
    lineage = said.split("lineage\n")[1].split("\n\n")[0].splitlines()
    assert [line.split("/")[0].strip() for line in lineage] == ["tokenize", "activations", "norm"]
    for word in ("peak_memory_bytes", '"lmsae": ', "in 1 files"):
        assert word in said


def test_show_says_what_an_artifact_cost(made: Path, lmsae: Lmsae) -> None:
    (line,) = [line for line in lmsae("show", keys(made, "train")[0]).out.splitlines() if line.startswith("cost")]
    assert "its share of a pass of 3; " in line
    for word in ("tokens/s; waiting for data ", " % of the time; ", "FLOP/s; "):
        assert word in line
    # Of the whole process, which may be that of many tests before.
    assert re.search(r"; [\d.]+ [MG]B of memory at most$", line)
    run = made / "artifacts" / "norm" / keys(made, "norm")[0] / "run.json"
    run.unlink()
    assert "\ncost" not in lmsae("show", keys(made, "norm")[0]).out


def test_show_names_every_row_for_the_report_and_none_for_what_is_unwanted(made: Path, lmsae: Lmsae) -> None:
    assert "wanted by top, batch, plain, jump\n" in lmsae("show", f"report/{keys(made, 'report')[0]}").out
    lost = keys(made, "train")[-1]
    write_sweep(made, ROWS[:3])
    assert "wanted by no row of the sweep" in lmsae("show", lost).out


def test_show_says_that_an_artifact_is_not_finished(fresh: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    said = lmsae("show", keys(fresh, "eval")[0])
    assert (said.code, "  not finished" in said.out, '"tokens": 1024' in said.out) == (0, True, True)


def test_showing_what_is_not_there_is_an_error(made: Path, lmsae: Lmsae) -> None:
    assert lmsae("show", "zzzz").code == 2
