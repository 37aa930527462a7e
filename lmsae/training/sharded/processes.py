"""The processes that train one dictionary together, and what they tell each other, by torch.distributed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from lmsae.errors import TrainingError
from lmsae.training.sharded.board import Board

PATIENCE = timedelta(days=1)
"""Others wait so long while one writes a checkpoint. A process that died is noticed at once, by its connections."""


class LostProcess(TrainingError):
    """Another process of the group does not answer any more."""


@dataclass(frozen=True)
class Processes:
    """A group of `count` processes, seen by the one with the number `rank`. All must call the same methods in the same
    order, with tensors of the same shapes; every one then gets the same bits.

    Every method raises LostProcess if another process has ended.
    """

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """True for the process that reads and writes files for all."""
        return self.rank == 0

    def latents(self, latents: int, rank: int | None = None) -> slice:
        """The stretch of so many latents that a process has, by default this one."""
        rank = self.rank if rank is None else rank
        return slice(latents * rank // self.count, latents * (rank + 1) // self.count)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes of a tensor that each has a part of. All must do the same with it: each part gets the
        gradient of the sum."""
        return _Sum.apply(value, self)  # pyright: ignore[reportReturnType]

    def share(self, value: Tensor) -> Tensor:
        """The value itself, which all have, for work that each does a part of: its gradient is the sum of theirs."""
        return _Share.apply(value, self)  # pyright: ignore[reportReturnType]

    def total(self, value: Tensor) -> Tensor:
        """`sum`, without a gradient."""
        return self._reduce(value, dist.ReduceOp.SUM)

    def least(self, value: Tensor) -> Tensor:
        """The least value over processes."""
        return self._reduce(value, dist.ReduceOp.MIN)

    def gather(self, value: Tensor) -> Tensor:
        """The tensors of all processes, in the order of their numbers: (count, *shape)."""
        found = value.new_empty(self.count, *value.shape)
        _exchange(lambda: dist.all_gather(list(found.unbind(0)), value.detach().contiguous()))
        return found

    def tell(self, number: int) -> int:
        """The first process's number."""
        said = torch.tensor([number])
        _exchange(lambda: dist.broadcast(said, src=0))
        return int(said)

    def send_to_first(self, value: Tensor) -> None:
        """Send a tensor on the CPU, for `receive`."""
        _exchange(lambda: dist.send(value.contiguous(), dst=0))

    def receive(self, into: Tensor, rank: int) -> None:
        """Receive a tensor that process `rank` sends into a contiguous one on the CPU."""
        _exchange(lambda: dist.recv(into, src=rank))

    def _reduce(self, value: Tensor, operation: Any) -> Tensor:
        reduced = value.detach().clone(memory_format=torch.contiguous_format)
        _exchange(lambda: dist.all_reduce(reduced, operation))
        return reduced


@contextmanager
def joined(board: Board, rank: int, count: int, device: str) -> Iterator[Processes]:
    """The group that `count` processes form by a board that all see; process `rank` computes on `device`. On CUDA
    tensors go by NCCL, and numbers by gloo."""
    on_cuda = device.startswith("cuda")
    _exchange(
        lambda: dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
            store=board.store,
            rank=rank,
            world_size=count,
            timeout=PATIENCE,
            device_id=torch.device(device) if on_cuda else None,
        )
    )
    try:
        yield Processes(rank, count)
    finally:
        dist.destroy_process_group()


def _exchange(work: Callable[[], object]) -> None:
    try:
        work()
    except RuntimeError as error:
        raise LostProcess(f"another process that trains this dictionary does not answer: {error}") from error


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, processes: Processes) -> Tensor:
        del ctx
        return processes.total(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        del ctx
        return grads[0], None


class _Share(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.processes.total(grads[0]), None
