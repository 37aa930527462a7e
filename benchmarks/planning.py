"""The cost of a sweep that is finished: `lmsae plan`, and no-op runs of both engines, by the number of rows.

    python benchmarks/planning.py > benchmarks/results/WHEN-WHERE-planning.md

A temporary folder has this repository's Snakefile and dvc.yaml, and a sweep over hook points, architectures, sparsities
and seeds of the built-in model. All of its artifacts are finished. Their specs and manifests are real: the code with
which every stage publishes writes them. Their payloads are a few bytes, and nothing is trained. Every command is a
process of its own, as a user starts it. The floor is measured too: `lmsae --version`, and a Snakefile without rules.

    python benchmarks/planning.py --growth 1000 5000 20000 100000 --finished 1000 5000 10000

measures growth alone, in memory and in seconds of processor time (user and system), which programs beside it change
less than the time on the clock: of a first plan, the next one, and for finished sweeps also `gc`, `du` and `verify`.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from lmsae.artifacts.artifact import Artifacts
from lmsae.commands.running import write_index
from lmsae.planning.plan import Plan, plan_of
from lmsae.report.provenance import PAGE
from lmsae.stages import STAGES
from lmsae.stages.publishing import publish

REPOSITORY = Path(__file__).parents[1]
SHIPPED = ("Snakefile", "workflow", "profiles", "dvc.yaml", ".dvc/config", ".dvc/plots")
HOOK_POINTS = [f"blocks.{layer}.hook_{kind}" for layer in range(4) for kind in ("resid_post", "mlp_out")]
SPARSITIES = {
    ("topk", "sae.k"): (8, 16, 32, 64, 128),
    ("batchtopk", "sae.k"): (8, 16, 32, 64, 128),
    ("matryoshka", "sae.k"): (8, 16, 32, 64, 128),
    ("standard", "sae.l1_coefficient"): (0.5, 1, 2, 4, 8),
    ("jumprelu", "sae.l0_coefficient"): (0.1, 0.2, 0.4, 0.8, 1.6),
}
COLUMNS = ("name", "sae.hook_point", "sae.architecture", *dict.fromkeys(name for _, name in SPARSITIES), "train.seed")
PAYLOAD = {"tokenize": "counts.json", "report": PAGE}
"""The files of an artifact that somebody looks at when nothing is to be done."""


def rows() -> Iterator[dict[str, object]]:
    """Rows without end: all dictionaries of one seed, then those of the next."""
    for seed in itertools.count():
        for hook_point in HOOK_POINTS:
            for (architecture, column), values in SPARSITIES.items():
                for value in values:
                    settings = (hook_point, architecture, value, seed)
                    names = ("sae.hook_point", "sae.architecture", column, "train.seed")
                    yield {"name": "-".join(map(str, settings)), **dict(zip(names, settings, strict=True))}


def write_sweep(folder: Path, count: int) -> None:
    """config.yaml and sweep.tsv of so many rows."""
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config/config.yaml").write_text("sae: {d_sae: 1024}\ntrain: {tokens: 500_000}\n")
    with open(folder / "config/sweep.tsv", "w", newline="") as file:
        sheet = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        sheet.writeheader()
        sheet.writerows(itertools.islice(rows(), count))


def finish(plan: Plan, artifacts: Artifacts) -> None:
    """Publish an artifact of every spec of the plan, with a payload of a few bytes."""
    counts = {
        "train_contexts": 8000,
        "calibration_contexts": 64,
        "train_usable_by_position": [8000] * 256,
        "held_out_overlap": 0.0,
    }
    for stage in STAGES:
        payload = json.dumps(counts if stage == "tokenize" else {"stage": stage})
        for spec in plan.specs(stage):
            artifact = artifacts.add(spec)
            if not artifact.is_finished:
                (artifact.path / PAYLOAD.get(stage, "payload.json")).write_text(payload)
                artifact.publish({"facts": {}})


def publish_page(plan: Plan, artifacts: Artifacts, results: Path) -> None:
    """Write what the report stage leaves in results/. DVC tracks some of it. No dictionary is exported."""
    publish(artifacts[plan.specs("report")[0].reference], (), artifacts, results)
    for name in ("table.csv", "table.parquet", "pareto.csv", "density.csv", "curves.csv", "metrics.json"):
        (results / name).write_text("{}\n")
    for name in ("plots", "saelens"):
        (results / name).mkdir(exist_ok=True)
        (results / name / "one").write_text("")


def prepare(folder: Path, count: int) -> None:
    """A sweep of so many rows whose artifacts are all finished, as both engines know."""
    finish_sweep(folder, count)
    run(folder, "dvc", "commit", "--force", "--quiet")


def finish_sweep(folder: Path, count: int) -> Plan:
    """A sweep of so many rows whose artifacts are all finished."""
    write_sweep(folder, count)
    here = Path.cwd()
    os.chdir(folder)
    try:
        plan, runtime = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
        artifacts = Artifacts(runtime.artifacts)
        plan.write(artifacts, runtime.together)
        finish(plan, artifacts)
        publish_page(plan, artifacts, runtime.results)
        for stage in STAGES:
            write_index(stage, [spec.reference for spec in plan.specs(stage)], artifacts)
        return plan
    finally:
        os.chdir(here)


def run(folder: Path, *command: str) -> float:
    """Return the seconds that a command takes. It must succeed."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": programs, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(REPOSITORY)}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    said = done.stdout + done.stderr
    if command[0] == "snakemake" and "Nothing to be done" not in said and "-s" not in command:
        raise SystemExit(f"snakemake found work to do:\n{said}")
    if command[:2] == ("dvc", "repro") and "Running stage 'tokenize'" in said:
        raise SystemExit(f"dvc found work to do:\n{said}")
    return seconds


