"""Memory: the allocator keeps freed memory for the next tensors, and the peak of memory in use is known."""

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from lmsae.errors import LmsaeError, NoMemoryError
from lmsae.runtime.limits import tightest_limit
from lmsae.runtime.numbers import format_bytes

# glibc's mallopt parameters, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4

# torch raises RuntimeError of its CPU allocator ("can't allocate memory"), and OutOfMemoryError of CUDA's. Under a
# limit of `ulimit` libraries cannot be mapped, nor threads be given a stack. pybind passes C++'s bad_alloc on by name.
_NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "failed to map segment",
    "can't start new thread",
    "bad_alloc",
)
_LONGEST = 300


def reuse_freed_memory() -> None:
    """Tell glibc's malloc to keep freed tensors instead of handing them back to the kernel. Elsewhere, do nothing.

    By default malloc maps every tensor beyond 32 MB anew, and touching fresh pages costs up to ten times the arithmetic
    on them. With this call a training step on the CPU took 0.65 to 0.95 of its time, and a step of a small language
    model 0.7.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**28)


@contextlib.contextmanager
def collect_new_garbage_only() -> Iterator[None]:
    """Spare the garbage collector, for the length of a `with` block, the objects that are there at its start.

    For work that makes many small objects. The collector looks at every object of the process again and again
    meanwhile, and the libraries alone have a million: of drawing a report that took a fifth of the time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def keep_garbage() -> Iterator[None]:
    """Stop the garbage collector for the length of a `with` block.

    For work whose many objects all stay: of planning 5,000 rows, looking at them again and again took a fifth of the
    time. Objects that nothing refers to go all the same, but for cycles.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def forget_peak() -> None:
    """Count the peak memory of this process and of its CUDA device from here on.

    Only Linux lets a process do that. Elsewhere the peak counts from the start of the process.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if (torch := _torch_with_cuda()) is not None:
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Peak resident bytes of this process since `forget_peak`, and of its CUDA device's tensors if it has one."""
    peak = {"host": _peak_of_host()}
    if (torch := _torch_with_cuda()) is not None:
        peak["device"] = torch.cuda.max_memory_allocated()
    return peak


def says_no_memory(error: BaseException) -> bool:
    """True for the error of a library that got no memory, on the CPU or a GPU."""
    if isinstance(error, LmsaeError):
        return False
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def explain_no_memory(error: Exception, what: str, mend: str) -> Exception:
    """NoMemoryError for the error of a library that got no memory, and any other error itself.

    `what` names the work, and `mend` the settings with which it takes less.
    """
    if not says_no_memory(error):
        return error
    said = " ".join(str(error).split())[:_LONGEST]
    limit = tightest_limit()
    has = f" What it may take at most is {limit.name}, {format_bytes(limit.nbytes)}." if limit else ""
    kind = f"{type(error).__name__}: {said}" if said else type(error).__name__
    told = NoMemoryError(
        f"{what}: out of memory ({kind}).{has} {mend[:1].upper()}{mend[1:]}, or give it more memory, and run again: "
        "what is finished is kept."
    )
    told.__cause__ = error
    return told


def _peak_of_host() -> int:
    with contextlib.suppress(OSError, KeyError):
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _torch_with_cuda() -> ModuleType | None:
    """torch, if this process has imported it and there is a CUDA device."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None
