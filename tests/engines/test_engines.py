"""Snakemake and DVC compute exactly what is missing, and each finds made what the other has made."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from lmsae.commands.new_project import start_project
from lmsae.report.main_metrics import MAIN_METRICS
from lmsae.stages import STAND_INS
from tests.engines import forking
from tests.engines.sweep import (
    REPOSITORY,
    TWO_ROWS,
    TWO_ROWS_MAKE,
    Sweep,
    at_once,
    environment,
    new_sweep,
    write_config,
)
from tests.miniature import CONFIG, manifests, row_of, write_sweep

ENGINES = ["snakemake", "dvc"]
NOTHING: Counter[str] = Counter()
pytestmark = pytest.mark.xdist_group("engines")


def jobs(said: str) -> Counter[str]:
    """How many jobs of each rule Snakemake says it will run."""
    if "Nothing to be done" in said:
        return Counter()
    table = said.split("Job stats:")[1].split("\ntotal")[0].splitlines()[3:]
    return Counter({rule: int(count) for rule, count in map(str.split, table)})


def stages_run(said: str) -> list[str]:
    """The stages whose command DVC says it ran."""
    return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]


def test_snakemake_makes_every_artifact_and_the_report_of_a_sweep(sweep: Sweep) -> None:
    assert Counter(reference.split("/")[0] for reference in manifests(sweep.folder)) == TWO_ROWS_MAKE
    assert "top" in (sweep.folder / "results/report.html").read_text()
    assert (sweep.folder / "results/rows/top/train/manifest.json").exists()


@pytest.mark.slow
def test_snakemake_makes_a_sweep_of_which_nothing_is_made(empty: Sweep, sweep: Sweep) -> None:
    said = empty.snakemake()
    assert empty.computed() == TWO_ROWS_MAKE
    assert manifests(empty.folder) == manifests(sweep.folder)
    assert "The report is results/report.html" in said


def test_snakemake_starts_no_job_on_a_finished_sweep(sweep: Sweep) -> None:
    assert jobs(sweep.snakemake()) == Counter()
    assert sweep.computed() == NOTHING


def test_dvc_computes_nothing_after_snakemake_and_then_skips_every_stage(sweep: Sweep) -> None:
    run = stages_run(sweep.dvc("repro"))[1:]
    assert {*STAND_INS} <= {*run}, "with nothing to do"
    assert [stage for stage in run if stage not in STAND_INS] == list(TWO_ROWS_MAKE)
    assert stages_run(sweep.dvc("repro")) == ["plan"]
    assert sweep.computed() == NOTHING


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_new_row_trains_and_evaluates_one_dictionary(sweep: Sweep, engine: str) -> None:
    write_sweep(sweep.folder, [*TWO_ROWS, {**TWO_ROWS[0], "name": "quicker", "train.lr": "0.01"}])
    sweep.engine(engine)
    assert sweep.computed() == Counter(train=1, eval=1, features=1, page=1, report=1)
    assert "quicker" in (sweep.folder / "results/report.html").read_text()


@pytest.mark.slow
def test_a_changed_learning_rate_retrains_one_dictionary_and_changed_back_none(sweep: Sweep) -> None:
    write_sweep(sweep.folder, [TWO_ROWS[0], {**TWO_ROWS[1], "train.lr": "0.01"}])
    sweep.dvc("repro")
    assert sweep.computed() == Counter(train=1, eval=1, features=1, page=1, report=1)
    report = (sweep.folder / "results/report.html").read_bytes()
    write_sweep(sweep.folder, TWO_ROWS)
    assert jobs(sweep.snakemake()) == Counter(report=1, all=1)
    assert sweep.computed() == NOTHING
    assert (sweep.folder / "results/report.html").read_bytes() != report, "the first report is published again"


@pytest.mark.slow
def test_a_changed_context_size_moves_everything_and_changed_back_nothing(sweep: Sweep) -> None:
    write_config(sweep.folder, tokenize={"context_size": 16})
    sweep.dvc("repro")
    assert sweep.computed() == TWO_ROWS_MAKE
    assert jobs(sweep.snakemake()) == Counter(), "what DVC has made, Snakemake finds made"
    write_config(sweep.folder)
    assert jobs(sweep.snakemake()) == Counter(report=1, all=1)
    assert sweep.computed() == NOTHING


@pytest.mark.slow
def test_a_row_of_another_hook_point_starts_no_job_of_the_rows_before_it(sweep: Sweep) -> None:
    # The forward pass is now for two hook points, so the pass is another; what hangs on its first one is not run again.
    write_sweep(sweep.folder, [*TWO_ROWS, {**TWO_ROWS[0], "name": "up", "sae.hook_point": "blocks.1.hook_resid_post"}])
    wanted = Counter(activations=1, norm=1, init=1, train=1, eval=1, features=1, page=1, report=1)
    assert jobs(sweep.snakemake("--dry-run")) == wanted + Counter(all=1)
    assert sweep.computed() == NOTHING


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_over_two_hook_points_makes_the_store_that_is_missing_and_reads_both(sweep: Sweep, engine: str) -> None:
    write_sweep(sweep.folder, [*TWO_ROWS, row_of("crosscoder")])
    sweep.engine(engine)
    assert sweep.computed() == Counter(activations=1, norm=1, init=1, train=1, eval=1, features=1, page=1, report=1)
    assert {path.name for path in (sweep.folder / "results/rows/crosscoder").iterdir()} >= {"activations", "norm.1"}


@pytest.mark.slow
def test_a_manifest_deleted_by_hand_is_restored_and_nothing_computed(sweep: Sweep) -> None:
    before = manifests(sweep.folder)
    for manifest in sweep.artifacts.glob("*/*/manifest.json"):
        manifest.unlink()
    assert jobs(sweep.snakemake()) == Counter()
    assert manifests(sweep.folder) == before
    assert sweep.computed() == NOTHING


@pytest.mark.slow
def test_activations_deleted_to_save_space_are_not_made_again_for_a_finished_sweep(sweep: Sweep) -> None:
    shutil.rmtree(sweep.artifacts / "activations")
    assert jobs(sweep.snakemake("--dry-run")) == Counter()
    assert jobs(sweep.snakemake("--dry-run", "activations_all")) == Counter(activations=1, activations_all=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_faulty_sheet_is_met_with_its_faults_before_anything_runs(empty: Sweep, engine: str) -> None:
    write_sweep(empty.folder, [{**TWO_ROWS[0], "sae.architecture": "tpok"}, {**TWO_ROWS[1], "train.lr": "quick"}])
    said = empty.engine(engine, fails=True)
    assert "config/sweep.tsv, row top, column sae.architecture" in said
    assert "did you mean topk" in said
    assert "config/sweep.tsv, row batch, column train.lr" in said
    assert "Traceback" not in said
    assert not list(empty.artifacts.glob("*/*"))


@pytest.mark.slow
def test_a_run_killed_half_way_is_finished_by_the_next(sweep: Sweep) -> None:
    write_config(sweep.folder, train={"tokens": 6144})
    command = ["snakemake", "--cores", "2", "train_all"]
    before = set(sweep.artifacts.glob("train/*"))
    with subprocess.Popen(command, cwd=sweep.folder, env=environment(), start_new_session=True) as running:
        deadline = time.monotonic() + 60
        while not any((new / ".claim").exists() for new in set(sweep.artifacts.glob("train/*")) - before):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGKILL)
    assert sweep.computed() == NOTHING
    sweep.snakemake("--unlock")
    sweep.snakemake()
    assert sweep.computed() == Counter(train=2, eval=2, features=2, page=2, report=1)
    sweep.run("lmsae", "verify")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*TWO_ROWS_MAKE])
def test_after_snakemake_alone_is_killed_in_any_stage_the_next_makes_what_is_missing(sweep: Sweep, stage: str) -> None:
    """Its job goes on for a while, and the next run waits for that one's claims."""
    before, stages, target = manifests(sweep.folder), list(TWO_ROWS_MAKE), f"{stage}_all"
    here = stages.index(stage)
    for behind in stages[here:]:
        shutil.rmtree(sweep.artifacts / behind)
    with subprocess.Popen(["snakemake", "--cores", "1", target], cwd=sweep.folder, env=environment()) as running:
        deadline = time.monotonic() + 300
        while not list(sweep.artifacts.glob(f"{stage}/*/.claim")):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.kill()
    sweep.snakemake("--unlock")
    sweep.snakemake(target)
    until = stages[: here + 1]
    assert manifests(sweep.folder) == {name: text for name, text in before.items() if name.split("/")[0] in until}


