"""Rows that several processes train, as commands make them; what becomes of a job of which one is killed."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmsae.planning.plan import plan_of
from lmsae.stages.jobs import sharded_jobs
from tests.miniature import HERE, Said, make_until, write_config, write_sweep

ROW = {"sae.hook_point": HERE, "sae.architecture": "batchtopk", "sae.k": "4"}
TWO = {"train.shards": "2"}
Command = Callable[..., Said]
pytestmark = [pytest.mark.usefixtures("fresh"), pytest.mark.xdist_group("shards")]


def folders() -> dict[str, Path]:
    """The folder of each row's training."""
    plan, _ = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    return {row.name: Path("artifacts", row.specs["train"].reference) for row in plan.rows}


def ready(*rows: dict[str, str], **runtime: object) -> dict[str, Path]:
    """All that comes before training, of rows, is made; their folders."""
    write_config(Path(), train={"dead_threshold": 512}, runtime={"checkpoint_seconds": 0, **runtime})
    write_sweep(Path(), [ROW | row for row in rows])
    make_until("init")
    return folders()


def files(folder: Path) -> dict[str, bytes]:
    """What is published of a training, but for how it was made."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("run.json", "spec.json")}


def curves(folder: Path) -> list[list[float]]:
    with open(folder / "curves.csv") as file:
        return [[float(value) for value in line.values()] for line in csv.DictReader(file)]


@contextlib.contextmanager
def killed_when_there_is(pattern: str, folder: Path, number: int) -> Iterator[None]:
    """Kill one of the processes that train, by its number, as soon as a file is there."""

    def kill() -> None:
        while not list(folder.glob(pattern)):
            time.sleep(0.01)
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        names = {int(pid): Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
        mine = [pid for pid, environ in names.items() if f"RANK={number}".encode() in environ]
        os.kill(mine[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


@pytest.mark.slow
def test_a_row_of_two_processes_is_trained_like_one_whichever_is_killed_on_the_way(lmsae: Command) -> None:
    converted = {"sae.convert_to_jumprelu": "true"}
    made = ready({"name": "one"} | converted, {"name": "two"} | converted | TWO)
    assert re.search(r"of memory in 2 processes of \d+ MB and the one that starts them", lmsae("plan").out)
    assert lmsae("train").code == 0
    whole, folder = files(made["two"]), made["two"]
    assert files(made["one"]).keys() == whole.keys()
    one, two = (load_file(made[name] / "dictionary.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-5)
    assert curves(folder) == [pytest.approx(line, rel=1e-4) for line in curves(made["one"])]
    shutil.rmtree(folder)
    assert lmsae("plan", "--quiet").code == 0
    for number, pattern in enumerate(("checkpoint/*1-*.pt", "checkpoint/*9-*.pt")):
        with killed_when_there_is(pattern, folder, number):
            said = lmsae("train")
        assert said.code == 2
        (line,) = [line for line in said.err.splitlines() if "process" in line]
        assert f"process {number + 1} of 2 was killed by SIGKILL" in line
        assert "Run the same command again: training goes on from its checkpoint of step " in line
        assert {path.name for path in folder.iterdir()} - {"resumed.json"} == {"spec.json", "checkpoint"}
    again = lmsae("train")
    assert (again.code, "1 made" in again.err) == (0, True)
    assert files(folder) == whole
    assert lmsae("eval").code == 0


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(lmsae: Command) -> None:
    (folder,) = ready(TWO | {"name": "two"}).values()
    said = Path("said")
    with said.open("w") as file:
        started = subprocess.Popen([sys.executable, "-m", "lmsae.cli", "train"], stderr=file)
    while not list(folder.glob("checkpoint/*.pt")):
        assert started.poll() is None, said.read_text()
        time.sleep(0.01)
    theirs = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    started.kill()
    started.wait()
    assert len(theirs) == 2
    while any(is_alive(pid) for pid in theirs):
        time.sleep(0.1)
    assert not (folder / "manifest.json").exists()
    again = lmsae("train")
    assert (again.code, "1 made" in again.err) == (0, True)


def is_alive(pid: str) -> bool:
    """True if a process is there and no zombie."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slow
def test_a_time_limit_stops_all_processes_at_a_checkpoint(lmsae: Command) -> None:
    (folder,) = ready(TWO | {"name": "two", "train.tokens": "12288"}).values()
    write_config(Path(), train={"dead_threshold": 512}, runtime={"checkpoint_seconds": 0, "time_limit": 0.01})
    with pytest.raises(SystemExit) as stopped:
        lmsae("train")
    assert stopped.value.code == 124
    assert [path.name.partition("-")[0] for path in folder.glob("checkpoint/*.pt")] == ["000000000001"]
    assert not (folder / "manifest.json").exists()


@pytest.mark.slow
def test_a_fault_that_all_processes_meet_is_told_as_that_of_one(lmsae: Command) -> None:
    ready(TWO | {"name": "two", "train.lr": "1e30", "train.grad_clip": "0"})
    said = lmsae("train")
    assert said.code == 2
    assert "Lower train.lr or the sparsity coefficient, or set train.grad_clip." in said.err
    assert "process" not in said.err


def test_a_machine_with_too_few_gpus_says_so(lmsae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmsae.errors import ConfigError
    from lmsae.runtime.runtime import Runtime

    monkeypatch.setattr(Runtime, "torch_device", lambda self: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"train\.shards is 2, and this machine has 1 CUDA devices"):
        sharded_jobs._require_devices(2, Runtime())
