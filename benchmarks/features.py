"""What each latent means: the time of features beside that of encoding alone, on the same stored activations.

    python benchmarks/features.py > benchmarks/results/WHEN-WHERE-features.md

The script writes a store of made activations and a topk dictionary with random weights. Then it does two things in
turn, for several rounds. The first encodes all tokens and keeps nothing. The second makes all that the stage `features`
makes of one dictionary: it encodes the same tokens, describes every latent, and writes the three files. Both read the
store. The table has the quartiles of both times, and of the ratio within a round.

Made activations are sparse sums of as many directions as there are latents, with a few frequent ones and many rare
ones, so that latents fire as unevenly as those of a trained dictionary do.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import SAEConfig, Widths
from lmsae.interpretation.config import Shown
from lmsae.interpretation.context_text import ContextText
from lmsae.interpretation.describing import Subject, describe
from lmsae.interpretation.firings import Firings
from lmsae.interpretation.gathering import CODES_AT_ONCE, gather_firings
from lmsae.interpretation.logits import LogitWay
from lmsae.interpretation.texts import TokenTexts
from lmsae.runtime.memory import forget_peak, peak_memory, reuse_freed_memory
from lmsae.sparsity.config import TopKConfig
from lmsae.store.layout import Layout
from lmsae.store.reader import StoreReader
from lmsae.store.writer import StoreWriter

READ_CONTEXTS = 64
FIRING = 32
"""Directions in a token's activation."""


def make_dictionary(width: int, latents: int, k: int) -> Dictionary:
    """A topk dictionary whose latents are random directions."""
    config = DictionaryConfig(
        widths=Widths(reads=(width,), writes=(width,)),
        d_sae=latents,
        geometry=SAEConfig(),
        act_fn=TopKConfig(k=k),
        normalize_activations="none",
    )
    dictionary = Dictionary(config)
    drawn = dictionary.geometry.draw(torch.Generator().manual_seed(0))
    dictionary.geometry.place(drawn, 1.0)
    return dictionary.eval().requires_grad_(False)


def write_store(path: Path, layout: Layout, dictionary: Dictionary) -> None:
    """Write sums of a few directions each, drawn by Zipf's law."""
    rows, draw = dictionary.geometry.state_dict()["W_dec"], torch.Generator().manual_seed(1)
    shares = 1 / torch.arange(10, 10 + len(rows), dtype=torch.float64)
    with StoreWriter(path, layout) as writer:
        for start in range(0, layout.contexts, READ_CONTEXTS):
            contexts = min(READ_CONTEXTS, layout.contexts - start)
            tokens = contexts * layout.context_size
            chosen = torch.multinomial(shares, tokens * FIRING, replacement=True, generator=draw).view(tokens, FIRING)
            sizes = torch.rand(tokens, FIRING, generator=draw) + 0.2
            x = torch.nn.functional.embedding_bag(chosen, rows, mode="sum", per_sample_weights=sizes)
            writer.append(x.view(contexts, layout.context_size, -1))


def encode_all(reader: StoreReader, dictionary: Dictionary) -> None:
    """Encode every token, in the batches of features."""
    at_once = max(1, CODES_AT_ONCE // dictionary.geometry.latents)
    with torch.inference_mode():
        for start in range(0, reader.contexts, READ_CONTEXTS):
            x = reader.read(start, min(start + READ_CONTEXTS, reader.contexts)).flatten(0, 1)
            for part in x.split(at_once):
                dictionary.encode(part)


def describe_all(
    reader: StoreReader, dictionary: Dictionary, ids: np.ndarray, rows: torch.Tensor, shown: Shown, out: Path
) -> tuple[float, float]:
    """Make the files of features; returns the seconds until all firings were gathered, and those after that."""
    began, counted = time.perf_counter(), torch.ones(ids.shape, dtype=torch.bool)
    with Firings(out, dictionary.geometry.latents) as firings:
        for start in range(0, reader.contexts, READ_CONTEXTS):
            stop = min(start + READ_CONTEXTS, reader.contexts)
            first = start * reader.context_size
            gather_firings(dictionary, reader.read(start, stop), counted[start:stop], first, firings)
        gathered = time.perf_counter()
        text = ContextText(ids, counted.numpy(), TokenTexts.of_numbers(len(rows)))
        way = LogitWay(rows, [(slice(0, reader.width), None)], "made")
        describe(Subject(dictionary, ["made"], [], [], "made", "train", way), firings, text, shown, out)
    return gathered - began, time.perf_counter() - gathered


def warm_up(dictionary: Dictionary, rows: torch.Tensor, out: Path) -> None:
    """Let Numba compile its loops, which it does once after an installation."""
    x, counted = torch.randn(4, 16, dictionary.config.d_in), torch.ones(4, 16, dtype=torch.bool)
    with Firings(out, dictionary.geometry.latents) as firings:
        gather_firings(dictionary, x, counted, 0, firings)
        text = ContextText(np.zeros((4, 16), np.uint16), counted.numpy(), TokenTexts.of_numbers(100))
        way = LogitWay(rows[:100], [(slice(0, x.shape[-1]), None)], "made")
        describe(Subject(dictionary, ["made"], [], [], "made", "train", way), firings, text, Shown(), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--context-size", type=int, default=128)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the store is written; else a temporary folder")
    arguments = parser.parse_args()
    reuse_freed_memory()
    contexts = arguments.tokens // arguments.context_size
    dictionary = make_dictionary(arguments.width, arguments.latents, arguments.k)
    draw = np.random.default_rng(0)
    ids = (draw.zipf(1.3, (contexts, arguments.context_size)) % arguments.vocabulary).astype(np.uint16)
    rows = torch.randn(arguments.vocabulary, arguments.width, generator=torch.Generator().manual_seed(2))
    times = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        out = Path(folder)
        write_store(
            out / "store.zarr", Layout(contexts, arguments.context_size, arguments.width, "float16"), dictionary
        )
        reader = StoreReader(out / "store.zarr")
        warm_up(dictionary, rows, out)
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            encode_all(reader, dictionary)
            encoded = time.perf_counter() - began
            forget_peak()
            gathered, described = describe_all(reader, dictionary, ids, rows, Shown(), out)
            times.append((encoded, gathered, described))
        peak, size = peak_memory()["host"], sum(file.stat().st_size for file in out.glob("*.parquet"))
    tokens = contexts * arguments.context_size
    print(f"`python benchmarks/features.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    print(
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; {tokens:,} tokens, "
    )
    print(f"{arguments.latents:,} latents, d = {arguments.width}, k = {arguments.k}, vocabulary ", end="")
    print(f"{arguments.vocabulary:,}, {arguments.rounds} rounds. Peak memory {peak / 1e9:.2f} GB, files ", end="")
    print(f"{size / 1e6:.0f} MB.\n")
    print("| | lowest quartile | median | highest quartile |\n|---|---|---|---|")
    print(_line("encoding alone, s", [encoded for encoded, _, _ in times]))
    print(_line("features, s", [gathered + described for _, gathered, described in times]))
    print(_line("of that, until firings are gathered, s", [gathered for _, gathered, _ in times]))
    print(_line("speed of features, encoding alone = 1", [e / (g + d) for e, g, d in times]))


def _line(name: str, values: list[float]) -> str:
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return f"| {name} | " + " | ".join(f"{value:.3g}" for value in quartiles) + " |"


if __name__ == "__main__":
    main()
