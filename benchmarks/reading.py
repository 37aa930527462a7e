"""Shuffled batches from the store, compared with the raw bytes of the same files, read in order.

    python benchmarks/reading.py > benchmarks/results/WHEN-WHERE-reading.md

The script writes a store of random activations for each dtype. Then it measures two ways in turn. The first reads every
file front to back into one buffer that is used again; this is the ceiling. The second takes one epoch of shuffled
batches, checks their checksums and decodes them to float32. Cold rounds begin with the files dropped from the file
cache, hot rounds with all of them in it. Nothing is trained meanwhile.

Both ways take memory for the file cache. If the host of a virtual machine has taken free memory back, getting it again
costs more time than the disk, and not always the same. So twice the size of a store is touched and freed before each
cold reading.
"""

import argparse
import mmap
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from lmsae.runtime.memory import reuse_freed_memory
from lmsae.store.batches import ShuffledBatches
from lmsae.store.layout import Layout, StoreDtype
from lmsae.store.reader import StoreReader
from lmsae.store.stores import Stores
from lmsae.store.writer import StoreWriter

RAW_BYTES = 4 << 20


def write_store(path: Path, layout: Layout) -> None:
    """Write random activations: the same 64 contexts over and over, each time another multiple."""
    block = torch.randn(64, layout.context_size, layout.width, generator=torch.Generator().manual_seed(0))
    with StoreWriter(path, layout) as writer:
        for start in range(0, layout.contexts, 64):
            writer.append(block[: layout.contexts - start] * (1 + start % 7))


def drop_from_cache(path: Path) -> None:
    """Drop a store's files from the file cache. This needs no rights."""
    for file in path.glob("c/*/0/0"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def touch_free_memory(nbytes: int) -> None:
    """Touch this much free memory, so that the machine really owns it."""
    with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        pass


def read_raw(path: Path) -> None:
    """Read all files, one after the other, into one buffer."""
    buffer = np.empty(RAW_BYTES, dtype=np.uint8)
    for file in sorted(path.glob("c/*/0/0"), key=lambda file: int(file.parts[-3])):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer.data):
                pass


def take_epoch(batches: ShuffledBatches, steps: int) -> None:
    """Take all batches of an epoch."""
    for _ in batches.batches(0, steps):
        pass


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def lines(dtype: StoreDtype, folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """The lines of the table for a dtype: cold and hot."""
    contexts = arguments.tokens // arguments.context_size
    layout = Layout(contexts, arguments.context_size, arguments.width, dtype)
    path = folder / f"{dtype}.zarr"
    write_store(path, layout)
    usable = np.ones(layout.shape[:2], dtype=bool)
    batches = ShuffledBatches(Stores([StoreReader(path)]), usable, batch_size=arguments.batch, seed=0)
    steps = usable.size // arguments.batch
    works = (lambda: read_raw(path)), (lambda: take_epoch(batches, steps))
    for cold in (True, False):
        times: list[tuple[float, float]] = []
        for number in range(arguments.rounds + 1):
            took = [0.0, 0.0]
            for which in (0, 1) if number % 2 else (1, 0):
                if cold:
                    drop_from_cache(path)
                    touch_free_memory(2 * layout.nbytes)
                took[which] = seconds(works[which])
            times.append((took[0], took[1]))
        times = times[1:]  # the first round also touches fresh memory
        ratio = statistics.quantiles((raw / ours for raw, ours in times), n=4)
        raw, ours = (statistics.median(column) for column in zip(*times, strict=True))
        yield (
            f"| {dtype}, {'cold' if cold else 'hot'} | {layout.token_bytes:,} | {layout.nbytes / raw / 1e9:.2f} | "
            f"{layout.nbytes / ours / 1e9:.2f} | **{ratio[1]:.2f}** ({ratio[0]:.2f}-{ratio[2]:.2f}) | "
            f"{steps * arguments.batch / ours / 1e6:.2f} |"
        )
    for file in path.glob("c/*/0/0"):
        file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--context-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", default=["float16", "int8"])
    parser.add_argument("--folder", type=Path, default=Path(), help="where stores are written: the disk to measure")
    arguments = parser.parse_args()
    reuse_freed_memory()
    print(f"`python benchmarks/reading.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; ", end="")
    print(f"d = {arguments.width}, {arguments.tokens:,} tokens, batch {arguments.batch:,}, ", end="")
    print(f"windows of 262,144 tokens, {arguments.rounds} rounds.\n")
    print(
        "| store | bytes a token | raw GB/s | lmsae GB/s | of raw (quartiles) | M tokens/s |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for dtype in arguments.dtypes:
            for line in lines(dtype, Path(folder), arguments):
                print(line, flush=True)


if __name__ == "__main__":
    main()
