"""Memory: keep what tensors free for the tensors that come next, and know the most that was ever in use."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path
from typing import Any

# glibc's mallopt parameters, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def reuse_freed_memory() -> None:
    """Tell glibc's malloc not to hand freed tensors back to the kernel; elsewhere this does nothing.

    By default every tensor beyond 32 MB at most is mapped anew, and touching fresh pages costs up to ten times the
    arithmetic on them: with this a training step on the CPU took 0.65-0.95x of its time, a small language model's
    0.7x.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**28)


def forget_peak() -> None:
    """Count peak memory from here on, of this process and of its CUDA device. Where the kernel does not let a process
    do that (it is Linux's own), the peak stays that of the whole process."""
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


def _peak_of_host() -> int:
    with contextlib.suppress(OSError, KeyError):
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _torch_with_cuda() -> Any:
    """torch, if this process has imported it and there is a CUDA device."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None
