"""A claim: one process at a time makes an artifact, and a dead owner never blocks the next.

A claim is a file that is created exclusively. This works on every file system that Slurm clusters use; fcntl locks do
not. The owner touches the file as a heartbeat. Another process takes a claim over if its owner is known to be dead, or
if it has itself seen no heartbeat for a minute: it renames the file away. If several processes try, one of them renames
the stale file, and each looks at the file that it renamed.

No clock of another machine is believed, and no process number of another machine, boot or container.
"""

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lmsae.artifacts.owner import Owner, Pulse, this_process
from lmsae.errors import BusyArtifact

NAME = ".claim"
HEARTBEAT_S = 5.0
STALE_S = 60.0
POLL_S = 1.0
MOST_BYTES = 4096
"""A claim is much shorter. What is longer is none."""


class Seen(NamedTuple):
    """A claim's file as it was at a glance. A heartbeat changes it."""

    inode: int
    touched_ns: int
    text: bytes

    @property
    def owner(self) -> Owner | None:
        """The owner, or None where the file does not say: a disk that lost power may leave such a claim."""
        return Owner.read(self.text)

    @property
    def token(self) -> str | None:
        return self.owner.token if self.owner else None


class Claims:
    """The claims that this process holds together."""

    def __init__(self) -> None:
        self._owner = this_process(uuid.uuid4().hex)
        self._held: list[Path] = []
        self._watch = _Watch()
        self._stop = threading.Event()

    def require(self, directory: Path) -> None:
        """Do nothing while this process holds the claim on a directory. To be called before anything is written there.

        Raises BusyArtifact if another process has taken the claim over: the directory is that one's now.
        """
        require_holder(directory, self._owner.token)

    def take(self, directory: Path, *, wait: bool) -> None:
        """Take the claim on a directory. Raises BusyArtifact if a living process holds it; with `wait` it sleeps until
        that process is done or dead."""
        path, told = directory / NAME, False
        while not self._create(path):
            seen = _look(path)
            if seen is None:
                continue  # released since then
            pulse = seen.owner.pulse() if seen.owner else Pulse.UNKNOWN
            if pulse is Pulse.DEAD or self._watch.count_still_seconds(path, seen) > STALE_S:
                _remove_stale(path, seen)
            elif not wait and (pulse is Pulse.ALIVE or self._watch.has_seen_beat(path)):
                raise BusyArtifact(_busy(directory, seen))
            else:
                if not (told or wait):
                    question = f"{directory}: does {_who(seen)} still live?"
                    print(f"{question} It takes up to {STALE_S:.0f} s to see.", file=sys.stderr)
                told = True
                time.sleep(min(POLL_S, STALE_S / 4))
        self._held.append(path)

    def look_ahead(self, directories: Iterable[Path]) -> None:
        """Begin to watch those that others hold: their minutes pass side by side, and not one after the other."""
        for directory in directories:
            seen = _look(directory / NAME)
            if seen is not None:
                self._watch.count_still_seconds(directory / NAME, seen)

    def beat(self) -> None:
        """Touch the claims until `release`, in a thread of its own. One that has another owner is left alone."""
        while not self._stop.wait(HEARTBEAT_S):
            for path in self._held.copy():
                with contextlib.suppress(OSError):
                    seen = _look(path)
                    if seen is not None and seen.token == self._owner.token:
                        os.utime(path)

    def release(self) -> None:
        """Give back the claims that are still this process's."""
        self._stop.set()
        for path in self._held:
            seen = _look(path)
            if seen is not None and seen.token == self._owner.token:
                path.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        # It is written beside and then linked into place, so that no reader sees a claim without its owner.
        draft = path.with_name(f"{NAME}.{uuid.uuid4().hex}")
        try:
            draft.write_bytes(self._owner.text)
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
        return True


