"""The command line, above all what it answers to bad input: a clear error, exit code 2, and nothing lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.artifacts.claim import hold_claim
from lmsae.cli import main, parser
from lmsae.runtime.drafts import DRAFT
from lmsae.stages import STAGES, STAND_INS
from tests.miniature import HERE, ROWS, THERE, Said, keys, manifests, row_of, write_config, write_sweep

Lmsae = Callable[..., Said]
TOP = ROWS[0]


def refused(said: Said, *parts: str, code: int = 2) -> None:
    """The command ended with that code and said all of this."""
    assert said.code == code, said
    for part in parts:
        assert part in said.err


def nothing_made(folder: Path) -> None:
    assert manifests(folder) == {}
    assert not (folder / "results").exists()


def with_rows(folder: Path, *changes: dict[str, str]) -> None:
    """A sweep of the miniature's first row, once for each of these changes."""
    write_sweep(folder, [{**TOP, **change} for change in changes])


def test_every_stage_is_a_command() -> None:
    (commands,) = (action for action in parser()._actions if action.choices)
    assert {*STAGES} <= {*(commands.choices or ())}


@pytest.mark.parametrize(
    "command",
    [
        *("plan", "run", "show", "top", "steer", "verify", "convert", "push", "pull", "explain", "gc", "docs"),
        *STAGES,
    ],
)
def test_every_command_answers_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args([command, "--help"])
    assert end.value.code == 0
    assert f"lmsae {command}" in capsys.readouterr().out


# Bad input that the plan finds: the sheet, the config, and what they name


def test_an_unknown_column_is_met_with_the_nearest(fresh: Path, lmsae: Lmsae) -> None:
    with_rows(fresh, {"train.lrr": "1"})
    refused(lmsae("run"), "config/sweep.tsv, column train.lrr", "did you mean train.lr", "config/README.md")
    nothing_made(fresh)


def test_a_misspelled_field_is_met_with_the_nearest(fresh: Path, lmsae: Lmsae) -> None:
    write_config(fresh, train={"bach_size": 3})
    refused(lmsae("run"), "config/config.yaml, column train.bach_size", "did you mean train.batch_size")
    nothing_made(fresh)


@pytest.mark.parametrize(
    ("column", "cell", "allowed"),
    [
        ("train.lr", "fast", "a number greater than 0, or auto"),
        ("train.weight_decay", "much", "a valid number"),
        ("train.tokens", "1.5", "a valid integer"),
        ("train.lr", "-1", "greater than 0"),
        ("init.grid_search", "perhaps", "a valid boolean"),
        ("activations.dtype", "float61", "did you mean float16"),
    ],
)
def test_a_value_of_the_wrong_type_is_met_with_what_is_allowed(
    fresh: Path, lmsae: Lmsae, column: str, cell: str, allowed: str
) -> None:
    with_rows(fresh, {column: cell})
    refused(lmsae("run"), f"config/sweep.tsv, row top, column {column}: found {cell!r}", allowed)
    nothing_made(fresh)


def test_two_rows_of_one_name_are_refused(fresh: Path, lmsae: Lmsae) -> None:
    with_rows(fresh, {}, {"sae.k": "5"})
    refused(lmsae("run"), "config/sweep.tsv, row 2, column name: 'top' is the name of row 1 too")
    nothing_made(fresh)


@pytest.mark.parametrize(
    ("architecture", "column"), [("topk", "k"), ("standard", "l1_coefficient"), ("jumprelu", "l0_coefficient")]
)
def test_an_architecture_without_what_it_needs_is_refused(
    fresh: Path, lmsae: Lmsae, architecture: str, column: str
) -> None:
    with_rows(fresh, {"sae.architecture": architecture, "sae.k": ""})
    refused(lmsae("run"), f"config/sweep.tsv, row top, column sae.{column}", "needs it")
    nothing_made(fresh)


