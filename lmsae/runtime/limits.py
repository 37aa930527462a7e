"""Limits of memory: of the machine, of the control groups that this process is in, and of the process itself.

Linux stops a process without a word that takes more than the machine or its control group has (exit code 137), and a
limit of `ulimit` makes the next allocation fail. All of them can be asked for beforehand.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

Counted = Literal["resident", "mapped", "data"]
"""The memory of a process that a limit counts: pages that are there, all addresses, or private pages to write to."""

LIBRARIES: dict[Counted, int] = {"resident": 480 * 10**6, "mapped": 1500 * 10**6, "data": 500 * 10**6}
"""Bytes of a process that has trained a dictionary of 16 latents. Measured with torch 2.13.0 for CPUs, Numba 0.68.1 and
one thread on x86-64 Linux: at most 478 to 479 MB resident (benchmarks/memory.py), and the least limits of `ulimit` with
which it ends. CUDA's libraries take more."""

_UNLIMITED = 1 << 60
"""Version 1 of control groups writes nearly 2^63 for no limit."""
_GROUPS = Path("sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Limit:
    """The bytes that a process may take at most, who says so, and what is counted."""

    nbytes: int
    name: str
    counted: Counted = "resident"

    @property
    def room(self) -> int:
        """The bytes that are left for work when all libraries are loaded: 0 where not even those fit."""
        return max(self.nbytes - LIBRARIES[self.counted], 0)


def tightest_limit(system: Path = Path("/")) -> Limit | None:
    """The limit that leaves the least room to this process; None where the system tells none.

    `system` is the folder that has `proc` and `sys`.
    """
    return min(find_limits(system), key=lambda limit: limit.room, default=None)


def find_limits(system: Path = Path("/")) -> list[Limit]:
    """All limits of this process that the system tells. Memory that can be swapped out counts as memory."""
    machine, swap = _size_of_machine(system)
    limits = [Limit(machine + swap, "the memory of this machine")] if machine else []
    for name, nbytes, file in _limits_of_groups(system, swap):
        limits.append(Limit(nbytes, f"{name} ({file})"))
    addresses, private = (resource.getrlimit(number)[0] for number in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    limits += [
        Limit(addresses, "the limit of `ulimit -v`", "mapped"),
        Limit(private, "the limit of `ulimit -d`", "data"),
    ]
    return [limit for limit in limits if limit.nbytes != resource.RLIM_INFINITY]


def _size_of_machine(system: Path) -> tuple[int, int]:
    """Bytes of memory and of swap; 0 where nobody tells."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = dict(line.split(":", 1) for line in (system / "proc/meminfo").read_text().splitlines())
        return tuple(int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))  # pyright: ignore[reportReturnType]
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 0
    return 0, 0


def _limits_of_groups(system: Path, swap: int) -> Iterator[tuple[str, int, Path]]:
    """The limits of the control groups that this process is in and of those around them: name, bytes, file."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        inside = PurePosixPath(path.lstrip("/"))
        folders = [inside, *inside.parents] if ".." not in inside.parts else [PurePosixPath()]
        if not controllers:
            for mount in (system / _GROUPS, system / _GROUPS / "unified"):
                yield from _limits_of_version_2([mount / folder for folder in folders], swap)
        elif "memory" in controllers.split(","):
            yield from _limits_of_version_1([system / _GROUPS / "memory" / folder for folder in folders], swap)


def _limits_of_version_2(folders: list[Path], swap: int) -> Iterator[tuple[str, int, Path]]:
    for folder in folders:
        limit, swapped = _read(folder / "memory.max"), _read(folder / "memory.swap.max")
        if limit is not None:
            beside = swap if swapped is None else min(swap, swapped)
            yield "the memory limit of its control group", limit + beside, folder / "memory.max"


def _limits_of_version_1(folders: list[Path], swap: int) -> Iterator[tuple[str, int, Path]]:
    for folder in folders:
        for file, beside in (("memory.limit_in_bytes", swap), ("memory.memsw.limit_in_bytes", 0)):
            if (limit := _read(folder / file)) is not None:
                yield "the memory limit of its control group", limit + beside, folder / file


def _read(path: Path) -> int | None:
    """The number of bytes in a file of a control group; None where there is no limit, or no such file."""
    with suppress(OSError, ValueError):  # version 2 writes "max" for no limit
        limit = int(path.read_text())
        return limit if limit < _UNLIMITED else None
    return None