CHILD = """
import sys
from lmsae.cli import main
code = main(sys.argv[1:])
sys.stderr.write(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
sys.exit(code)
"""
"""A command that tells its largest memory itself: what `wait4` tells of a child may be that of its parent."""


def measure(folder: Path, command: str) -> tuple[float, float]:
    """The seconds of processor time that a command takes, and its largest memory in MB. It must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with open(folder / "said", "w") as nothing, open(folder / "memory", "w") as told:
        started = [sys.executable, "-c", CHILD, command]
        child = subprocess.Popen(started, cwd=folder, env=environment, stdout=nothing, stderr=told)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}: {(folder / 'memory').read_text()}")
    return usage.ru_utime + usage.ru_stime, int((folder / "memory").read_text()) * 1024 / 1e6


GROWTH = ("plan", "gc", "du", "verify")


def growth(folder: Path, counts: Sequence[int], finished: Sequence[int]) -> None:
    """Print how processor time and memory grow with rows."""
    print("| rows | first plan, s | MB | next plan, s | MB | files | MB on disk |\n|---|---|---|---|---|---|---|")
    for count in counts:
        write_sweep(folder, count)
        shutil.rmtree(folder / "artifacts", ignore_errors=True)
        taken = [*measure(folder, "plan"), *measure(folder, "plan")]
        files = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1e6
        cells = [f"{number:,.1f}" if place % 2 == 0 else f"{number:,.0f}" for place, number in enumerate(taken)]
        print(f"| {count:,} | {' | '.join(cells)} | {len(files):,} | {size:,.0f} |", flush=True)
    os.fsync = lambda fd: None  # nothing here is to outlive a power cut
    names = " | ".join(f"{name}, s | MB" for name in GROWTH)
    print(f"\nAll artifacts finished:\n\n| rows | artifacts | {names} |\n|---|---|{'---|---|' * len(GROWTH)}")
    for count in finished:
        shutil.rmtree(folder / "artifacts", ignore_errors=True)
        plan = finish_sweep(folder, count)
        taken = [measure(folder, command) for command in GROWTH]
        cells = [f"{seconds:,.1f} | {memory:,.0f}" for seconds, memory in taken]
        print(f"| {count:,} | {sum(len(plan.specs(stage)) for stage in STAGES):,} | {' | '.join(cells)} |", flush=True)


COMMANDS = {
    "lmsae plan": ("lmsae", "plan"),
    "snakemake": ("snakemake", "--cores", "2"),
    "dvc repro": ("dvc", "repro"),
}


def first_plan(folder: Path) -> float:
    """Seconds of a plan that writes every spec, the digests of the built-in text and model unknown."""
    shutil.rmtree(folder / "artifacts", ignore_errors=True)
    return run(folder, "lmsae", "plan")


def floors(folder: Path, times: int) -> str:
    """The median times that the programs take to start."""
    (folder / "Nothing.smk").write_text("rule all:\n    input: []\n")
    commands = {
        "python": (sys.executable, "-c", "pass"),
        "lmsae --version": ("lmsae", "--version"),
        "importing what a plan needs": (sys.executable, "-c", "import lmsae.experiment, lmsae.planning.overview"),
        "snakemake without rules": ("snakemake", "--cores", "2", "-s", "Nothing.smk"),
        "dvc --version": ("dvc", "--version"),
    }
    found = {name: statistics.median(run(folder, *command) for _ in range(times)) for name, command in commands.items()}
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.items())


def line(count: int, wanted: int, taken: dict[str, list[float]]) -> str:
    """A line of the table: medians, with all runs' range."""
    cells = [f"{statistics.median(all_):.2f} ({min(all_):.2f}-{max(all_):.2f})" for all_ in taken.values()]
    return f"| {count:,} | {wanted:,} | {' | '.join(cells)} |"


