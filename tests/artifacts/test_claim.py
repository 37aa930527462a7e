"""Claims: one owner at a time, and a dead one never blocks the next. With real processes, racing and killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lmsae.artifacts.claim import NAME, STALE_S, hold_claim, hold_claims
from lmsae.artifacts.owner import Owner, Pulse, this_process
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


def claim_of(folder: Path, **fields: object) -> None:
    """Write a claim of this very process under another token, with some fields changed."""
    (folder / NAME).write_bytes(json.dumps(asdict(this_process("theirs")) | fields).encode())


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is a moment."""
    for name, seconds in {"HEARTBEAT_S": 0.01, "STALE_S": 0.15, "POLL_S": 0.02}.items():
        monkeypatch.setattr(f"lmsae.artifacts.claim.{name}", seconds)


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


OTHERS = [{"host": "elsewhere", "boot": "another"}, {"pid_namespace": "pid:[1]"}, {"boot": ""}, {"pid": -1}]
"""Processes whose life nobody can tell by their number: of another machine, another container, an odd system."""


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("other", OTHERS)
def test_a_claim_whose_owner_only_its_beat_can_show_to_live_is_respected_while_it_beats(
    tmp_path: Path, other: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the clock of the other machine is far behind, or ahead."""
    monkeypatch.setattr("lmsae.artifacts.claim.STALE_S", STALE_S)
    claim_of(tmp_path, **other)
    ended = threading.Event()

    def beat() -> None:
        moment = 0
        while not ended.wait(0.01):
            os.utime(tmp_path / NAME, (moment := moment + 1, moment))

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(BusyArtifact, match=r"is being made by process"), hold_claim(tmp_path):
            pass
    finally:
        ended.set()
        heart.join()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("other", "age_s"), [*((other, 0) for other in OTHERS), (OTHERS[0], 3600), (OTHERS[0], -3600)])
def test_a_claim_is_stale_when_it_did_not_change_for_a_minute_of_the_takers_own_clock(
    tmp_path: Path, other: dict[str, object], age_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    claim_of(tmp_path, **other)
    os.utime(tmp_path / NAME, (0, time.time() - age_s))
    began = time.monotonic()
    with hold_claim(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["token"] != "theirs"
    assert time.monotonic() - began > 0.15
    assert "still live?" in capsys.readouterr().err


@pytest.mark.parametrize("dead", [{"pid": 2**22 + 1}, {"started": 1}, {"pid": 2**70}])
def test_a_dead_process_of_the_same_numbering_holds_nothing_up(tmp_path: Path, dead: dict[str, object]) -> None:
    """Its number is nobody's, or that of a process which started later."""
    claim_of(tmp_path, **dead)
    began = time.monotonic()
    with hold_claim(tmp_path):
        assert time.monotonic() - began < STALE_S / 2


def test_a_killed_process_that_nobody_has_buried_is_dead(tmp_path: Path) -> None:
    """As in a container whose first process buries no orphans."""
    (owner,) = start(HOLD, tmp_path, 1)
    go([owner])
    assert owner.stdout is not None
    assert owner.stdout.readline() == "owner\n"
    owner.kill()
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
    with hold_claim(tmp_path):
        pass
    owner.communicate(timeout=20)


def test_a_process_of_the_same_numbering_that_lives_is_respected_at_once(tmp_path: Path) -> None:
    claim_of(tmp_path)
    began = time.monotonic()
    with pytest.raises(BusyArtifact, match=f"process {os.getpid()}"), hold_claim(tmp_path):
        pass
    assert time.monotonic() - began < STALE_S / 2


@pytest.mark.usefixtures("hurried")
def test_who_waits_takes_over_from_a_process_that_lives_and_does_nothing(tmp_path: Path) -> None:
    """As one that was stopped: it may be continued, and finds out by itself (`Claims.require`)."""
    claim_of(tmp_path)
    with hold_claim(tmp_path, wait=True):
        assert json.loads((tmp_path / NAME).read_text())["token"] != "theirs"


ODD = [b"", b"null", b"[]", b"{", b"\xff", b"3", b"[" * 4000, b'{"host": 1, "pid": 2, "token": "", "since": 0}']
ODD += [json.dumps({"host": "here", "pid": "12", "token": "a", "since": 0.0}).encode()]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("odd", "wait"), [(ODD[0], True), (ODD[1], True), *((odd, False) for odd in ODD)])
def test_a_claim_that_names_nobody_counts_as_held_until_a_minute_has_passed(
    tmp_path: Path, odd: bytes, wait: bool
) -> None:
    (tmp_path / NAME).write_bytes(odd)
    began = time.monotonic()
    with hold_claim(tmp_path, wait=wait):
        assert Owner.read((tmp_path / NAME).read_bytes()) is not None
    assert 0.15 < time.monotonic() - began < STALE_S / 2


@pytest.mark.usefixtures("hurried")
def test_the_minutes_of_several_claims_pass_side_by_side(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(20)]
    for folder in folders:
        folder.mkdir()
        claim_of(folder, boot="another")
    began = time.monotonic()
    with hold_claims(folders):
        assert time.monotonic() - began < 20 * 0.15 / 2


def test_the_owner_keeps_its_claims_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsae.artifacts.claim.HEARTBEAT_S", 0.01)
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    with hold_claims(folders):
        for folder in folders:
            os.utime(folder / NAME, (0, 0))
        deadline = time.time() + 20
        while not all((folder / NAME).stat().st_mtime for folder in folders) and time.time() < deadline:
            time.sleep(0.01)
        assert all((folder / NAME).stat().st_mtime for folder in folders)


def test_an_owner_that_was_given_up_is_told_and_leaves_the_next_ones_claim_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmsae.artifacts.claim.HEARTBEAT_S", 0.01)
    with hold_claim(tmp_path) as claims:
        claims.require(tmp_path)
        claim_of(tmp_path, host="elsewhere", pid=7)
        os.utime(tmp_path / NAME, (0, 0))
        with pytest.raises(BusyArtifact, match=r"taken over by process 7 on elsewhere.*writes nothing more"):
            claims.require(tmp_path)
        time.sleep(0.1)
        assert (tmp_path / NAME).stat().st_mtime == 0
        (tmp_path / NAME).write_bytes(b"")
        with pytest.raises(BusyArtifact, match="no longer claimed by this process"):
            claims.require(tmp_path)
        claim_of(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["token"] == "theirs"


def test_a_claim_that_is_away_for_a_moment_is_not_lost(tmp_path: Path) -> None:
    """A process that took it for stale looks at it, and gives it back."""
    with hold_claim(tmp_path) as claims:
        (tmp_path / NAME).rename(tmp_path / "away")
        back = threading.Timer(0.05, (tmp_path / "away").rename, [tmp_path / NAME])
        back.start()
        claims.require(tmp_path)
        back.join()


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs Linux's namespaces")
def test_the_life_of_a_process_is_known_only_under_its_own_numbering() -> None:
    here = this_process("token")
    assert Owner.read(here.text) == here
    assert here.pulse() is Pulse.ALIVE
    assert replace(here, started=here.started - 1).pulse() is Pulse.DEAD
    assert replace(here, boot="another").pulse() is replace(here, pid_namespace="pid:[1]").pulse() is Pulse.UNKNOWN
