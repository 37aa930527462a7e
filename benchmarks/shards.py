"""Two processes of one core against one process of one core: the same dictionary, learning from the same batches.

    python benchmarks/shards.py > benchmarks/results/WHEN-WHERE-shards.md
    python benchmarks/shards.py --d 64 --latents 1024 --batch 256 --steps 3 --rounds 1    # to see that it works

The two take turns, in rounds. Each process is bound to a core of its own; nothing else should run. The table has the
seconds of the median step of each round, and how many times the steps of one process two make in the same time. The
target is 1.7.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

import torch

from lmsae.dictionary.dictionary import Dictionary
from lmsae.planning.resolver import dictionary_of
from lmsae.runtime.memory import reuse_freed_memory
from lmsae.stages.jobs.sharded_jobs import BOARD_KEY
from lmsae.training.batch import Batch
from lmsae.training.config import TrainConfig
from lmsae.training.run import Run
from lmsae.training.sharded.board import Board
from lmsae.training.sharded.processes import joined
from lmsae.training.sharded.sharded_dictionary import build_shard, latent_dimensions, take_stretch
from lmsae.training.sharded.sharded_run import ShardedRun

WARM = 2
"""Steps that are not counted."""


def run_of(asked: argparse.Namespace, processes) -> Run:
    """A run from random weights, the same for any number of processes."""
    columns = {"architecture": "topk", "d_sae": asked.latents, "k": asked.k}
    config, objective = dictionary_of(columns, (asked.d,), (asked.d,), shared=columns)
    whole = Dictionary(config)
    geometry = whole.geometry
    geometry.place(geometry.draw(torch.Generator().manual_seed(0)), 1.0)
    train = TrainConfig(tokens=1000 * asked.batch, batch_size=asked.batch, lr=1e-4)
    if processes is None:
        return Run(whole, objective, train, "one")
    shard, own = build_shard(config, processes), processes.latents(asked.latents)
    start = whole.state_dict()
    start |= {name: take_stretch(start[name], dim, own) for name, dim in latent_dimensions(config, shard).items()}
    shard.load_state_dict(start)
    return ShardedRun(shard, config, processes, objective, train, "two")


def timed(run: Run, asked: argparse.Namespace) -> float:
    """The seconds of the median step."""
    generator, seconds = torch.Generator().manual_seed(1), []
    for _ in range(WARM + asked.steps):
        x = torch.randn(asked.batch, asked.d, generator=generator)
        began = time.perf_counter()
        run.step(Batch(x, x))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM:])


def work(asked: argparse.Namespace) -> None:
    """In a process of its own: train, and print the seconds of a step."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[rank]])
    torch.set_num_threads(1)
    reuse_freed_memory()
    if count == 1:
        print(timed(run_of(asked, None), asked))
        return
    with joined(Board(int(os.environ["MASTER_PORT"]), os.environ[BOARD_KEY]), rank, count, "cpu") as processes:
        seconds = timed(run_of(asked, processes), asked)
        if processes.is_first:
            print(seconds)


def measure(count: int) -> float:
    """The seconds of a step of so many processes."""
    board = Board()
    shared = {
        "WORLD_SIZE": str(count),
        "MASTER_PORT": str(board.port),
        BOARD_KEY: board.key,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    started = [
        subprocess.Popen(
            [sys.executable, *sys.argv, "--work"],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started), "a process failed"
    return float(said[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"d": 1024, "latents": 32_768, "k": 32, "batch": 4096, "steps": 5, "rounds": 5}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked)
        return
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("this machine gives one core; two are compared with one")
    size = f"topk, d {asked.d:,}, {asked.latents:,} latents, k {asked.k}, batch {asked.batch:,}"
    print(f"{size}; {time.strftime('%Y-%m-%d')}, {platform.machine()}, torch {torch.__version__}\n")
    print("| round | one process, s | two processes, s | times |\n|---|---|---|---|")
    ratios = []
    for number in range(asked.rounds):
        one, two = measure(1), measure(2)
        ratios.append(one / two)
        print(f"| {number + 1} | {one:.3f} | {two:.3f} | {ratios[-1]:.2f} |", flush=True)
    print(f"\nMedian: **{statistics.median(ratios):.2f}** times (target 1.7).")


if __name__ == "__main__":
    main()
