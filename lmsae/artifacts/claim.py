"""A claim: one process at a time makes an artifact, and a dead owner never blocks the next.

A claim is a file created exclusively, so it works on every file system that Slurm clusters use (fcntl locks do not).
Its owner touches it as a heartbeat. A claim whose heartbeat stopped, or whose owner died on this host, is taken over
by renaming it away: of several takers, one rename succeeds on the stale file, and each looks at what it renamed.
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

from lmsae.errors import BusyArtifact

NAME = ".claim"
HEARTBEAT_S = 5.0
STALE_S = 60.0
POLL_S = 1.0


@contextlib.contextmanager
def claimed(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the claim on `directory` for the length of a `with` block.

    Raises BusyArtifact if a living process holds it; with `wait`, sleeps until that process is done or dead.
    """
    path = directory / NAME
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex, "since": time.time()}
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
        if (_read(path) or {}).get("token") == owner["token"]:
            path.unlink(missing_ok=True)


def _create(path: Path, owner: dict) -> bool:
    # Written beside and linked into place, so that no reader ever sees a claim without its owner.
    draft = path.with_name(f"{NAME}.{owner['token']}")
    draft.write_text(json.dumps(owner))
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _read(path: Path) -> dict | None:
    """Who holds a claim: None if nobody does, empty if the file does not say (a disk that lost power can do that)."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _is_dead(path: Path, holder: dict) -> bool:
    if holder.get("host") == socket.gethostname():
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


def _remove_stale(path: Path, holder: dict) -> None:
    taken = path.with_name(f"{NAME}.{uuid.uuid4().hex}")
    try:
        path.rename(taken)
    except FileNotFoundError:
        return
    if (_read(taken) or {}).get("token") != holder.get("token"):
        # Another taker was quicker and this is its fresh claim: give it back.
        with contextlib.suppress(FileExistsError):
            os.link(taken, path)
    taken.unlink()


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)


def _busy(directory: Path, holder: dict) -> str:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return (
        f"{directory} is being made by {who}. Wait for it (add --wait), or stop that process and run this again: "
        "a dead owner's claim is taken over."
    )