@contextlib.contextmanager
def hold_claims(directories: Iterable[Path], *, wait: bool = False) -> Iterator[Claims]:
    """Hold the claims on directories for the length of a `with` block.

    They are taken in one order everywhere, so two processes that want the same ones cannot wait for each other. Raises
    BusyArtifact if a living process holds one. With `wait` it sleeps until that process is done or dead.
    """
    claims, order = Claims(), sorted(set(directories))
    heart = threading.Thread(target=claims.beat, daemon=True)
    heart.start()
    try:
        claims.look_ahead(order)
        for directory in order:
            claims.take(directory, wait=wait)
        yield claims
    finally:
        claims.release()
        heart.join()


@contextlib.contextmanager
def hold_claim(directory: Path, *, wait: bool = False) -> Iterator[Claims]:
    """Hold the claim on one directory, as `hold_claims` does."""
    with hold_claims([directory], wait=wait) as claims:
        yield claims


def holder_of(directory: Path) -> tuple[str, Pulse] | None:
    """The holder of the claim on a directory, in words, and whether that process lives; None if nobody holds it."""
    seen = _look(directory / NAME)
    return (_who(seen), seen.owner.pulse() if seen.owner else Pulse.UNKNOWN) if seen else None


@dataclass
class _Glance:
    """A claim as it was last seen to change, and when that was by this process's clock."""

    seen: Seen
    since: float
    has_beaten: bool = False


class _Watch:
    """The claims of others as this process has seen them. It asks only its own clock, which nobody sets."""

    def __init__(self) -> None:
        self._glances: dict[Path, _Glance] = {}

    def count_still_seconds(self, path: Path, seen: Seen) -> float:
        """The seconds for which a claim has not changed."""
        now, glance = time.monotonic(), self._glances.get(path)
        if glance is None or glance.seen != seen:
            self._glances[path] = _Glance(seen, now, has_beaten=glance is not None)
            return 0.0
        return now - glance.since

    def has_seen_beat(self, path: Path) -> bool:
        """True if a claim has changed since it was first seen."""
        return path in self._glances and self._glances[path].has_beaten


def find_holder(directory: Path) -> str | None:
    """The token of whoever holds the claim on a directory now; None if nobody does."""
    seen = _look_twice(directory / NAME)
    return seen.token if seen else None


def require_holder(directory: Path, token: str) -> None:
    """Do nothing while the claim on a directory is that of a token. Raises BusyArtifact if it is another one's by now.

    For processes that work on behalf of the one that holds the claim.
    """
    seen = _look_twice(directory / NAME)
    if seen is None or seen.token != token:
        raise BusyArtifact(_lost(directory, seen))


def _look(path: Path) -> Seen | None:
    """A claim's file, None if nobody holds it. It is opened, since a network's file system then asks its server."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            return Seen(state.st_ino, state.st_mtime_ns, file.read(MOST_BYTES))
    except FileNotFoundError:
        return None


def _look_twice(path: Path) -> Seen | None:
    """A claim's file. Another process may rename it away for a moment and give it back (see `_remove_stale`)."""
    for _ in range(10):
        seen = _look(path)
        if seen is not None:
            return seen
        time.sleep(0.02)
    return None


def _remove_stale(path: Path, stale: Seen) -> None:
    taken = path.with_name(f"{NAME}.{uuid.uuid4().hex}")
    try:
        path.rename(taken)
    except FileNotFoundError:
        return
    if _look(taken) != stale:
        # Another process was quicker and this is its fresh claim, or the owner is alive after all: give it back.
        with contextlib.suppress(FileExistsError):
            os.link(taken, path)
    taken.unlink()


def _who(seen: Seen) -> str:
    return f"process {seen.owner.pid} on {seen.owner.host}" if seen.owner else "the owner of its claim"


def _busy(directory: Path, seen: Seen) -> str:
    who = _who(seen) if seen.owner else "another process"
    return (
        f"{directory} is being made by {who}. Wait for it (add --wait), or stop that process and run this again: "
        "a dead owner's claim is taken over."
    )


def _lost(directory: Path, seen: Seen | None) -> str:
    who = f"was taken over by {_who(seen)}" if seen and seen.owner else "is no longer claimed by this process"
    return (
        f"{directory} {who}: for {STALE_S:.0f} s there was no sign of life of this process, which was stopped or cut "
        "off from the disk, or somebody removed the folder. It writes nothing more; run it again to use what the other "
        "process makes."
    )
