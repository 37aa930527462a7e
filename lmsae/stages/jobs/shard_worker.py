"""One of the processes that train a dictionary together (sharded_jobs.py starts them)."""

import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, replace
from functools import partial

import torch
from safetensors import safe_open
from torch import Tensor

from lmsae.artifacts.artifact import CHECKPOINT
from lmsae.artifacts.claim import require_holder
from lmsae.artifacts.resuming import NOTE, discard, note_resumption
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import LmsaeError
from lmsae.runtime.memory import explain_no_memory, peak_memory, reuse_freed_memory
from lmsae.runtime.progress import show_progress
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.wandb_log import curves_logger
from lmsae.sparsity.selection import LearnsThreshold
from lmsae.stages.effort import Facts
from lmsae.stages.finishing import finish
from lmsae.stages.flops import dictionary_flops
from lmsae.stages.inputs.extending import Extended, extend_shorter_run, step_to_keep
from lmsae.stages.inputs.stored import stores_for
from lmsae.stages.inputs.stream import Stream
from lmsae.stages.jobs.sharded_jobs import BOARD_KEY, CHECKPOINT_TAKEN, ERROR, FACTS, LOST_S, ORDER, STOP, Order
from lmsae.stages.jobs.train_jobs import CURVES
from lmsae.stages.stage import Job
from lmsae.training.checkpoints import Checkpoints, Keeper
from lmsae.training.curves import describe
from lmsae.training.interruption import Interruption
from lmsae.training.sharded.board import Board
from lmsae.training.sharded.processes import LostProcess, Processes, joined
from lmsae.training.sharded.sharded_dictionary import build_shard, latent_dimensions
from lmsae.training.sharded.sharded_keeper import ShardedKeeper, Stopped
from lmsae.training.sharded.sharded_run import ShardedRun
from lmsae.training.together import BrokenRuns, train_together

WATCH_S = 1.0


def main() -> int:
    """Train a shard as the environment of torchrun and the order on the board say; returns an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever started this process is told, and says so on the board
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    board = Board(int(os.environ["MASTER_PORT"]), os.environ[BOARD_KEY])
    order: Order = board.read(ORDER)
    threading.Thread(target=_end_with, args=(order.starter,), daemon=True).start()
    job, runtime = _prepare(order, rank)
    device = runtime.torch_device()
    try:
        with joined(board, rank, count, device) as processes:
            facts = _train(job, runtime, processes, board)
    except Exception as error:
        if isinstance(error, LostProcess):
            time.sleep(LOST_S)
        told = explain_no_memory(error, "train", "lower train.batch_size or sae.d_sae, or raise train.shards")
        if not isinstance(told, LmsaeError | OSError):
            traceback.print_exception(error)
        said = told if isinstance(told, LmsaeError | OSError) else f"{type(error).__name__}: {error}"
        board.leave(f"{ERROR}/{rank}", said)
        return 1
    if facts is not None:
        board.leave(FACTS, facts)
    return 0


def _end_with(starter: int) -> None:
    """End this process when the one that started it is gone, and with it the claim."""
    while os.getppid() == starter:
        time.sleep(WATCH_S)
    os._exit(1)


def _prepare(order: Order, rank: int) -> tuple[Job, Runtime]:
    """The job with the claim of whoever started this process, and how to work here."""
    job, runtime = order.job, order.runtime
    if order.holder:
        job = replace(job, require_claim=partial(require_holder, job.folder, order.holder))
    reuse_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if torch.device(runtime.torch_device()).type == "cuda":
        runtime = runtime.model_copy(update={"device": f"cuda:{os.environ['LOCAL_RANK']}"})
        torch.cuda.set_device(runtime.device)
    return job, runtime


class _Asked(Interruption):
    """A request to stop that whoever started this process has left on the board."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board

    @property
    def is_asked(self) -> bool:
        return self._board.has(STOP)


