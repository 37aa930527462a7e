"""One stage of a sweep by this build and by another, in turn, from the same artifacts of the stages before.

    git worktree add ../before 81cf8f3
    python benchmarks/builds.py PROJECT eval --other ../before --rounds 3 > benchmarks/results/WHEN-WHERE-eval.md

PROJECT is a folder in which `lmsae run` has made everything. Each round gives each build a fresh copy of it that lacks
the stage's artifacts, and the build makes them all anew with `lmsae STAGE`, in a process of its own. The keys of the
stages before must be those of PROJECT in both builds: otherwise the stage refuses, for its inputs are not there. The
table has seconds of the whole process. Metrics that both builds measure are compared.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch

HERE = Path(__file__).parents[1]


@dataclass
class Seen:
    """What the rounds of one build took, and what the last of them made."""

    seconds: list[float] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def run(folder: Path, build: Path, *command: str) -> float:
    """The seconds of a command of one of the builds. It must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(build)}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "lmsae.cli", *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{build}: lmsae {' '.join(command)}: {done.stdout}{done.stderr}")
    return time.perf_counter() - started


def measure(project: Path, stage: str, build: Path, seen: Seen) -> None:
    """Make a stage in a copy of the project, whose files are linked."""
    with tempfile.TemporaryDirectory(dir=project.parent) as folder:
        copy = Path(folder)
        shutil.copytree(project / "config", copy / "config")
        for there in sorted((project / "artifacts").glob("[a-z]*/")):
            if there.name not in {stage, "report", "plan", "sweeps"}:
                shutil.copytree(there, copy / "artifacts" / there.name, copy_function=os.link)
        run(copy, build, "plan", "--quiet")
        seen.seconds.append(run(copy, build, stage))
        seen.metrics = read_metrics(copy / "artifacts" / stage)


def read_metrics(stage: Path) -> dict[str, dict[str, float]]:
    """The numbers that a stage measured, by the artifact they are of."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for path in stage.glob("*/metrics.json"):
        spec = json.loads((path.parent / "spec.json").read_text())
        of = json.dumps(spec["inputs"], sort_keys=True)
        found[of] |= {name: value for name, value in json.loads(path.read_text()).items() if isinstance(value, float)}
    return found


def largest_difference(one: Seen, other: Seen) -> str:
    """The largest relative difference of a number that both measured, and which that is."""
    differences = [
        (abs(value - other.metrics[of][name]) / max(abs(value), 1e-300), name)
        for of, metrics in one.metrics.items()
        for name, value in metrics.items()
        if name in other.metrics.get(of, {})
    ]
    if not differences:
        return "no number is measured by both"
    largest, name = max(differences)
    return f"{len(differences)} numbers of both, largest relative difference {largest:.1e} ({name})"


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("stage")
    parser.add_argument("--other", type=Path, required=True, help="a checkout of the build to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    builds = {"other": arguments.other.resolve(), "this": HERE}
    seen = {name: Seen() for name in builds}
    for number in range(arguments.rounds):
        for name in sorted(builds, reverse=bool(number % 2)):
            measure(arguments.project.resolve(), arguments.stage, builds[name], seen[name])
    print(
        f"`lmsae {arguments.stage}` of {arguments.project.name}, {time.strftime('%Y-%m-%d')}, {platform.machine()}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}, {arguments.rounds} rounds; median (lowest-highest).\n"
    )
    print("| build | seconds | times the other |\n|---|---|---|")
    for name, one in seen.items():
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=builds[name], capture_output=True, text=True, check=True
        ).stdout.strip()
        ratios = [theirs / ours for theirs, ours in zip(seen["other"].seconds, one.seconds, strict=True)]
        print(f"| {commit} | {spread(one.seconds, 1)} | {spread(ratios, 2)} |")
    print(f"\n{largest_difference(seen['this'], seen['other'])}.")


if __name__ == "__main__":
    main()
