"""Fitting: whether the memory of a pass is there, and one sentence for one that is not."""

from dataclasses import dataclass
from pathlib import Path

from lmsae.runtime.limits import LIBRARIES, Limit, tightest_limit
from lmsae.runtime.numbers import format_bytes
from lmsae.runtime.runtime import Runtime
from lmsae.stages.footprint import Footprint

TOLERANCE = 0.2
"""The share by which a formula may be above what a process takes (benchmarks/memory.py)."""
_DRIVER = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class Room:
    """The memory that passes have: the host's tightest limit, and the memory of a CUDA device if they compute on one.

    None stands for what nobody knows.
    """

    host: Limit | None
    on_cuda: bool = False
    device: Limit | None = None

    @classmethod
    def to_plan(cls, runtime: Runtime) -> "Room":
        """The memory of this machine, without a look at a device, which would import torch."""
        on_cuda = runtime.device.startswith("cuda") or (runtime.device == "auto" and _DRIVER.exists())
        return cls(tightest_limit(), on_cuda)

    @classmethod
    def of_job(cls, runtime: Runtime) -> "Room":
        """The memory of this process and of its device. Raises ConfigError for a device that this machine has not."""
        host = tightest_limit()
        if host and host.room == 0:  # in which torch cannot even be asked for a device
            return cls(host)
        import torch

        device = runtime.torch_device()
        if not device.startswith("cuda"):
            return cls(host)
        memory = torch.cuda.get_device_properties(device).total_memory
        return cls(host, True, Limit(memory, f"the memory of {torch.cuda.get_device_name(device)}"))

    def lack(self, footprint: Footprint, *, at_least: float = 1.0) -> str | None:
        """The sentence that tells why a pass does not fit; None if it may fit. Only so much of its bytes, and of those
        of the libraries, must fit `at_least`."""
        on_host = footprint.on(device=False) if self.on_cuda else footprint
        lack = self.host and _lack(on_host, self.host, LIBRARIES[self.host.counted], at_least)
        if lack or not self.device:
            return lack
        return _lack(footprint.on(device=True), self.device, 0, at_least)


def total(footprint: Footprint) -> int:
    """The bytes of a process that makes a pass on the CPU, its libraries among them."""
    return footprint.nbytes + LIBRARIES["resident"]


def _lack(footprint: Footprint, limit: Limit, libraries: int, at_least: float) -> str | None:
    needs = footprint.nbytes + libraries
    if needs * at_least <= limit.nbytes:
        return None
    told = f"needs about {format_bytes(needs)} of memory"
    if libraries:
        told += f", {format_bytes(libraries)} of them for the libraries"
        if footprint.processes > 1:
            told += " of the process that starts the others"
    told += f", and {limit.name} is {format_bytes(limit.nbytes)}"
    if libraries >= limit.nbytes:
        return f"{told}. Raise the limit"
    largest = footprint.largest
    return f"{told}. {format_bytes(largest.total)} are {largest.what}: {largest.mend}, or raise the limit"
