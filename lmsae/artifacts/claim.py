"""A claim: one process at a time makes an artifact, and a dead owner never blocks the next.

A claim is a file that is created exclusively. This works on every file system that Slurm clusters use; fcntl locks do
not. The owner touches the file as a heartbeat. Another process takes a claim over if its heartbeat stopped, or if its
owner died on this host: it renames the file away. If several processes try, one of them renames the stale file, and
each looks at the file that it renamed.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from lmsae.errors import BusyArtifact

NAME = ".claim"
HEARTBEAT_S = 5.0
STALE_S = 60.0
POLL_S = 1.0


class Owner(TypedDict):
    """The process that holds a claim, as its file says."""

    host: str
    pid: int
    token: str
    since: float


UNKNOWN: Owner = {"host": "", "pid": 0, "token": "", "since": 0.0}
"""The owner by a claim that cannot be read: a disk that lost power may leave one."""


@contextlib.contextmanager
def hold_claim(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the claim on `directory` for the length of a `with` block.

    Raises BusyArtifact if a living process holds it. With `wait` it sleeps until that process is done or dead.
    """
    path = directory / NAME
    owner: Owner = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex, "since": time.time()}
    while not _create(path, owner):
        holder = _read(path)
        if holder is None:
            continue  # released since then
        if _is_dead(path, holder):
            _remove_stale(path, holder)
        elif not wait:
            raise BusyArtifact(_busy(directory, holder))
        else:
            time.sleep(POLL_S)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        if (_read(path) or UNKNOWN)["token"] == owner["token"]:
            path.unlink(missing_ok=True)


def _create(path: Path, owner: Owner) -> bool:
    # It is written beside and then linked into place, so that no reader sees a claim without its owner.
    draft = path.with_name(f"{NAME}.{owner['token']}")
    draft.write_text(json.dumps(owner))
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _read(path: Path) -> Owner | None:
    """The owner of a claim: None if nobody holds it, UNKNOWN if its file does not say."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return UNKNOWN


def _is_dead(path: Path, holder: Owner) -> bool:
    if holder["host"] == socket.gethostname():
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    try:
        return time.time() - path.stat().st_mtime > STALE_S
    except FileNotFoundError:
        return False


def _remove_stale(path: Path, holder: Owner) -> None:
    taken = path.with_name(f"{NAME}.{uuid.uuid4().hex}")
    try:
        path.rename(taken)
    except FileNotFoundError:
        return
    if (_read(taken) or UNKNOWN)["token"] != holder["token"]:
        # Another process was quicker, and this is its fresh claim: give it back.
        with contextlib.suppress(FileExistsError):
            os.link(taken, path)
    taken.unlink()


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)


def _busy(directory: Path, holder: Owner) -> str:
    who = "another process" if holder is UNKNOWN else f"process {holder['pid']} on {holder['host']}"
    return (
        f"{directory} is being made by {who}. Wait for it (add --wait), or stop that process and run this again: "
        "a dead owner's claim is taken over."
    )