@pytest.mark.parametrize(
    ("hook_point", "answer"),
    [
        ("blocks.0.hook_resid_pots", "did you mean blocks.0.hook_resid_post"),
        ("blocks.2.hook_resid_post", "2 layers"),
        ("blocks.0.hook_resid_mid", "parallel"),
    ],
)
def test_a_hook_point_that_the_model_has_not_is_met_with_the_nearest(
    fresh: Path, lmsae: Lmsae, hook_point: str, answer: str
) -> None:
    with_rows(fresh, {"sae.hook_point": hook_point})
    refused(lmsae("run"), "config/sweep.tsv, row top, column sae.hook_point", hook_point, answer)
    nothing_made(fresh)


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("model.name", "builtin:stdlib-5m"),
        ("model.name", "./no/such/model"),
        ("model.name", "nobody/no-such-model"),
        ("tokenize.tokenizer", "./no/such/tokenizer"),
        ("dataset.name", "./no/such/text.jsonl"),
        ("dataset.name", "nobody/no-such-dataset"),
    ],
)
def test_a_model_or_dataset_that_is_not_there_is_named(fresh: Path, lmsae: Lmsae, column: str, name: str) -> None:
    with_rows(fresh, {column: name})
    refused(lmsae("run"), f"config/sweep.tsv, row top, column {column}", name)
    nothing_made(fresh)


