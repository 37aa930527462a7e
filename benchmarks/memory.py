"""Peak memory of training, and the formula of lmsae/stages/footprint.py, as dataset, windows and pass grow.

    python benchmarks/memory.py > benchmarks/results/WHEN-WHERE-memory.md

Each line is a process of its own that trains dictionaries on a store of random activations. The formula gives the
memory above that of a process that has trained something tiny. That process has a line of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lmsae.dictionary.dictionary import Dictionary
from lmsae.planning.resolver import dictionary_of
from lmsae.runtime.memory import reuse_freed_memory
from lmsae.stages.footprint import DictionarySize, training_footprint
from lmsae.stages.inputs.stored import batch_of
from lmsae.stages.sites import Sites
from lmsae.store.batches import ShuffledBatches
from lmsae.store.layout import Layout
from lmsae.store.order import blocks_of
from lmsae.store.reader import StoreReader
from lmsae.store.spilled import SpilledArray
from lmsae.store.stores import Stores
from lmsae.store.writer import StoreWriter
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Objective
from lmsae.training.run import Run
from lmsae.training.together import train_together

CONTEXT_SIZE = 256


@dataclass(frozen=True)
class Case:
    """The dictionaries that a process trains, and their activations."""

    tokens: int = 300_000
    window: int = 65_536
    batch: int = 2048
    dictionaries: int = 1
    d_sae: int = 2048
    architecture: str = "topk"
    width: int = 256

    def dictionary(self) -> tuple[Dictionary, Objective]:
        sparse = {"k": 16} if "topk" in self.architecture else {"l1_coefficient": 1.0}
        columns = {"architecture": self.architecture, "d_sae": self.d_sae, **sparse}
        parts, objective = dictionary_of(columns, (self.width,), (self.width,))
        return Dictionary(parts), objective

    def predicted(self) -> int:
        """The bytes that the formula predicts."""
        parameters = sum(weights.numel() for weights in self.dictionary()[0].parameters())
        layout = Layout(self.tokens // CONTEXT_SIZE, CONTEXT_SIZE, self.width, "float16")
        return training_footprint(
            window_tokens=self.window,
            token_bytes=layout.token_bytes,
            batch_size=self.batch,
            width=self.width,
            dictionaries=[DictionarySize(parameters, self.d_sae, self.architecture == "batchtopk")] * self.dictionaries,
            dataset_tokens=self.tokens,
        ).nbytes


TINY = Case(tokens=8192, window=1024, batch=64, d_sae=16)
CASES = [
    Case(),
    Case(tokens=2_400_000),
    Case(window=262_144, tokens=2_400_000),
    Case(dictionaries=4),
    Case(d_sae=8192),
    Case(d_sae=8192, dictionaries=4),
    Case(batch=8192),
    Case(architecture="standard"),
    Case(architecture="batchtopk", d_sae=8192),
]


class Stream:
    """Batches of a store, as `lmsae train` makes them."""

    def __init__(self, case: Case, path: Path) -> None:
        reader = StoreReader(path)
        usable = torch.ones(reader.contexts, CONTEXT_SIZE, dtype=torch.bool).numpy()
        mask = SpilledArray(blocks_of(usable), path.parent)
        self._source = ShuffledBatches(Stores([reader]), mask, batch_size=case.batch, seed=0, window_tokens=case.window)

    def batches(self, start_step: int, stop_step: int):
        for parts in self._source.batches(start_step, stop_step):
            yield batch_of(parts, Sites(reads=(0,), writes=(0,)))


def train(case: Case, path: Path) -> None:
    """Train in a child process, for a few steps more than a window holds."""
    reuse_freed_memory()
    steps = case.window // case.batch + 4
    config = TrainConfig(tokens=steps * case.batch, batch_size=case.batch, dead_threshold=10**9)
    runs = [Run(*case.dictionary(), config, str(number)) for number in range(case.dictionaries)]
    for _ in train_together(runs, Stream(case, path), "cpu", lambda tokens: None):
        pass


def write_store(case: Case, path: Path) -> None:
    """Write random activations."""
    layout = Layout(case.tokens // CONTEXT_SIZE, CONTEXT_SIZE, case.width, "float16")
    block = torch.randn(32, CONTEXT_SIZE, case.width)
    with StoreWriter(path, layout) as writer:
        for start in range(0, layout.contexts, 32):
            writer.append(block[: layout.contexts - start])


def measured(case: Case, folder: Path) -> int:
    """Peak resident bytes of a process that trains a case."""
    path = folder / f"{case.tokens}.zarr"
    if not path.exists():
        write_store(case, path)
    process = subprocess.Popen([sys.executable, __file__, "--child", json.dumps(asdict(case)), str(path)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{case} ended with {process.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path(), help="where stores are written")
    arguments = parser.parse_args()
    if arguments.child:
        train(Case(**json.loads(arguments.child[0])), Path(arguments.child[1]))
        return
    print(f"`python benchmarks/memory.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; ", end="")
    print(f"d = {Case.width}, float16 store.\n")
    print("| architecture | dictionaries | d_sae | batch | window | tokens of the store | peak MB ", end="")
    print("| formula MB | measured / formula |\n|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        tiny = measured(TINY, Path(folder))
        print(f"| tiny | 1 | {TINY.d_sae} | {TINY.batch} | {TINY.window:,} | {TINY.tokens:,} | {tiny / 1e6:,.0f} | | |")
        for case in CASES:
            peak, formula = measured(case, Path(folder)), tiny + case.predicted()
            print(
                f"| {case.architecture} | {case.dictionaries} | {case.d_sae:,} | {case.batch:,} | {case.window:,} | "
                f"{case.tokens:,} | {peak / 1e6:,.0f} | {formula / 1e6:,.0f} | {peak / formula:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