def slopes(counts: Sequence[int], taken: Sequence[dict[str, list[float]]]) -> str:
    """Milliseconds a row, between each number of rows and the next: a line stays a line if they do not grow."""
    texts = []
    for name in taken[0]:
        medians = [statistics.median(one[name]) for one in taken]
        steps = [
            1000 * (after - before) / (high - low)
            for (low, high), (before, after) in zip(
                itertools.pairwise(counts), itertools.pairwise(medians), strict=True
            )
        ]
        texts.append(f"{name} {', '.join(f'{step:.2f}' for step in steps)}")
    return "; ".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 300, 1000, 2000])
    parser.add_argument("--times", type=int, default=3, help="runs of each command, in turn")
    parser.add_argument("--growth", type=int, nargs="+", help="measure growth alone, of plans of so many rows")
    parser.add_argument("--finished", type=int, nargs="*", default=[], help="and of so many rows that are finished")
    arguments = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.growth:
            growth(folder, arguments.growth, arguments.finished)
            return
        for shipped in SHIPPED:
            source, target = REPOSITORY / shipped, folder / shipped
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir() and not source.is_symlink():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target, follow_symlinks=False)
        run(folder, "dvc", "config", "core.no_scm", "true")
        programs = ", ".join(f"{name} {version(name)}" for name in ("snakemake", "dvc"))
        where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {programs}"
        print(f"`python benchmarks/planning.py`, {time.strftime('%Y-%m-%d')}, {where}.\n")
        print(f"Seconds, medians of {arguments.times} runs (range).\n")
        print(
            "| rows | artifacts | first plan | " + " | ".join(COMMANDS) + " |\n|---|---|---|" + "---|" * len(COMMANDS)
        )
        for count in arguments.rows:
            write_sweep(folder, count)
            taken: dict[str, list[float]] = {"first plan": [first_plan(folder)]}
            prepare(folder, count)
            for label, command in list(COMMANDS.items()) * arguments.times:
                taken.setdefault(label, []).append(run(folder, *command))
            wanted = len(list((folder / "artifacts").glob("*/*/manifest.json")))
            measured.append(taken)
            print(line(count, wanted, taken), flush=True)
        print(f"\nMilliseconds a row, from each number of rows to the next: {slopes(arguments.rows, measured)}.")
        print(f"\nThe floor: {floors(folder, arguments.times)}.")


if __name__ == "__main__":
    main()
