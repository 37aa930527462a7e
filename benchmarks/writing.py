"""Capturing activations, compared with the bare forward pass over the same tokens, truncated after the last hook point.

    python benchmarks/writing.py > benchmarks/results/WHEN-WHERE-writing.md

The two take turns, a few batches each. The first is the model alone, which drops what it reads. The second is the
model with a store for every hook point; one pass writes all of them, as `lmsae activations` does. Shards go to the disk
as they fill, and the time of closing the stores is spread over the rounds.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from lmsae.lm import load
from lmsae.lm.protocol import LanguageModel
from lmsae.lm.resolving import resolve
from lmsae.runtime.memory import reuse_freed_memory
from lmsae.store.layout import Layout, StoreDtype
from lmsae.store.writer import StoreWriter


def timed_read(model: LanguageModel, batches: list[Tensor], hook_points: list[str]) -> float:
    """Seconds for the forward passes alone."""
    began = time.perf_counter()
    for batch in batches:
        model.read(batch, hook_points)
    return time.perf_counter() - began


def timed_capture(model: LanguageModel, batches: list[Tensor], writers: dict[str, StoreWriter]) -> float:
    """Seconds for the forward passes and handing what they read to the stores."""
    began = time.perf_counter()
    for batch in batches:
        read = model.read(batch, list(writers))
        for hook_point, writer in writers.items():
            writer.append(read[hook_point])
    return time.perf_counter() - began


@torch.inference_mode()
def compare(
    model: LanguageModel, dtype: StoreDtype, hook_points: list[str], folder: Path, arguments: argparse.Namespace
) -> str:
    """One line of the table."""
    shape = (arguments.batch_contexts, arguments.context_size)
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randint(1, model.d_vocab, shape, generator=draw) for _ in range(arguments.batches)]
    contexts = (arguments.rounds + 1) * arguments.batches * arguments.batch_contexts
    widths = model.hook_points()
    times: list[tuple[float, float]] = []
    with ExitStack() as stores:
        writers = {}
        for name in hook_points:
            layout = Layout(contexts, arguments.context_size, widths[name], dtype)
            writers[name] = stores.enter_context(StoreWriter(folder / f"{dtype}-{name}.zarr", layout))
        for number in range(arguments.rounds + 1):
            if number % 2:
                bare, capture = timed_read(model, batches, hook_points), timed_capture(model, batches, writers)
            else:
                capture, bare = timed_capture(model, batches, writers), timed_read(model, batches, hook_points)
            times.append((bare, capture))
        began = time.perf_counter()
    closing = (time.perf_counter() - began) / len(times)
    times = times[1:]
    ratio = statistics.quantiles((bare / (capture + closing) for bare, capture in times), n=4)
    tokens = arguments.batches * shape[0] * shape[1]
    rates = [tokens / statistics.median(column) for column in zip(*times, strict=True)]
    size = sum(Layout(1024, arguments.context_size, widths[name], dtype).token_bytes for name in hook_points)
    return (
        f"| {dtype}, {len(hook_points)} hook points | {rates[0]:,.0f} | {rates[1]:,.0f} | "
        f"**{ratio[1]:.3f}** ({ratio[0]:.3f}-{ratio[2]:.3f}) | {rates[1] * size / 1e6:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:stdlib-4m")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--hook-points", nargs="+", default=[f"blocks.{i}.hook_resid_post" for i in range(4)])
    parser.add_argument("--context-size", type=int, default=256)
    parser.add_argument("--batch-contexts", type=int, default=32)
    parser.add_argument("--batches", type=int, default=4, help="in each round")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--dtypes", nargs="+", default=["float16", "int8"])
    parser.add_argument("--folder", type=Path, default=Path(), help="where stores are written")
    arguments = parser.parse_args()
    reuse_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        source = resolve(arguments.model)
        model = load(source, backend="huggingface", dtype=arguments.precision, device=device)
        print(f"`python benchmarks/writing.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, {device}, ", end="")
        print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; ", end="")
        print(f"{arguments.model} in {arguments.precision}, {arguments.batch_contexts} contexts of ", end="")
        print(f"{arguments.context_size} tokens a batch, {arguments.rounds} rounds of {arguments.batches} batches.\n")
        print(
            "| store | forward alone, tokens/s | captured, tokens/s | of the forward pass (quartiles) | MB/s ", end=""
        )
        print("|\n|---|---|---|---|---|")
        for dtype in arguments.dtypes:
            for hook_points in (arguments.hook_points[-1:], arguments.hook_points):
                print(compare(model, dtype, hook_points, folder, arguments), flush=True)


if __name__ == "__main__":
    main()
