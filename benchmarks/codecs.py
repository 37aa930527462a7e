"""The cost of a store in each dtype: bytes, variance lost, and the scores of a dictionary that is trained on it.

    python benchmarks/codecs.py > benchmarks/results/WHEN-WHERE-codecs.md

This is a whole small experiment on the built-in model and text. It captures activations once for each dtype, from the
same tokens. On each store it trains the same row with several seeds (of the start and of the order), and scores it by
splicing into the model. Variance lost is measured on the calibration split, against the float32 store.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lmsae.artifacts.artifact import Artifacts
from lmsae.cli import main as lmsae
from lmsae.store.layout import StoreDtype
from lmsae.store.reader import StoreReader

DTYPES: Sequence[StoreDtype] = ("float32", "float16", "bfloat16", "int8")
METRICS = ("explained_variance", "l0", "ce_loss_score_mean")


def write_sweep(folder: Path, arguments: argparse.Namespace) -> None:
    """Write an experiment with a row for each dtype and seed."""
    config = {
        "model": {"name": "builtin:stdlib-4m"},
        "dataset": {"name": "builtin:python-stdlib"},
        "tokenize": {"context_size": 256, "tokens": arguments.tokens + 50_000},
        "sae": {"hook_point": arguments.hook_point, "architecture": arguments.architecture, "k": arguments.k}
        | {"d_sae": arguments.d_sae},
        "init": {"tokens": 2048},
        "train": {"tokens": arguments.tokens, "batch_size": 1024, "lr": 2e-3, "dead_threshold": 100_000},
        "eval": {"tokens": 50_000},
        "runtime": {"artifacts": str(folder / "artifacts"), "results": str(folder / "results"), "device": "cpu"},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    columns = ["name", "activations.dtype", "init.seed", "train.seed"]
    rows = [
        [f"{dtype}-{seed}", dtype, str(seed), str(seed)]
        for dtype in arguments.dtypes
        for seed in range(arguments.seeds)
    ]
    (folder / "sweep.tsv").write_text("".join("\t".join(line) + "\n" for line in [columns, *rows]))


def lines(folder: Path, dtypes: Sequence[StoreDtype]) -> list[str]:
    """The table, a line a dtype."""
    artifacts = Artifacts(folder / "artifacts")
    rows = json.loads((folder / "results" / "metrics.json").read_text())
    stores: dict[str, StoreReader] = {}
    for name in rows:
        reference = (folder / "results" / "rows" / name / "activations").resolve().name
        stores[name.split("-")[0]] = StoreReader(artifacts.find(reference).path / "activations.zarr")
    calibration = next(iter(artifacts.root.glob("tokenize/*/counts.json")))
    contexts = json.loads(calibration.read_text())["calibration_contexts"]
    exact = stores["float32"].read(0, contexts).double().flatten(0, 1)
    variance = (exact - exact.mean(0)).square().sum()
    half = stores["float16"].layout.nbytes
    table = []
    for dtype in dtypes:
        store = stores[dtype]
        size = sum(file.stat().st_size for file in store.path.glob("c/*/0/0"))
        lost = float((store.read(0, contexts).double().flatten(0, 1) - exact).square().sum() / variance)
        learned = [_spread([row[metric] for name, row in rows.items() if name.startswith(dtype)]) for metric in METRICS]
        tokens = store.contexts * store.context_size
        table.append(f"| {dtype} | {size / tokens:,.1f} | {size / half:.3f} | {lost:.2g} | {' | '.join(learned)} |")
    return table


def _spread(values: list[Any]) -> str:
    """The mean and the range."""
    return f"{statistics.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--hook-point", default="blocks.2.hook_resid_post")
    parser.add_argument("--architecture", default="topk")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, help="float32 and float16 among them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path()) as name:
        folder = Path(name)
        write_sweep(folder, arguments)
        with contextlib.redirect_stdout(io.StringIO()):
            flags = ["--config", str(folder / "config.yaml"), "--sweep", str(folder / "sweep.tsv")]
            failed = lmsae(["run", *flags])
        if failed:
            raise SystemExit(failed)
        print(f"`python benchmarks/codecs.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
        print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; ", end="")
        print(
            f"builtin:stdlib-4m, {arguments.hook_point}, d = 256; {arguments.architecture}, k = {arguments.k}, ", end=""
        )
        print(f"d_sae = {arguments.d_sae}, {arguments.tokens:,} tokens; mean (range) of {arguments.seeds} seeds.\n")
        print("| dtype | bytes a token | of float16 | variance lost | explained variance | L0 | CE score |")
        print("|---|---|---|---|---|---|---|")
        print("\n".join(lines(folder, arguments.dtypes)))


if __name__ == "__main__":
    main()
