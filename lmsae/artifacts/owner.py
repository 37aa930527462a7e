"""The owner of a claim: a process, named so that another one can tell if it still lives."""

import enum
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


class Pulse(enum.Enum):
    """The life of a process, as far as another one can tell."""

    ALIVE = enum.auto()
    DEAD = enum.auto()
    UNKNOWN = enum.auto()


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, as its claim says. Empty texts and 0 are what the system does not tell."""

    host: str
    pid: int
    token: str
    since: float
    """For people; nothing is decided by it."""
    boot: str = ""
    """The id of this boot of the machine: a process number means nothing after another one, or elsewhere."""
    pid_namespace: str = ""
    """The numbering that `pid` belongs to: each container has one of its own."""
    started: int = 0
    """The start of the process, in ticks since the boot: its number may be given to another process later."""

    @property
    def text(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, text: bytes) -> "Owner | None":
        """The owner that a claim names, or None if it names none."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return None
        kinds = {"host": str, "pid": int, "token": str, "since": (int, float)}
        more = {"boot": str, "pid_namespace": str, "started": int}
        if not isinstance(fields, dict) or not kinds.keys() <= fields.keys() <= kinds.keys() | more.keys():
            return None
        if not all(isinstance(value, (kinds | more)[name]) for name, value in fields.items()):
            return None
        return cls(**fields)

    def pulse(self) -> Pulse:
        """The life of this process, UNKNOWN unless it runs under the same numbering as the one that asks."""
        here = this_process("")
        is_near = (self.boot, self.pid_namespace) == (here.boot, here.pid_namespace)
        if not (is_near and self.boot and self.pid_namespace and self.pid > 0):
            return Pulse.UNKNOWN
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return Pulse.DEAD
        except PermissionError:
            pass
        state, started = _look_up(self.pid)
        is_another = bool(self.started and started) and self.started != started
        return Pulse.DEAD if state in ("Z", "X") or is_another else Pulse.ALIVE


def this_process(token: str) -> Owner:
    """This process as an owner, with a token of its own for each claim or group of claims."""
    boot = pid_namespace = ""
    with suppress(OSError):
        pid_namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    pid = os.getpid()
    return Owner(socket.gethostname(), pid, token, time.time(), boot, pid_namespace, _look_up(pid)[1])


def _look_up(pid: int) -> tuple[str, int]:
    """The state of a process (Z for one that is dead and not yet buried) and when it started, as far as /proc tells."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return "", 0  # this is the /proc of another numbering
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return after_name[0], int(after_name[19])
    except (OSError, ValueError, IndexError):
        return "", 0
