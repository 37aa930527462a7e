"""Trainings over several processes: one process a shard is started and watched here, and one of them writes.

This process holds the claims and publishes. It computes nothing, so that it can tell of whatever happens to the others.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import CHECKPOINT
from lmsae.artifacts.claim import find_holder
from lmsae.errors import ConfigError, Fault, TrainingError
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import Facts
from lmsae.stages.stage import Done, Job
from lmsae.training.interruption import Interruption, hear_interruptions

if TYPE_CHECKING:
    from lmsae.training.sharded.board import Board

LOOK_S = 0.1
LOST_S = 5.0
"""The seconds for which a process that lost another one waits before it ends: so it is seen which died first."""
WORKER = "lmsae.stages.jobs.shard_worker"
BOARD_KEY = "LMSAE_BOARD_KEY"
"""The environment variable that tells processes the key of their board."""
ORDER, STOP, CHECKPOINT_TAKEN, FACTS, ERROR = "order", "stop", "checkpoint", "facts", "error"
"""The names of what processes leave for each other on a board: the job, a request to stop, the checkpoint that they go
on from, the facts for provenance, an error."""


@dataclass(frozen=True, slots=True)
class Order:
    """A job for a group of processes. They write on behalf of the process `starter`, whose claim has the token
    `holder`."""

    job: Job
    runtime: Runtime
    starter: int
    holder: str | None


def train_sharded_jobs(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Train the dictionary of each job, one after the other, each over as many processes as it has shards."""
    with hear_interruptions(runtime.time_limit) as interruption:  # a job that is made is published before one is obeyed
        for job in jobs:
            try:
                ended = _train(job, runtime, interruption)
            except Exception as error:
                ended = error
            yield job, ended


def _train(job: Job, runtime: Runtime, interruption: Interruption) -> Facts:
    from lmsae.training.sharded.board import Board

    count = job.config.shards
    _require_devices(count, runtime)
    board = Board()
    board.leave(ORDER, Order(replace(job, require_claim=_nothing), runtime, os.getpid(), find_holder(job.out)))
    with _Group(count, board, runtime) as group:
        while group.is_running:
            if interruption.is_asked:
                board.leave(STOP, True)
            group.wait(LOOK_S)
            job.require_claim()
        if board.has(FACTS):
            return board.read(FACTS)
        if failed := group.find_failed():
            raise _explain(job, count, failed, board)
    interruption.obey()
    raise AssertionError("processes end with facts, with an error, or because they were asked to")


def _nothing() -> None:
    pass


def _require_devices(count: int, runtime: Runtime) -> None:
    """Raise ConfigError unless each process can have a device of its own, or all share the CPU."""
    import torch

    device = torch.device(runtime.torch_device())
    there = torch.cuda.device_count() if device.type == "cuda" else count
    if device.type == "cuda" and (there < count or device.index is not None):
        found = f"runtime.device is {device}" if device.index is not None else f"this machine has {there} CUDA devices"
        message = f"train.shards is {count}, and {found}. Train where there are {count}, set runtime.device to cpu"
        raise ConfigError([Fault("runtime", None, "runtime.device", f"{message}, or lower train.shards")])


class _Group:
    """Processes of one job. They have the environment that torchrun gives, and end when this block does."""

    def __init__(self, count: int, board: "Board", runtime: Runtime) -> None:
        threads = str(max(1, (runtime.threads or os.cpu_count() or 1) // count))
        shared = {
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(board.port),
            BOARD_KEY: board.key,
            "OMP_NUM_THREADS": threads,
        }
        if sys.platform.startswith("linux"):
            shared["GLOO_SOCKET_IFNAME"] = "lo"
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", WORKER],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(count)
        ]

    def __enter__(self) -> "_Group":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    @property
    def is_running(self) -> bool:
        """True while none has failed and some have not ended."""
        codes = [process.poll() for process in self._processes]
        return None in codes and not any(codes)

    def wait(self, seconds: float) -> None:
        """Wait for the first process to end, but no longer than so."""
        try:
            self._processes[0].wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def find_failed(self) -> dict[int, int]:
        """The exit codes of those that have failed so far, by their numbers; those that a signal killed first."""
        codes = {rank: code for rank, process in enumerate(self._processes) if (code := process.poll())}
        return dict(sorted(codes.items(), key=lambda one: one[1]))


def _explain(job: Job, count: int, failed: dict[int, int], board: "Board") -> Exception:
    """The error of a group of which some have failed: that of the one that failed first, or which one was killed."""
    from lmsae.training.sharded.processes import LostProcess

    said = {rank: board.read(f"{ERROR}/{rank}") for rank in failed if board.has(f"{ERROR}/{rank}")}
    causes = {rank: error for rank, error in said.items() if not isinstance(error, LostProcess)}
    for error in causes.values():
        if isinstance(error, Exception):
            return error
    rank, code = next(iter([*causes.items(), *failed.items()]))
    return TrainingError(
        f"{job.reference}: process {rank + 1} of {count} {_describe_end(code)}, and so the others were stopped. "
        f"{_describe_rest(job)}"
    )


def _describe_end(code: object) -> str:
    if isinstance(code, int) and code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (", as Linux does when memory is short" if -code == signal.SIGKILL else "")
    return f"ended with {'exit code ' if isinstance(code, int) else ''}{code}"


def _describe_rest(job: Job) -> str:
    """The words on how to go on."""
    checkpoints = sorted((job.folder / CHECKPOINT).glob("[0-9]*-*.pt"))
    steps = int(checkpoints[-1].name.partition("-")[0]) if checkpoints else 0
    where = f"from its checkpoint of step {steps:,}" if steps else "from the start, for there is no checkpoint yet"
    return f"Run the same command again: training goes on {where}"
