"""Several processes of gloo for a test, each of which does the same work with its own number."""

import faulthandler
import io
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from lmsae.training.run import Run
from lmsae.training.sharded.board import Board
from lmsae.training.sharded.processes import Processes, joined
from lmsae.training.sharded.sharded_dictionary import build_shard, latent_dimensions
from lmsae.training.sharded.sharded_run import ShardedRun
from lmsae.training.sharded.whole_state import take_own

Result = TypeVar("Result")
PATIENCE_S = 120


def in_processes(count: int, work: Callable[[Processes], Result]) -> list[Result]:
    """What `work` returns in each of `count` processes, in the order of their numbers.

    They are forked, so that they have all that the test has, before this process has the threads of a board. An error
    of one of them is raised here.
    """
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe() for _ in range(count)]
    children = [
        fork.Process(target=_work, args=(work, rank, count, pipes[rank][1]), daemon=True) for rank in range(count)
    ]
    for child in children:
        child.start()
    board = Board()
    for outlet, inlet in pipes:
        inlet.close()
        outlet.send((board.port, board.key))
    answers: list[Any] = []
    for rank, (outlet, _) in enumerate(pipes):
        assert outlet.poll(PATIENCE_S), f"process {rank} of {count} does not answer"
        answers.append(torch.load(io.BytesIO(outlet.recv_bytes()), weights_only=False))
    for child in children:
        child.join()
    errors = [f"process {rank}: {said}" for rank, (is_done, said) in enumerate(answers) if not is_done]
    assert not errors, "\n".join(errors)
    return [said for _, said in answers]


def shard_of(run: Run, processes: Processes) -> ShardedRun:
    """The run of a process that begins where a run of the whole dictionary is to begin."""
    config, start = run.dictionary.config, run.dictionary.state_dict()
    shard = build_shard(config, processes)
    for name, dim in latent_dimensions(config, shard).items():
        start[name] = take_own(start[name], dim, processes, config.d_sae)
    shard.load_state_dict(start)
    return ShardedRun(shard, config, processes, run.objective, run.config, run.name)


def _work(work: Callable[[Processes], Any], rank: int, count: int, inlet: Connection) -> None:
    faulthandler.dump_traceback_later(PATIENCE_S - 5)
    torch.set_num_threads(1)
    try:
        with joined(Board(*inlet.recv()), rank, count, "cpu") as processes:
            answer = (True, work(processes))
    except BaseException:
        answer = (False, traceback.format_exc())
    written = io.BytesIO()
    torch.save(answer, written)
    inlet.send_bytes(written.getvalue())
