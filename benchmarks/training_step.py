"""Training steps of lmsae beside SAELens and dictionary_learning: the same activations, in turn, in one process.

    python benchmarks/training_step.py artifacts/activations/KEY > benchmarks/results/WHEN-WHERE-training-step.md

All train the same architecture from their own default start, with the same batch, learning rate and Adam; lmsae with
float32 and with bfloat16 products, SAELens in float32 and under its own autocast. Printed: tokens/s of the median step,
the speed-up of each over the float32 SAELens (median of the ratios within each round, and quartiles), and what each
dictionary has learned by then, on held-aside activations that none saw. A faster step that learns less is no gain.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor
from trainers import (
    COLUMNS,
    Setting,
    Trainer,
    dictionary_learning,
    explained_variance,
    l0_and_dead,
    lmsae,
    saelens,
)

from lmsae.artifact import Artifact, Artifacts
from lmsae.memory import reuse_freed_memory
from lmsae.stages.reading import aside_activations
from lmsae.stages.sites import Reading
from lmsae.store.batches import ShuffledBatches
from lmsae.store.reader import StoreReader
from lmsae.store.source import Stores
from lmsae.text.tokens import open_tokens

WARM = 3
"""Steps of each trainer that are not counted."""


class Activations:
    """Stored activations, scaled to a mean norm of sqrt(width)."""

    def __init__(self, folder: Path) -> None:
        store = Artifact(folder)
        artifact = Artifacts(folder.parent.parent)[store.spec().inputs["tokens"]]
        self._tokens = open_tokens(artifact.path)
        self._reader = StoreReader(store.path / "activations.zarr")
        raw = aside_activations(store, artifact, Reading())
        self._scale = raw.shape[1] ** 0.5 / raw.norm(dim=1).mean()
        self.aside = raw * self._scale

    def batches(self, batch: int, tokens: int) -> Iterator[Tensor]:
        stream = ShuffledBatches(
            Stores([self._reader]),
            self._tokens.usable("train"),
            batch_size=batch,
            seed=0,
            first=self._tokens.aside_contexts,
        )
        with closing(stream.batches(0, tokens // batch)) as raw:
            for (x,) in raw:
                yield x * self._scale


def contestants(setting: Setting, aside: Tensor) -> list[Trainer]:
    """All trainers; dictionary_learning only where it is installed."""
    there = [saelens(setting), saelens(setting, autocast=True)]
    try:
        there.append(dictionary_learning(setting))
    except ImportError:
        print("dictionary_learning is not installed", flush=True)
    return [*there, lmsae(setting, aside), lmsae(setting, aside, "bfloat16")]


def timed(trainer: Trainer, x: Tensor) -> float:
    started = time.perf_counter()
    trainer.step(x)
    return time.perf_counter() - started


def compare(setting: Setting, activations: Activations) -> Iterator[str]:
    """Train all in turn over the same batches; one line a trainer."""
    trainers = contestants(setting, activations.aside)
    rounds: list[list[float]] = []
    for number, x in enumerate(activations.batches(setting.batch, setting.tokens)):
        times = dict[str, float]()
        for trainer in trainers[number % len(trainers) :] + trainers[: number % len(trainers)]:
            times[trainer.name] = timed(trainer, x)
        rounds.append([times[trainer.name] for trainer in trainers])
    rounds = rounds[WARM:]
    test = activations.aside[:8192]
    for place, trainer in enumerate(trainers):
        speed = setting.batch / statistics.median(times[place] for times in rounds)
        quarters = statistics.quantiles((times[0] / times[place] for times in rounds), n=4)
        l0, dead = l0_and_dead(trainer, test)
        yield (
            f"| {setting.architecture} | {trainer.name} | {speed:,.0f} | {quarters[1]:.2f} ({quarters[0]:.2f}-"
            f"{quarters[2]:.2f}) | {explained_variance(trainer, test):.3f} | {l0:.1f} | {dead:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("activations", type=Path, help="a finished activations artifact")
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--architectures", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    arguments = parser.parse_args()
    reuse_freed_memory()  # for all: they share the process
    activations = Activations(arguments.activations)
    width = activations.aside.shape[1]
    print(f"`python benchmarks/training_step.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; ", end="")
    print(f"d = {width}, d_sae = {arguments.d_sae}, batch {arguments.batch:,}, {arguments.tokens:,} tokens, ", end="")
    print(f"lr {arguments.lr:g}.\n")
    print(
        "| architecture | trainer | tokens/s | times SAELens (quartiles) | EV | L0 | dead |\n|" + 7 * "---|", flush=True
    )
    for architecture in arguments.architectures:
        setting = Setting(architecture, width, arguments.d_sae, arguments.batch, arguments.tokens, arguments.lr)
        for line in compare(setting, activations):
            print(line, flush=True)


if __name__ == "__main__":
    main()
