"""A miniature sweep in a project of its own, as `lmsae new` makes one, run by the real programs."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmsae.commands.new_project import start_project
from tests import miniature
from tests.miniature import ROWS, write_model, write_sweep, write_text

REPOSITORY = Path(__file__).parents[2]
# Both read the same activations, so they train in one pass.
TWO_ROWS = [{**row, "train.lr": "0.001"} for row in ROWS[:2]]
TWO_ROWS_MAKE = Counter(tokenize=1, activations=1, norm=1, init=2, train=2, eval=2, features=2, page=2, report=1)


@dataclass
class Sweep:
    """A folder with config/, and what has been made in it so far."""

    folder: Path
    seen: dict[Path, str] = field(default_factory=dict)
    package: Path | None = None
    """The folder that lmsae is imported from, if it is not this repository."""

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def run(self, *command: str, fails: bool = False) -> str:
        """What a command says on stdout and stderr; it must succeed, or with `fails` it must not."""
        done = subprocess.run(
            command, cwd=self.folder, env=environment(self.package), capture_output=True, text=True, timeout=1200
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said
        return said

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        return self.run("snakemake", "--cores", "2", *arguments, fails=fails)

    def dvc(self, *arguments: str, fails: bool = False) -> str:
        return self.run("dvc", *arguments, fails=fails)

    def engine(self, name: str, fails: bool = False) -> str:
        """Let one of the engines do everything that it finds to do."""
        return self.snakemake(fails=fails) if name == "snakemake" else self.dvc("repro", fails=fails)

    def computed(self) -> Counter[str]:
        """How many artifacts of each stage were made since this was last asked."""
        now = {path: path.read_text() for path in self.artifacts.glob("*/*/run.json")}
        new = Counter(path.parts[-3] for path, text in now.items() if self.seen.get(path) != text)
        self.seen = now
        return new

    def copy(self, target: Path) -> "Sweep":
        shutil.copytree(self.folder, target, symlinks=True)
        return Sweep(target, {target / path.relative_to(self.folder): text for path, text in self.seen.items()})


at_once: dict[Path | None, Path] = {}
"""The folder with a program `lmsae` that starts at once (tests.engines.forking), while there is one, by package."""


def environment(package: Path | None = None) -> dict[str, str]:
    """This test's environment, with the programs of its Python first on the path, and lmsae from a folder if named."""
    first = [str(at_once[package])] if package in at_once else []
    programs = os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]])
    source = {} if package is None else {"PYTHONPATH": str(package)}
    return {**os.environ, **source, "PATH": programs, "DVC_NO_ANALYTICS": "1"}


def new_sweep(folder: Path) -> Sweep:
    """A project with a sweep of two rows of which nothing is made."""
    folder.mkdir(parents=True, exist_ok=True)
    start_project(folder, say=lambda line: None)
    (folder / "slurm").symlink_to("profiles/slurm")
    write_model(folder)
    write_text(folder)
    write_config(folder)
    write_sweep(folder, TWO_ROWS)
    sweep = Sweep(folder)
    sweep.run("git", "init", "--quiet")
    return sweep


def write_config(folder: Path, **changes: dict[str, Any]) -> None:
    """Write the miniature's config, with sections changed field by field, and the folders that dvc.yaml asks for."""
    runtime = {"artifacts": "artifacts", "results": "results", **changes.pop("runtime", {})}
    miniature.write_config(folder, runtime=runtime, **changes)
