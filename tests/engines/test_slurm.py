"""The Slurm profile on a real Slurm of one node."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from lmsae.artifacts.artifact import CHECKPOINT, Artifacts
from lmsae.artifacts.claim import NAME, hold_claim
from lmsae.artifacts.owner import Owner
from tests.engines.slurm import one_node_slurm
from tests.engines.sweep import TWO_ROWS, Sweep, environment
from tests.miniature import keys, make_until, manifests, write_sweep

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("engines")]
Found = TypeVar("Found")
TRAINED = ("tokenize", "activations", "norm", "init", "train")
# Only how often Snakemake looks is not as the profile has it.
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with one_node_slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture
def cluster(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Submitted:
    """A job as Slurm tells of it: its number, state, comment, and what it was asked for."""

    number: int
    state: str
    comment: str
    megabytes: int
    minutes: int


def submitted(rule: str = "") -> list[Submitted]:
    """The jobs of a run so far, in the order of their numbers; of a rule, if it is named."""
    command = ["squeue", "--states=all", "--noheader", "--format=%i|%T|%k|%m|%l|%j"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    told = [line.split("|") for line in lines]
    jobs = [
        Submitted(int(number), state, comment, int(memory.removesuffix("M")), _minutes(limit))
        for number, state, comment, memory, limit, name in told
        if name.startswith("lmsae_") and comment.startswith(f"rule_{rule}")
    ]
    return sorted(jobs, key=lambda job: job.number)


def _minutes(limit: str) -> int:
    """The minutes of a limit such as `1-02:30:00` or `30:00`."""
    days, _, time_of_day = limit.rpartition("-")
    hours, minutes, _ = ("0:" + time_of_day).split(":")[-3:]
    return (24 * int(days or 0) + int(hours)) * 60 + int(minutes)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_makes_the_same_artifacts_as_this_machine_and_is_asked_for_what_they_take(
    by_snakemake: Sweep, empty: Sweep
) -> None:
    before = {job.number for job in submitted()}
    own = ["--set-resources", "train:gpu=1"]
    said = empty.run("snakemake", "--profile", "slurm", "train_all", *QUICK, *own)
    assert "has been submitted with SLURM jobid" in said
    local = manifests(by_snakemake.folder)
    assert manifests(empty.folder) == {name: text for name, text in local.items() if name.split("/")[0] in TRAINED}
    jobs = {job.comment: job for job in submitted() if job.number not in before}
    assert [*jobs] == [
        "rule_tokenize-top+1_tokenize",
        "rule_activations-top+1_activations",
        "rule_norm-top+1_init_norm",  # one submission
        "rule_train-top+1_train",
    ]
    *others, train = jobs.values()
    assert (train.megabytes, train.minutes) == (1500, 30), "for 16 latents"
    assert "TresPerJob=gres:gpu:1" in shown(train.number), "what a user sets wins"
    assert all("TresPerJob" not in shown(job.number) for job in others), "runtime.device is cpu"


@pytest.mark.usefixtures("cluster")
def test_a_training_that_is_claimed_preempted_or_killed_goes_on_by_itself(
    empty: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(empty.folder, [{**TWO_ROWS[0], "train.epochs": "400", "train.tokens": "600000"}])
    config = empty.folder / "config" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**values, "runtime": {**values["runtime"], "checkpoint_steps": 50}}))
    with monkeypatch.context() as there:
        there.chdir(empty.folder)
        make_until("init")
    before = len(submitted("train"))
    log = empty.folder / "engine.log"
    command = ["snakemake", "--profile", "slurm", "train_all", *QUICK]
    (key,) = keys(empty.folder, "train")
    folder = Artifacts(empty.artifacts).begin(f"train/{key}").path
    with log.open("w") as output, hold_claim(folder):
        engine = subprocess.Popen(command, cwd=empty.folder, env=environment(), stdout=output, stderr=output)
        first = waited_for(lambda: submitted("train")[before:], engine, log)[0]
        # Slurm has taken the job back: it waits for a time, and holds nothing.
        waited_for(lambda: "Reason=BeginTime" in shown(first.number), engine, log)
    try:
        waited_for(lambda: started(first.number), engine, log)
        waited_for(lambda: time_of_checkpoint(folder), engine, log)
        urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true"]
        subprocess.run(urgent, check=True, capture_output=True)
        waited_for(lambda: "Restarts=2" in shown(first.number), engine, log)
        preempted = time.time()
        waited_for(lambda: started(first.number), engine, log)
        waited_for(lambda: time_of_checkpoint(folder) > preempted, engine, log)
        kill_owner(folder)
        assert engine.wait(timeout=600) == 0, log.read_text()
    finally:
        engine.kill()
    (run,) = empty.artifacts.glob("train/*/run.json")
    assert json.loads(run.read_text())["facts"]["resumed_from_steps"], "it goes on, and does not begin again"
    assert "Trying to restart job" in log.read_text()
    killed, again = submitted("train")[before:]
    assert killed.number == first.number
    assert killed.megabytes < again.megabytes, "it may have run out of memory"


def waited_for(look: Callable[[], Found], engine: subprocess.Popen[bytes], log: Path) -> Found:
    """The first true answer, while the engine runs."""
    deadline = time.monotonic() + 300
    while not (found := look()):
        assert engine.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return found


def shown(number: int, *states: str) -> str:
    """All that Slurm says of a job; nothing if it is in none of the states that are named."""
    said = subprocess.run(["scontrol", "show", "job", str(number)], check=True, capture_output=True, text=True).stdout
    return said if not states or any(f"JobState={state}" in said for state in states) else ""


def kill_owner(folder: Path) -> None:
    """Kill the process that makes an artifact, as the kernel does when memory runs out."""
    owner = Owner.read((folder / NAME).read_bytes())
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)


def started(number: int) -> bool:
    """True if a job runs. If it waits for a time, it is told to wait no longer."""
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=False, capture_output=True)
    return bool(shown(number, "RUNNING"))


def time_of_checkpoint(folder: Path) -> float:
    """The time at which the checkpoint of an artifact was written; 0 if there is none."""
    path = folder / CHECKPOINT
    return path.stat().st_mtime if path.exists() else 0.0