def _train(job: Job, runtime: Runtime, processes: Processes, board: Board) -> Facts | None:
    """Train the shard of a process. The first one writes what the job is to make, and returns the facts for its
    provenance; None if it was asked to stop."""
    stream = Stream(job, {}, with_ids=False)
    config, device = job.config, runtime.torch_device()
    config.require_tokens(stream.source.tokens_per_epoch)
    stores_for(config.dictionary, config.sites, job.inputs)
    run = _build(job, runtime, processes)
    keeps = step_to_keep(job) if runtime.keep_training_state and processes.is_first else 0
    checkpoints = Checkpoints(job.out / CHECKPOINT, run, keeps, job.require_claim)
    extends = _go_on(job, run, checkpoints, processes, board)
    began, resumed = run.steps_done, note_resumption(job.out, run.steps_done) if processes.is_first else []
    shown = runtime if processes.is_first else runtime.model_copy(update={"progress": False})
    tokens = (config.steps - began) * config.batch_size
    told = partial(_describe, run)
    with show_progress("train", unit="token", total=tokens, runtime=shown, describe=told) as progress:
        keeper = None
        if processes.is_first:
            every = runtime.checkpoint_seconds
            keeper = Keeper({run: checkpoints}, every, _Asked(board), runtime.checkpoint_steps)
        after_step = ShardedKeeper(keeper, processes).after_step
        try:
            for _ in train_together([run], stream, device, progress.advance, after_step):
                progress.waited_s = stream.source.waited_s
        except Stopped:
            return None
        except BrokenRuns as broken:
            raise broken.errors[run] from None
        flops = dictionary_flops(config.dictionary, stream.context_size).step * tokens
        cost = {**progress.facts(1, flops, flops), **(keeper.facts() if keeper else {})}
    weights = run.gather_weights()
    here = peak_memory()
    all_peaks = processes.gather(torch.tensor([*here.values()])).tolist()
    peaks = [dict(zip(here, one, strict=True)) for one in all_peaks]
    if weights is None:
        return None
    _write(job, run, weights, device)
    checkpoints.finish()
    discard(job.out / NOTE)
    cost |= {"resumed_from_steps": resumed, "extends": asdict(extends) if extends else None}
    return cost | {"evaluations": 0, "along_s": 0.0, "processes": processes.count, "peak_memory_of_processes": peaks}


def _describe(run: ShardedRun) -> str:
    return describe([run.curves[-1]]) if run.curves else ""


def _build(job: Job, runtime: Runtime, processes: Processes) -> ShardedRun:
    """The run of a process from the weights that init made, of which it reads its part alone."""
    config = job.config
    shard = build_shard(config.dictionary, processes)
    own, dimensions = processes.latents(config.dictionary.d_sae), latent_dimensions(config.dictionary, shard)
    with safe_open(job.inputs["init"].path / "weights.safetensors", framework="pt") as file:

        def read(name: str) -> Tensor:
            if name not in dimensions:
                return file.get_tensor(name)
            return file.get_slice(name)[(slice(None),) * dimensions[name] + (own,)]

        shard.load_state_dict({name: read(name) for name in shard.state_dict()})
    log = curves_logger(job.reference, config.model_dump(mode="json"), runtime) if processes.is_first else None
    shard = shard.to(runtime.torch_device())
    return ShardedRun(shard, config.dictionary, processes, config.objective, config, job.reference, log)


def _go_on(job: Job, run: ShardedRun, checkpoints: Checkpoints, processes: Processes, board: Board) -> Extended | None:
    """Bring all processes to the checkpoint that the first one finds, of this run or of a shorter one."""
    extends = None
    if processes.is_first:
        if not checkpoints.restore():
            extends = extend_shorter_run(job, checkpoints)
        board.leave(CHECKPOINT_TAKEN, checkpoints.taken)
    processes.tell(0)  # until the first has left it, however long it reads
    path = board.read(CHECKPOINT_TAKEN)
    if path is not None and not processes.is_first:
        saved = torch.load(path, map_location=run.device_of_states, weights_only=True, mmap=True)
        run.go_on_from(saved["state"])
    return extends


def _write(job: Job, run: ShardedRun, weights: dict[str, Tensor], device: str) -> None:
    """Write the files of a dictionary that one process would have trained."""
    whole = Dictionary(job.config.dictionary)
    whole.load_state_dict(weights)
    weights.clear()
    run.forget_moments()
    if isinstance(whole.sparsity, LearnsThreshold):
        whole = whole.to(device)  # a threshold is calibrated there
    finish(whole, job).save(job.out)
    run.write_curves(job.out / CURVES)


if __name__ == "__main__":
    sys.exit(main())