@pytest.mark.slow
def test_the_log_of_a_job_that_is_killed_for_its_memory_says_what_that_means(sweep: Sweep) -> None:
    """A shell stands in for the kernel: it kills itself in the place of a training."""
    write_config(sweep.folder, train={"tokens": 6144})
    real, killed = shutil.which("lmsae", path=environment()["PATH"]), sweep.folder / "bin/lmsae"
    killed.parent.mkdir()
    killed.write_text(f'#!/bin/sh\n[ "$1" = train ] && kill -9 $$\nexec {real} "$@"\n')
    killed.chmod(0o755)
    path = os.pathsep.join([str(killed.parent), environment()["PATH"]])
    command = ["snakemake", "--cores", "1", "train_all"]
    env = {**environment(), "PATH": path}
    done = subprocess.run(command, cwd=sweep.folder, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    logs = [log.read_text() for log in (sweep.folder / "logs/train").glob("*.log")]
    assert any("lmsae train: killed (exit code 137)" in log and "lower runtime.together" in log for log in logs), done


@pytest.mark.slow
def test_a_dictionary_deleted_from_a_finished_chain_comes_back(sweep: Sweep) -> None:
    before = manifests(sweep.folder)
    shutil.rmtree(sweep.artifacts / "train")
    sweep.snakemake()
    assert sweep.computed() == Counter(train=2)
    assert manifests(sweep.folder) == before


@pytest.mark.slow
def test_a_row_that_fails_costs_no_other_its_results_under_snakemake(sweep: Sweep) -> None:
    """It is trained beside another, and evaluated in one pass with a third."""
    write_config(sweep.folder, train={"grad_clip": 0})
    up = {**TWO_ROWS[0], "name": "up", "sae.hook_point": "blocks.1.hook_resid_post"}
    write_sweep(sweep.folder, [TWO_ROWS[0], {**TWO_ROWS[1], "name": "burst", "train.lr": "1e30"}, up])
    said = sweep.snakemake(fails=True)
    assert "the loss is" in said
    assert "Lower train.lr" in said
    assert sweep.computed() == Counter(activations=1, norm=1, init=1, train=2, eval=2, features=2, page=2, report=1)
    assert "burst (not trained)" in (sweep.folder / "results/report.html").read_text()
    assert {path.name for path in (sweep.folder / "results/saelens").iterdir()} == {"top", "up"}
    assert "the loss is" in sweep.snakemake("train_all", fails=True)
    write_sweep(sweep.folder, [TWO_ROWS[0], up])
    sweep.snakemake()
    assert "missing</span>" not in (sweep.folder / "results/report.html").read_text()


@pytest.mark.slow
def test_the_report_of_what_there_is_is_made_though_a_job_was_killed(sweep: Sweep) -> None:
    third = {**TWO_ROWS[0], "name": "third", "train.lr": "0.01"}
    write_sweep(sweep.folder, [*TWO_ROWS, third])
    write_config(sweep.folder, runtime={"device": "cpu", "threads": 1, "time_limit": 0.001})
    sweep.snakemake(fails=True)
    assert sweep.computed() == Counter(report=1)
    assert "third (not trained)" in (sweep.folder / "results/report.html").read_text()


@pytest.mark.slow
def test_a_job_works_from_its_pass_and_never_reads_the_sheet(sweep: Sweep) -> None:
    (name,) = [path.stem for path in (sweep.artifacts / "passes/train").glob("*.done")]
    (sweep.artifacts / f"passes/train/{name}.done").unlink()
    (sweep.folder / "config/sweep.tsv").write_text("changed since this job was submitted")
    # What a cluster job starts, without its options about the cluster.
    job = ["--mode", "remote", "--target-jobs", f"train:name={name}", "--allowed-rules", "train", "--nolock"]
    sweep.snakemake("--force", "--no-hooks", *job)
    assert (sweep.artifacts / f"passes/train/{name}.done").exists()
    assert sweep.computed() == NOTHING


@pytest.mark.slow
def test_the_target_of_a_row_leaves_the_other_rows_alone(empty: Sweep) -> None:
    one_of_each = Counter(tokenize=1, activations=1, norm=1, init=1, train=1, eval=1, features=1, page=1)
    assert jobs(empty.snakemake("--dry-run", "row_batch")) == one_of_each + Counter(row_batch=1)


@pytest.mark.slow
def test_another_folder_of_config_can_be_named(empty: Sweep) -> None:
    shutil.move(empty.folder / "config", empty.folder / "other")
    said = empty.snakemake("--dry-run", "--printshellcmds", "train_all", "--config", "folder=other")
    assert jobs(said) == Counter(tokenize=1, activations=1, norm=1, init=1, train=1, train_all=1)
    assert "--config other/config.yaml" in said
    said = empty.snakemake("--dry-run", "--config", "folder=other", "train_all", fails=True)
    assert "Invalid config definition" in said, "docs/engines.md says so"


@pytest.mark.slow
def test_folders_may_have_names_that_mean_something_to_a_shell_or_to_snakemake(empty: Sweep) -> None:
    named = "it's $HOME & (more) {x}"
    write_config(empty.folder, runtime={"artifacts": "my artifacts; $(true)"})
    shutil.move(empty.folder / "config", empty.folder / named)
    empty.snakemake("tokenize_all", "--config", f"folder={named}")
    (made,) = (empty.folder / "my artifacts; $(true)").glob("tokenize/*/manifest.json")
    assert made.stat().st_size > 0
    assert {path.name for path in empty.folder.glob("*more*")} == {named}


@pytest.mark.slow
def test_braces_in_the_folder_of_artifacts_are_refused(empty: Sweep) -> None:
    write_config(empty.folder, runtime={"artifacts": "made {x}"})
    said = empty.snakemake("--dry-run", fails=True)
    assert "runtime.artifacts made {x}: Snakemake takes braces in a path for wildcards. Name another folder." in said


@pytest.mark.slow
def test_the_rule_graph_is_the_seven_stages(empty: Sweep) -> None:
    lines = empty.snakemake("--rulegraph", "mermaid-js").splitlines()
    rules = {line.split("[")[1].rstrip("]") for line in lines if line.strip().startswith("id") and "[" in line}
    assert rules == {*TWO_ROWS_MAKE, "all"}


@pytest.mark.slow
def test_snakemake_finds_nothing_to_say_against_the_workflow(empty: Sweep) -> None:
    assert "your workflow is in a good condition" in empty.run("snakemake", "--lint")


@pytest.mark.slow
def test_dvc_shows_and_compares_metrics_and_plots(committed: Sweep, tmp_path: Path) -> None:
    sweep = committed.copy(tmp_path / "sweep")
    write_sweep(sweep.folder, TWO_ROWS[:1])
    sweep.dvc("repro")
    shown, compared = sweep.dvc("metrics", "show"), sweep.dvc("metrics", "diff")
    header, *lines = [line.split() for line in shown.splitlines() if line.strip()]
    assert header == ["Path", *sorted(metric.name for metric in MAIN_METRICS)]
    assert [path for path, *_ in lines] == ["results/metrics/top.json"]
    metrics = json.loads((sweep.folder / "results/metrics.json").read_text())["top"]
    assert [float(cell) for cell in lines[0][1:]] == [round(metrics[name], 5) for name in header[1:]]
    gone = {(path, name): float(old) for path, name, old, new, _ in map(str.split, compared.splitlines()[1:])}
    assert gone.keys() == {("results/metrics/batch.json", name) for name in header[1:]}
    sweep.dvc("plots", "diff", "HEAD")
    page = (sweep.folder / "dvc_plots/index.html").read_text()
    assert all(f"results/{name}.csv" in page for name in ("pareto", "density", "curves"))


@pytest.mark.slow
def test_dvc_runs_two_sweeps_that_share_artifacts_and_each_leaves_the_other_alone(
    committed: Sweep, tmp_path: Path
) -> None:
    first = committed.copy(tmp_path / "sweep")
    first.computed()
    start_project(first.folder / "second", say=lambda line: None)
    second = first.folder / "second"
    for name in ("model", "text"):
        (second / name).symlink_to(f"../{name}")
    write_config(second, runtime={**CONFIG["runtime"], "artifacts": "../artifacts"})
    write_sweep(second, [{**TWO_ROWS[0], "sae.k": "{4, 6}"}])
    first.dvc("repro", "second/dvc.yaml")
    assert first.computed() == Counter(init=1, train=1, eval=1, features=1, page=1, report=1)
    assert {path.name for path in (second / "results/rows").iterdir()} == {"top-k4", "top-k6"}
    assert "top-k6" not in (first.folder / "results/report.html").read_text()
    assert stages_run(first.dvc("repro")) == ["plan"], "what the second sweep has made changes nothing of the first"
    assert stages_run(first.dvc("repro", "second/dvc.yaml")) == ["second/dvc.yaml:plan"]
    assert first.computed() == NOTHING


@pytest.mark.slow
def test_dvc_carries_reports_and_dictionaries_to_another_clone(committed: Sweep, tmp_path: Path) -> None:
    sweep, clone = committed.copy(tmp_path / "sweep"), Sweep(tmp_path / "clone")
    sweep.run("git", "clone", "--quiet", str(sweep.folder), str(clone.folder))
    for side in (sweep, clone):
        side.dvc("remote", "add", "--local", "--default", "there", str(tmp_path / "remote"))
    sweep.dvc("push")
    clone.dvc("pull", "results/saelens", "results/report.html", "results/metrics.json")
    for name in ("report.html", "metrics.json", "saelens/top/sae_weights.safetensors"):
        assert (clone.folder / "results" / name).read_bytes() == (sweep.folder / "results" / name).read_bytes()


@pytest.mark.slow
def test_a_stage_added_as_the_page_says_runs_under_every_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    for name in ("lmsae", "docs", "config"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    sweeps = {engine: new_sweep(tmp_path / engine) for engine in ("run", "snakemake", "dvc")}
    page = (REPOSITORY / "docs/adding-a-stage.md").read_text()
    for diff in re.findall(r"^```diff\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        subprocess.run(["git", "apply", "-p1", "-"], cwd=copy, input=diff, text=True, check=True)
    for sweep in sweeps.values():
        shutil.copy(copy / "lmsae/project/dvc.yaml", sweep.folder)
        sweep.package = copy
    with forking.started(copy) as program:
        monkeypatch.setitem(at_once, copy, program)
        sweeps["run"].run("lmsae", "run")
        sweeps["snakemake"].snakemake()
        sweeps["dvc"].dvc("repro")
    monkeypatch.delitem(at_once, copy)
    made = [{name: text for name, text in manifests(sweep.folder).items()} for sweep in sweeps.values()]
    assert made[0] == made[1] == made[2]
    assert [sweep.computed()["decoder"] for sweep in sweeps.values()] == [2, 2, 2]
    assert "decoder" in sweeps["run"].run("lmsae", "--help")
    assert "decoder: 0 made, 2 there already" in sweeps["run"].run("lmsae", "run")
    sweeps["run"].run("lmsae", "docs", "--config", str(copy / "config/config.yaml"))
    assert "`decoder.bins`" in (copy / "config/README.md").read_text()