def test_a_hub_that_cannot_be_reached_is_said_at_once(fresh: Path) -> None:
    with_rows(fresh, {"model.name": "nobody/model"}, {"name": "b", "dataset.name": "nobody/dataset"})
    nowhere = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(fresh / "hf")}
    command = [sys.executable, "-m", "lmsae.cli", "plan"]
    env = {**nowhere, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for part in ("row top, column model.name", "row b, column dataset.name", "http://127.0.0.1:9"):
        assert part in done.stderr


def test_a_context_size_beyond_the_models_is_refused(fresh: Path, lmsae: Lmsae) -> None:
    write_config(fresh, tokenize={"context_size": 65})
    refused(lmsae("run"), "column tokenize.context_size", "65", "at most 64")
    nothing_made(fresh)


def test_limits_that_hold_no_context_are_a_fault_of_the_row(fresh: Path, lmsae: Lmsae) -> None:
    with_rows(fresh, {"tokenize.tokens": "10"})
    refused(lmsae("run"), "config/sweep.tsv, row top: tokenize: tokens 10", "context_size 32")
    nothing_made(fresh)


def test_all_faults_are_told_at_once(fresh: Path, lmsae: Lmsae) -> None:
    write_config(fresh, train={"bach_size": 3}, runtime={"thread": 1})
    rows = [
        {**TOP, "name": "a", "train.lr": "fast", "dataset.name": "./nothing.txt"},
        {**TOP, "name": "b", "sae.k": "", "sae.hook_point": "blocks.7.hook_resid_post"},
        {**TOP, "name": "b", "train.seeed": "1", "tokenize.context_size": "99"},
    ]
    write_sweep(fresh, rows)
    said = lmsae("run")
    refused(
        said,
        "9 faults found; nothing was run.",
        "config/config.yaml, column train.bach_size",
        "config/config.yaml, column runtime.thread",
        "config/sweep.tsv, column train.seeed",
        "config/sweep.tsv, row 3, column name",
        "config/sweep.tsv, row a, column train.lr",
        "config/sweep.tsv, row a, column dataset.name",
        "config/sweep.tsv, row b, column sae.k",
        "config/sweep.tsv, row b, column sae.hook_point",
        "config/sweep.tsv, row b, column tokenize.context_size",
    )
    nothing_made(fresh)


def test_a_hook_point_at_fault_does_not_make_k_one(fresh: Path, lmsae: Lmsae) -> None:
    write_config(fresh, sae={"d_sae": None, "expansion_factor": 4})
    with_rows(fresh, {"sae.hook_point": "blocks.7.hook_resid_post", "sae.k": "60"})
    refused(lmsae("plan"), "1 fault found")


# What cannot be: the row's architecture, cells over the miniature's, the column at fault, and part of the answer.
IMPOSSIBLE: list[tuple[str, dict[str, str], str, str]] = [
    (
        "transcoder",
        {"sae.hook_point_in": "blocks.0.hook_resid_pots"},
        "sae.hook_point_in",
        "did you mean blocks.0.hook_",
    ),
    ("clt", {"sae.hook_point_out": f"{HERE} blocks.9.hook_mlp_out"}, "sae.hook_point_out", "2 layers"),
    ("transcoder", {"sae.hook_point": HERE}, "sae.hook_point", "name sae.hook_point_in and sae.hook_point_out instead"),
    ("transcoder", {"sae.hook_point_out": ""}, "sae.hook_point_out", "a transcoder needs it"),
    ("molt", {"sae.hook_point_in": f"{HERE} {THERE}"}, "sae.hook_point_in", "takes one hook point here, not 2"),
    ("topk", {"sae.hook_point_in": HERE}, "sae.hook_point_in", "a sae writes what it reads"),
    ("topk", {"sae.hook_point": f"{HERE} {THERE}"}, "sae.hook_point", "a crosscoder"),
    ("crosscoder", {"sae.hook_point": ""}, "sae.hook_point", "is missing"),
    ("clt", {"sae.hook_point_out": HERE}, "sae.hook_point_out", "names 1 hook points"),
    ("transcoder", {"model.others": "other"}, "model.others", "a transcoder reads one model; only a crosscoder"),
    ("topk", {"model.others": "other"}, "model.others", "a sae reads one model"),
    ("crosscoder", {"model.others": "./no/such/model"}, "model.others", "./no/such/model"),
    ("molt", {"sae.molt_ranks": "99x1"}, "sae.geometry", "molt_ranks 99 cannot be"),
    ("molt", {"sae.molt_ranks": "many"}, "sae.molt_ranks", "'many' is not RANKxSHARE"),
    ("lorsa", {"sae.lorsa_qk_heads": "7"}, "sae.geometry", "lorsa_qk_heads 7"),
    ("lorsa", {"train.batch_size": "16"}, "train.batch_size", "16 tokens hold no whole context of 32"),
    ("standard", {"sae.convert_to_jumprelu": "true"}, "sae.convert_to_jumprelu", "relu cannot be converted"),
    ("topk", {"activations.skip_first_positions": "32"}, "activations.skip_first_positions", "nothing would be left"),
    ("standard", {"train.optimizer": "schedule_free", "train.lr_schedule": "constant"}, "train.optimizer", "use adam"),
    ("standard", {"train.initial_k": "8"}, "train.initial_k", "relu cannot change the number of its codes"),
    ("transcoder", {"train.resample_steps": "4"}, "train.resample_steps", "use the aux_k loss"),
    ("clt", {"init.from_model": "true"}, "init.from_model", "a clt has no counterpart in the model"),
    ("molt", {"init.decoder_init": "uniform"}, "init.decoder_init", "leave it at unit"),
]


@pytest.mark.parametrize(
    ("architecture", "cells", "column", "answer"), IMPOSSIBLE, ids=[f"{row[0]}-{row[2]}" for row in IMPOSSIBLE]
)
def test_what_cannot_be_is_refused_by_file_row_and_column_before_anything_runs(
    fresh: Path, lmsae: Lmsae, architecture: str, cells: dict[str, str], column: str, answer: str
) -> None:
    shutil.copytree(fresh / "model", fresh / "other")
    write_sweep(fresh, [row_of(architecture, **cells)])
    refused(lmsae("run"), "1 fault found", f"config/sweep.tsv, row {architecture}, column {column}: ", answer)
    nothing_made(fresh)


def test_settings_that_do_not_hang_together_are_a_fault_of_the_row(fresh: Path, lmsae: Lmsae) -> None:
    with_rows(fresh, {"train.optimizer": "schedule_free"})
    refused(lmsae("plan"), "config/sweep.tsv, row top: train: optimizer schedule_free", "set it to constant")


@pytest.mark.parametrize("flag", [["--device", "gpu"], ["--threads", "0"]])
def test_a_flag_that_makes_no_sense_is_refused(fresh: Path, lmsae: Lmsae, flag: list[str]) -> None:
    refused(lmsae("run", *flag), f"runtime.{flag[0].removeprefix('--')}", flag[1])
    assert not any(stage.startswith("activations") for stage in manifests(fresh))


@pytest.mark.parametrize("missing", ["config.yaml", "sweep.tsv"])
def test_a_file_that_is_missing_is_named(fresh: Path, lmsae: Lmsae, missing: str) -> None:
    (fresh / "config" / missing).unlink()
    refused(lmsae("plan"), f"config/{missing}: there is no such file", str(fresh))


def test_a_stage_without_a_plan_says_how_to_get_one(fresh: Path, lmsae: Lmsae) -> None:
    refused(lmsae("train"), "artifacts/plan/train.json", "`lmsae plan`")
    nothing_made(fresh)


# Bad input that a stage finds


def test_a_text_without_a_word_is_refused(fresh: Path, lmsae: Lmsae) -> None:
    for file in (fresh / "text").iterdir():
        file.write_text(" \n")
    refused(lmsae("run"), "'text'", "no text in it")
    nothing_made(fresh)
    for file in (fresh / "text").iterdir():
        file.unlink()
    refused(lmsae("run"), "column dataset.name", "no text that can be read here")


def test_more_training_tokens_than_there_are_is_told_before_anything_is_captured(fresh: Path, lmsae: Lmsae) -> None:
    """Nothing has been counted when the plan is made. Each engine's jobs are told: by plan, by stage and by key."""
    with_rows(fresh, {"train.tokens": "1_000_000"}, {"name": "greedy", "train.tokens": "1_000_001"})
    said = lmsae("run")
    counts = json.loads(next((fresh / "artifacts").glob("tokenize/*/counts.json")).read_text())
    usable = f"{counts['train_usable']:,} tokens"
    refused(said, "row top: train.tokens is 1,000,000", usable, "train.epochs", "tokenize.tokens")
    refused(said, "row greedy: train.tokens is 1,000,001")
    refused(lmsae("activations"), "train/", "train.tokens is 1,000,000", usable)
    refused(lmsae("activations", keys(fresh, "activations")[0]), "train.tokens is 1,000,000", usable)
    assert {reference.partition("/")[0] for reference in manifests(fresh)} == {"tokenize"}


@pytest.mark.parametrize(
    ("cells", "most"),
    [
        # Of 250 contexts of 32 tokens, each begins with BOS.
        ({}, "7,750"),
        ({"tokenize.mask_special": "false"}, ""),
        ({"activations.skip_first_positions": "3", "activations.skip_last_positions": "1"}, "7,000"),
        ({"train.epochs": "2"}, ""),
    ],
)
def test_more_training_tokens_than_tokenize_may_leave_is_told_when_planning(
    fresh: Path, lmsae: Lmsae, cells: dict[str, str], most: str
) -> None:
    with_rows(fresh, {"train.tokens": "8_000", "tokenize.tokens": "8_000", "train.batch_size": "200"} | cells)
    said = lmsae("plan")
    if most:
        refused(said, "row top, column train.tokens", f"tokenize.tokens 8,000 leaves at most {most} tokens to train on")
    else:
        assert said.code == 0


def test_more_training_tokens_than_there_are_is_told_when_planning_once_they_are_counted(
    made: Path, lmsae: Lmsae
) -> None:
    with_rows(made, {}, {"name": "greedy", "train.tokens": "1_000_000"})
    counts = json.loads(next((made / "artifacts").glob("tokenize/*/counts.json")).read_text())
    refused(lmsae("plan"), "config/sweep.tsv, row greedy, column train.tokens", f"{counts['train_usable']:,} tokens")


def test_less_training_tokens_than_a_batch_is_refused(made: Path, lmsae: Lmsae) -> None:
    with_rows(made, {"train.tokens": "100"})
    refused(lmsae("plan"), "row top, column train.tokens", "less than one batch of 256")


@pytest.mark.parametrize("stage", ["init", "train"])
def test_a_dictionary_whose_width_does_not_fit_is_refused(made: Path, lmsae: Lmsae, stage: str) -> None:
    """No row can ask for it, since the plan takes the width from the model; a spec written by hand can."""
    spec = Artifact(made / "artifacts" / stage / keys(made, stage)[0]).spec()
    dictionary = {**spec.config["dictionary"], "widths": {"reads": [24], "writes": [24]}}
    wrong = Spec(**{**spec.fields(), "config": {**spec.config, "dictionary": dictionary}})
    Artifacts(made / "artifacts").add(wrong)
    refused(lmsae(stage, wrong.key), "have width 16", "has 24 there")
    assert wrong.reference not in manifests(made)


@pytest.mark.parametrize("stage", ["tokenize", "activations"])
def test_a_disk_without_room_is_noticed_before_anything_is_written(
    made: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    key = keys(made, stage)[0]
    lost = made / "artifacts" / stage / key
    Artifact(lost).clear()
    usage = shutil.disk_usage(made)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    refused(lmsae(stage, key), "free", "`lmsae gc`", str(lost.relative_to(made)))
    assert {path.name for path in lost.rglob("*") if path.is_file()} <= {"spec.json", "zarr.json"}


@pytest.fixture
def damaged_shard(made: Path) -> Path:
    """A shard of the first row's activations with one bit flipped, behind what norm and init read."""
    store = made / "artifacts" / "activations" / keys(made, "activations")[0]
    shard = max(store.glob("activations.zarr/c/*/0/0"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    return shard.relative_to(made)


def test_a_damaged_chunk_stops_training_and_is_named(made: Path, lmsae: Lmsae, damaged_shard: Path) -> None:
    key = keys(made, "train")[0]
    before = manifests(made)
    Artifact(made / "artifacts" / "train" / key).clear()
    refused(lmsae("train", key), str(damaged_shard), "does not match its checksum")
    assert manifests(made) == {name: text for name, text in before.items() if name != f"train/{key}"}


def test_verify_names_a_damaged_chunk(made: Path, lmsae: Lmsae, damaged_shard: Path) -> None:
    said = lmsae("verify")
    assert said.code == 1
    assert f"{damaged_shard}: its bytes are not those that were written" in said.out
    assert f"{len(manifests(made)) - 1} whole, 1 damaged" in said.out


def test_a_spec_that_does_not_hash_to_its_key_is_refused(made: Path, lmsae: Lmsae) -> None:
    spec = made / "artifacts" / "norm" / keys(made, "norm")[0] / "spec.json"
    spec.write_text(spec.read_text().replace('"version":', '"version":9'))
    init = keys(made, "init")[0]
    Artifact(made / "artifacts" / "init" / init).clear()
    refused(lmsae("init", init), str(spec.relative_to(made)), "its sha256 begins with")
    said = lmsae("verify", spec.parent.name)
    assert (said.code, "its sha256 begins with" in said.out) == (1, True)


def test_a_damaged_count_of_tokens_is_named_when_planning(made: Path, lmsae: Lmsae) -> None:
    (counts,) = (made / "artifacts/tokenize").glob("*/counts.json")
    counts.write_text("")
    said = lmsae("plan")
    assert said.code == 2
    assert "counts.json: it is not what was written" in said.err


def test_a_damaged_plan_says_how_to_get_another(made: Path, lmsae: Lmsae) -> None:
    (made / "artifacts/plan/train.json").write_text("")
    said = lmsae("train")
    assert said.code == 2
    assert re.search(r"train\.json: cannot be read as a plan .*; write it again with `lmsae plan`", said.err)


def test_an_artifact_of_another_version_of_its_stage_is_refused(made: Path, lmsae: Lmsae) -> None:
    spec = Artifact(made / "artifacts" / "norm" / keys(made, "norm")[0]).spec()
    older = Artifacts(made / "artifacts").add(Spec(**{**spec.fields(), "version": 0}))
    refused(lmsae("norm", older.path.name), "norm version 0", "Plan the sweep again")


# Interruption and company

DIE_HALF_WAY = """
import os, signal, sys
from lmsae.cli import main
from lmsae.store.writer import StoreWriter
append = StoreWriter.append
def half(self, activations):
    append(self, activations)
    if self._appended > 400:
        self._coming.result()  # what the background writes
        os.kill(os.getpid(), signal.SIGKILL)
StoreWriter.append = half
main(["activations", sys.argv[1]])
"""


@pytest.mark.slow
def test_a_stage_killed_half_way_leaves_no_trace_when_it_is_run_again(
    made: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys(made, "activations")[0]
    folder = made / "artifacts" / "activations" / key
    undisturbed = manifests(made)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    Artifact(folder).clear()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    done = subprocess.run([sys.executable, "-c", DIE_HALF_WAY, key], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (folder / ".claim").exists()
    assert any(path.is_file() for path in folder.rglob(f"*{DRAFT}")), "it was killed before it had written anything"
    (stray := folder / "activations.zarr/c/7/0/0").parent.mkdir(parents=True)
    stray.touch()  # and whatever else it might have left
    said = lmsae("activations", key)
    assert (said.code, said.err) == (0, "activations: 1 made, 0 there already\n")
    assert manifests(made) == undisturbed
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == files


def test_an_artifact_that_another_process_is_making_is_refused(made: Path, lmsae: Lmsae) -> None:
    key = keys(made, "norm")[0]
    folder = made / "artifacts" / "norm" / key
    Artifact(folder).clear()
    with hold_claim(folder):
        refused(lmsae("norm", key), f"norm/{key}", f"process {os.getpid()}", "--wait", code=75)
    assert lmsae("norm", key).code == 0


def test_who_waits_finds_the_artifact_made(
    made: Path, finished: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmsae.artifacts.claim.POLL_S", 0.02)
    key = keys(made, "norm")[0]
    folder = made / "artifacts" / "norm" / key
    Artifact(folder).clear()
    held, waiting = threading.Event(), threading.Event()

    def other() -> None:
        with hold_claim(folder):
            held.set()
            waiting.wait(20)
            for file in (finished / "artifacts" / "norm" / key).iterdir():
                shutil.copy(file, folder)

    def slept(seconds: float) -> None:
        waiting.set()
        pause(seconds)

    pause = time.sleep
    monkeypatch.setattr("time.sleep", slept)
    maker = threading.Thread(target=other)
    maker.start()
    held.wait(20)
    said = lmsae("norm", key, "--wait")
    maker.join()
    assert (said.code, said.err) == (0, "norm: 0 made, 1 there already\n")


@pytest.mark.slow
def test_two_runs_of_the_whole_sweep_at_once_make_everything_once(fresh: Path, finished: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "lmsae.cli", "run", "--wait"]
    runs = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    for stage in (stage for stage in STAGES if stage not in STAND_INS):  # of which no row here wants any
        counts = [int(line.split()[1]) for text in said for line in text.splitlines() if line.startswith(f"{stage}:")]
        assert len(counts) == 2
        assert sum(counts) == len(list((fresh / "artifacts" / stage).iterdir()))
    assert manifests(fresh) == manifests(finished)


def test_an_interrupted_command_says_so_and_ends_with_130(
    fresh: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lmsae.commands.running.run_plan", interrupted)
    said = lmsae("run")
    assert (said.code, said.err) == (130, "lmsae run: interrupted; run it again to go on\n")


def test_an_error_of_the_system_is_told_without_a_traceback(fresh: Path, lmsae: Lmsae) -> None:
    (fresh / "artifacts").write_text("a file where a folder should be")
    refused(lmsae("run"), "artifacts")


def test_a_traceback_is_there_for_the_asking(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_rows(fresh, {"train.lr": "fast"})
    assert main(["plan", "--trace"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_sheet_beside_a_named_config_is_taken(fresh: Path, lmsae: Lmsae) -> None:
    (fresh / "config").rename(fresh / "mine")
    said = lmsae("plan", "--config", "mine/config.yaml")
    assert said.code == 0, said.err
    assert all(row["name"] in said.out for row in ROWS)
    refused(
        lmsae("plan", "--config", "mine/config.yaml", "--sweep", "mine/other.tsv"),
        "mine/other.tsv: there is no such file",
    )
