"""Claims: one owner at a time, and a dead one never blocks the next. With real processes, racing and killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmsae.artifacts.claim import NAME, STALE_S, hold_claim
from lmsae.errors import BusyArtifact

# Holds the claim until its stdin closes, if it gets it.
HOLD = """
import sys
from pathlib import Path
from lmsae.artifacts.claim import hold_claim
from lmsae.errors import BusyArtifact
sys.stdin.readline()
try:
    with hold_claim(Path(sys.argv[1])):
        print("owner", flush=True)
        sys.stdin.read()
except BusyArtifact:
    print("busy", flush=True)
"""
# Waits for the claim, makes what is not there yet, and writes down when it came and went.
MAKE = """
import os, sys, time
from pathlib import Path
from lmsae.artifacts import claim
claim.POLL_S = 0.01
folder = Path(sys.argv[1])
log = os.open(folder / "log", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
sys.stdin.readline()
with claim.hold_claim(folder, wait=True):
    os.write(log, b"in ")
    if not (folder / "made").exists():
        time.sleep(0.05)
        (folder / "made").touch()
        os.write(log, b"made ")
    os.write(log, b"out ")
"""


def start(code: str, folder: Path, count: int) -> list[subprocess.Popen[str]]:
    """Processes that are ready, and go when their stdin gets a line."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, str(folder)]
    return [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]


def go(racers: list[subprocess.Popen[str]]) -> None:
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()


def claim_of(folder: Path, *, host: str, age_s: float, pid: int = 1) -> None:
    (folder / NAME).write_text(json.dumps({"host": host, "pid": pid, "token": "theirs"}))
    os.utime(folder / NAME, (0, time.time() - age_s))


def test_of_six_racing_processes_one_is_the_owner(tmp_path: Path) -> None:
    racers = start(HOLD, tmp_path, 6)
    go(racers)
    answers = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
    for racer in racers:
        racer.communicate(timeout=20)
    assert sorted(answers) == ["busy"] * 5 + ["owner"]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_has_exactly_one_successor_at_a_time(tmp_path: Path) -> None:
    (owner,) = start(HOLD, tmp_path, 1)
    go([owner])
    assert owner.stdout is not None
    assert owner.stdout.readline() == "owner\n"
    waiting = start(MAKE, tmp_path, 6)
    go(waiting)
    owner.send_signal(signal.SIGKILL)
    owner.communicate(timeout=20)
    for process in waiting:
        process.communicate(timeout=20)
    assert [process.returncode for process in waiting] == [0] * 6
    assert (tmp_path / "log").read_text() == "in made out " + "in out " * 5


def test_a_claim_is_gone_after_its_block_even_when_that_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with hold_claim(tmp_path):
            assert (tmp_path / NAME).exists()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_who_is_refused_is_told_who_holds_the_claim_and_what_to_do(tmp_path: Path) -> None:
    with hold_claim(tmp_path), pytest.raises(BusyArtifact) as refused, hold_claim(tmp_path):
        pass
    for part in (str(tmp_path), f"process {os.getpid()} on {socket.gethostname()}", "--wait"):
        assert part in str(refused.value)


def test_a_fresh_claim_of_another_host_is_respected(tmp_path: Path) -> None:
    claim_of(tmp_path, host="elsewhere", age_s=STALE_S / 2)
    with pytest.raises(BusyArtifact, match="elsewhere"), hold_claim(tmp_path):
        pass


@pytest.mark.parametrize("host", ["elsewhere", "here"])
def test_a_claim_whose_heart_stopped_is_taken_over(tmp_path: Path, host: str) -> None:
    """On this host too: process 1 lives, but it is not the one that wrote the claim."""
    claim_of(tmp_path, host=socket.gethostname() if host == "here" else host, age_s=STALE_S + 1)
    with hold_claim(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_a_claim_that_says_nothing_counts_as_held_until_it_is_old(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"")
    with pytest.raises(BusyArtifact, match="another process"), hold_claim(tmp_path):
        pass
    os.utime(tmp_path / NAME, (0, time.time() - STALE_S - 1))
    with hold_claim(tmp_path):
        pass


def test_the_owner_keeps_its_claim_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsae.artifacts.claim.HEARTBEAT_S", 0.01)
    with hold_claim(tmp_path):
        os.utime(tmp_path / NAME, (0, 0))
        deadline = time.time() + 20
        while (tmp_path / NAME).stat().st_mtime == 0 and time.time() < deadline:
            time.sleep(0.01)
        assert (tmp_path / NAME).stat().st_mtime > 0


def test_an_owner_that_was_given_up_leaves_the_next_ones_claim_alone(tmp_path: Path) -> None:
    with hold_claim(tmp_path):
        claim_of(tmp_path, host="elsewhere", age_s=0)
    assert json.loads((tmp_path / NAME).read_text())["token"] == "theirs"
