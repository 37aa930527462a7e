"""Live and cached activations compared: the whole way from tokens to dictionaries, in turn, in one process.

    python benchmarks/live.py > benchmarks/results/WHEN-WHERE-live.md

Each round makes the same dictionaries twice, once from activations that are stored first and once live. It checks that
they are the same to the byte. The table has the trained tokens a second of capture and training together (median and
quartiles), the ratio of each pair of rounds, the seconds of each stage, the seconds that training waited for data, and
the bytes of activations on disk. It has lines for one dictionary, and for several that share one stream.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from lmsae.artifacts.artifact import Artifacts
from lmsae.planning.plan import Plan, plan_of
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES
from lmsae.stages.making import make_artifacts

SOURCES = ("cached", "live")
TIMED = ("activations", "train")


@dataclass(frozen=True)
class Measured:
    """One way from tokens to dictionaries."""

    seconds: dict[str, float]
    waited_s: float
    stored_bytes: int
    dictionaries: list[bytes]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def write_sweep(folder: Path, source: str, count: int, arguments: argparse.Namespace) -> Plan:
    """The plan of so many dictionaries that read one hook point, written into a folder."""
    config = {
        "tokenize": {"context_size": arguments.context_size, "tokens": arguments.tokens, "calibration_tokens": 16_384},
        "activations": {"source": source},
        "sae": {"hook_point": arguments.hook_point, "architecture": "topk", "d_sae": arguments.d_sae},
        "train": {"tokens": arguments.trained, "batch_size": arguments.batch, "window_tokens": arguments.window},
        "runtime": {"artifacts": str(folder / "artifacts"), "device": arguments.device, "progress": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = ["name\tsae.k", *(f"k{8 * number}\t{8 * number}" for number in range(1, count + 1))]
    (folder / "sweep.tsv").write_text("\n".join(lines) + "\n")
    plan, _ = plan_of(folder / "config.yaml", folder / "sweep.tsv", [], {})
    plan.write_specs(Artifacts(folder / "artifacts"))
    return plan


def make(stage: str, plan: Plan, runtime: Runtime) -> float:
    """Make a stage and return the seconds that took."""
    started = time.perf_counter()
    for group in plan.passes(stage, runtime.together):
        make_artifacts(STAGES[stage], [spec.reference for spec in group], Artifacts(runtime.artifacts), runtime)
    return time.perf_counter() - started


def measure(tokens: Path, source: str, count: int, arguments: argparse.Namespace) -> Measured:
    """Measure all stages but the first, from nothing, in a folder that is then removed."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        shutil.copytree(tokens, folder / "artifacts" / "tokenize")
        plan = write_sweep(folder, source, count, arguments)
        runtime = Runtime(artifacts=folder / "artifacts", device=arguments.device, progress=False)
        seconds = {stage: make(stage, plan, runtime) for stage in ("activations", "norm", "init", "train")}
        made = [folder / "artifacts" / spec.reference for spec in plan.specs("train")]
        stored = (folder / "artifacts" / "activations").rglob("*")
        return Measured(
            {stage: seconds[stage] for stage in TIMED},
            max(json.loads((path / "run.json").read_text())["facts"]["waited_s"] for path in made),
            sum(file.stat().st_size for file in stored if file.is_file()),
            [(path / "dictionary.safetensors").read_bytes() for path in made],
        )


def quartiles(values: list[float], form: str) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


def compare(tokens: Path, count: int, arguments: argparse.Namespace) -> None:
    """Measure both sources in turn, and print two lines of the table."""
    rounds: list[dict[str, Measured]] = []
    for number in range(arguments.rounds):
        order = SOURCES if number % 2 else SOURCES[::-1]
        rounds.append({source: measure(tokens, source, count, arguments) for source in order})
        assert rounds[-1]["cached"].dictionaries == rounds[-1]["live"].dictionaries
    for source in SOURCES:
        mine = [one[source] for one in rounds]
        rate = quartiles([arguments.trained / one.total for one in mine], ",.0f")
        ratio = quartiles([one["cached"].total / one[source].total for one in rounds], ".2f")
        parts = [statistics.median(one.seconds[stage] for one in mine) for stage in TIMED]
        waited = statistics.median(one.waited_s for one in mine)
        columns = [f"{count}", source, rate, ratio, *(f"{part:.1f}" for part in (*parts, waited))]
        print("|", " | ".join([*columns, f"{mine[0].stored_bytes / 1e6:,.1f} MB"]), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hook-point", default="blocks.1.hook_resid_post")
    parser.add_argument("--tokens", type=int, default=524_288, help="of the text, after the calibration split")
    parser.add_argument("--context-size", type=int, default=128)
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--window", type=int, default=65_536)
    parser.add_argument("--dictionaries", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
    # Special tokens are not trained on: a little less than the text is sure to be there.
    arguments.trained = arguments.tokens * 15 // 16 // arguments.batch * arguments.batch
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        plan = write_sweep(folder, "cached", 1, arguments)
        make("tokenize", plan, Runtime(artifacts=folder / "artifacts", progress=False))
        cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
        print(f"`python benchmarks/live.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, {cores}, ", end="")
        print(
            f"torch {torch.__version__}; stdlib-4m at {arguments.hook_point}, float16, d_sae = {arguments.d_sae}, ",
            end="",
        )
        print(
            f"topk, batch {arguments.batch:,}, windows of {arguments.window:,}, {arguments.trained:,} tokens, ", end=""
        )
        print(f"{arguments.rounds} rounds. The dictionaries of both are the same to the byte.\n")
        print(
            "| dictionaries | activations | tokens/s end to end (quartiles) | speed beside cached (quartiles) ", end=""
        )
        print("| capture s | train s | of it waiting s | on disk |\n|---|---|---|---|---|---|---|---|", flush=True)
        measure(folder / "artifacts" / "tokenize", "cached", 1, arguments)  # imports, and files that are read first
        for count in arguments.dictionaries:
            compare(folder / "artifacts" / "tokenize", count, arguments)


if __name__ == "__main__":
    main()
