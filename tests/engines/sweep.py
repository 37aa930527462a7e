"""A miniature sweep in a folder of its own, with the repository's Snakefile and dvc.yaml, run by the real programs."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.miniature import ROWS, write_config, write_model, write_sweep, write_text

REPOSITORY = Path(__file__).parents[2]
SHIPPED = ["Snakefile", "workflow", "profiles", "slurm", "dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/plots"]
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


def environment(package: Path | None = None) -> dict[str, str]:
    """This test's environment, with the programs of its Python first on the path, and lmsae from a folder if named."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    source = {} if package is None else {"PYTHONPATH": str(package)}
    return {**os.environ, **source, "PATH": programs, "DVC_NO_ANALYTICS": "1"}


def new_sweep(folder: Path) -> Sweep:
    """A repository with a sweep of two rows of which nothing is made."""
    for name in SHIPPED:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target, follow_symlinks=False)
    (folder / ".gitignore").write_text("/artifacts/\n/results/\n/logs/\n/.snakemake/\n/dvc_plots/\n")
    write_model(folder)
    write_text(folder)
    write_config(folder)
    write_sweep(folder, TWO_ROWS)
    sweep = Sweep(folder)
    sweep.run("git", "init", "--quiet")
    return sweep
