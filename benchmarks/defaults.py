"""Every architecture at its defaults, beside the best of a small sweep of learning rates.

    python benchmarks/defaults.py --model builtin:stdlib-4m --folder build/defaults/stdlib
    python benchmarks/defaults.py --model build/made-llama --folder build/defaults/llama

The rows are those of config/zoo, smaller: half the latents, half the tokens and half the batch, so as many steps. Each
architecture trains at the learning rate of config/zoo, at a third of it and at three times it. Where L0 follows from a
coefficient, the other rates train with 0.7, 1 and 1.4 times it, and their explained variance is interpolated in log L0
to the L0 of the default; where all are sparser or all denser, that of the nearest is a bound. `lmsae run` makes the
sweep in --folder and goes on where it was stopped.
"""

import argparse
import csv
import math
import platform
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
import yaml

ZOO = Path(__file__).parent.parent / "config" / "zoo"
COEFFICIENTS = ("sae.l1_coefficient", "sae.p_anneal_coefficient", "sae.l0_coefficient", "sae.tanh_coefficient")
RATES, STRENGTHS = (1 / 3, 1.0, 3.0), (0.7, 1.0, 1.4)
Row = dict[str, str]


def rows_of(zoo: list[Row], lr: float, rates: list[float]) -> list[Row]:
    """The rows of the sweep: NAME is a default, NAME-RATE-STRENGTH one beside it."""
    rows = []
    for row in zoo:
        small = row | {"sae.d_sae": "256" if row["name"] == "clt" else row["sae.d_sae"]}
        coefficient = next((one for one in COEFFICIENTS if row[one]), None)
        for rate in rates:
            for strength in STRENGTHS if coefficient and rate != 1 else (1.0,):
                name = row["name"] if rate == 1 else f"{row['name']}-{rate:.2g}-{strength:g}"
                one = small | {"name": name, "train.lr": f"{lr * rate:.3g}"}
                if coefficient:
                    one[coefficient] = f"{float(row[coefficient]) * strength:.4g}"
                rows.append(one)
    return rows


def write(folder: Path, model: str, tokens: int, rates: list[float]) -> list[Row]:
    """Write the sweep's config and sheet; returns the rows of config/zoo."""
    config = yaml.safe_load((ZOO / "config.yaml").read_text())
    config["model"]["name"] = model
    config["sae"]["d_sae"] = 512
    config["train"] |= {"tokens": tokens, "batch_size": max(1, tokens * 1024 // 800_000), "dead_threshold": tokens // 8}
    config["tokenize"]["tokens"] = tokens + 50_000
    config["eval"]["tokens"] = 20_000
    config["features"] = {"tokens": 0}
    config["runtime"] = {"artifacts": str(folder / "artifacts"), "results": str(folder / "results")}
    with (ZOO / "sweep.tsv").open() as file:
        zoo = list(csv.DictReader(file, delimiter="\t"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = rows_of(zoo, config["train"]["lr"], rates)
    with (folder / "sweep.tsv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return zoo


def matched(points: list[Row], l0: float) -> tuple[str, float]:
    """Explained variance at an L0, linear in log L0 between the nearest two points. The sign before it is `>` or `<` if
    all points are sparser or denser than that: it grows with L0, and the nearest point's is a bound."""
    pairs = sorted((math.log(float(one["l0"])), float(one["explained_variance"])) for one in points)
    wanted = math.log(l0)
    if len(pairs) == 1:
        return "", pairs[0][1]
    for (a, low), (b, high) in pairwise(pairs):
        if a <= wanted <= b:
            return "", low + (high - low) * (wanted - a) / (b - a)
    return (">", pairs[-1][1]) if wanted > pairs[-1][0] else ("<", pairs[0][1])


def line(name: str, found: dict[str, Row]) -> str:
    """The table's line of one architecture."""
    default = found.get(name)
    if default is None:
        return f"| {name} | failed |" + 7 * " |"
    l0, variance = float(default["l0"]), float(default["explained_variance"])
    best, cells = variance, []
    for rate in RATES:
        if rate != 1:
            points = [row for key, row in found.items() if key.startswith(f"{name}-{rate:.2g}-")]
            sign, other = matched(points, l0) if points else ("", math.nan)
            cells.append(f"{sign}{other:.3f}" if points else "not measured")
            best = max(best, other) if sign != "<" and points else best
    behind = f"{(best - variance) / best:.1%}"
    high = found.get(f"{name}-{RATES[-1]:.2g}-1")
    dead = [f"{float(row['dead_share']):.1%}" if row else "failed" for row in (default, high)]
    verdict = default["diagnoses"] or "healthy"
    return f"| {name} | {l0:.1f} | {variance:.3f} | {' | '.join(cells)} | {behind} | {' | '.join(dead)} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:stdlib-4m", help="a model that `model.name` takes")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--high", action="store_true", help="leave out the third of the rate")
    arguments = parser.parse_args()
    model = arguments.model if ":" in arguments.model else str(Path(arguments.model).resolve())
    zoo = write(arguments.folder, model, arguments.tokens, [rate for rate in RATES if rate >= 1 or not arguments.high])
    started = time.time()
    code = subprocess.call(
        [sys.executable, "-m", "lmsae.cli", "run", "--config", str(arguments.folder / "config.yaml")], stdout=sys.stderr
    )
    with (arguments.folder / "results" / "table.csv").open() as file:
        found = {row["name"]: row for row in csv.DictReader(file)}
    print(f"`python benchmarks/defaults.py --model {arguments.model}`, {time.strftime('%Y-%m-%d')}, ", end="")
    print(f"{platform.machine()}, torch {torch.__version__}, {arguments.tokens:,} tokens; ", end="")
    print(f"`lmsae run` ended with {code} after {time.time() - started:.0f} s.\n")
    print("| architecture | L0 | explained variance | at a third | at 3 times | behind the best | dead ", end="")
    print("| dead at 3 times | doctor |")
    print("|" + 9 * "---|")
    for row in zoo:
        print(line(row["name"], found))


if __name__ == "__main__":
    main()
