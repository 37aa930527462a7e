"""24 dictionaries, 6 architectures x 4 sparsities: one pass of lmsae, 24 passes, and dictionary_learning's list.

    python benchmarks/many_dictionaries.py artifacts/activations/KEY > benchmarks/results/WHEN-WHERE-many.md

One pass reads, shuffles and scales activations once for all. Each way trains all 24 for the same steps on the same
activations, in turn, for several rounds. The table has the seconds a round and the ratios (median, lowest and highest).
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trainers import COLUMNS, Setting, dictionary_learning_trainer, lmsae_run
from training_step import Activations

from lmsae.runtime.memory import reuse_freed_memory
from lmsae.training.batch import Batch
from lmsae.training.run import Run
from lmsae.training.together import train_together

SPARSITIES: tuple[dict[str, Any], ...] = (
    {"k": 16, "l1": 4.0, "l0": 2.0},
    {"k": 32, "l1": 3.5, "l0": 1.0},
    {"k": 64},
    {"k": 96, "l1": 2.5, "l0": 0.2},
)


class Stream:
    """Scaled activations from the store, as training reads them."""

    def __init__(self, activations: Activations, setting: Setting) -> None:
        self._activations, self._setting = activations, setting

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        del start_step
        for x in self._activations.batches(self._setting.batch, stop_step * self._setting.batch):
            yield Batch(x, x)


def settings(arguments: argparse.Namespace, width: int) -> list[Setting]:
    """The settings of all 24."""
    tokens = arguments.steps * arguments.batch
    common = (width, arguments.d_sae, arguments.batch, tokens, arguments.lr)
    return [Setting(architecture, *common, **sparsity) for architecture in COLUMNS for sparsity in SPARSITIES]


def together(runs: list[Run], stream: Stream) -> None:
    """Train all in one pass over the data."""
    for _ in train_together(runs, stream, "cpu", lambda tokens: None):
        pass


def one_by_one(runs: list[Run], stream: Stream) -> None:
    """Train each in a pass of its own."""
    for run in runs:
        together([run], stream)


def in_a_list(trainers: list[Any], batches: Iterator[Tensor], width: int) -> None:
    """Train them as dictionary_learning does: a loop over trainers, batch by batch."""
    for step, x in enumerate(batches):
        scaled = x * width**-0.5
        for trainer in trainers:
            trainer.update(step, scaled)


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("activations", type=Path, help="a finished activations artifact")
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    reuse_freed_memory()
    activations = Activations(arguments.activations)
    width = activations.calibration.shape[1]
    wanted = settings(arguments, width)
    stream = Stream(activations, wanted[0])
    times: list[tuple[float, float, float]] = []
    for _ in range(arguments.rounds):
        first, second = (
            [lmsae_run(setting, activations.calibration[:1024], arguments.precision) for setting in wanted]
            for _ in range(2)
        )
        listed = [dictionary_learning_trainer(setting) for setting in wanted]
        batches = activations.batches(arguments.batch, arguments.steps * arguments.batch)
        times.append(
            (
                seconds(lambda runs=first: together(runs, stream)),
                seconds(lambda runs=second: one_by_one(runs, stream)),
                seconds(lambda all=listed, batches=batches: in_a_list(all, batches, width)),
            )
        )
    print(f"`python benchmarks/many_dictionaries.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    print(
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; {len(wanted)} ",
        end="",
    )
    print(
        f"dictionaries, d = {width}, d_sae = {arguments.d_sae}, {arguments.steps} steps of {arguments.batch:,} ", end=""
    )
    print(f"tokens, lmsae with {arguments.precision} products, {arguments.rounds} rounds.\n")
    print("| way | seconds a round | times lmsae's one pass (lowest-highest) |\n|---|---|---|")
    names = ("lmsae, one pass", "lmsae, 24 passes", "dictionary_learning, a list of trainers")
    for name, column in zip(names, zip(*times, strict=True), strict=True):
        ratios = [took / row[0] for took, row in zip(column, times, strict=True)]
        print(
            f"| {name} | {statistics.median(column):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()
