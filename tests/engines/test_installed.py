"""The wheel, installed where no clone is: a project of one's own runs under every engine."""

import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.engines.sweep import REPOSITORY, environment
from tests.miniature import manifests

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("installed")]
SMALL = {
    "tokenize": {"tokens": 20_000, "context_size": 64, "calibration_tokens": 2048, "held_out_tokens": 4096},
    "sae": {"d_sae": 64},
    "train": {"tokens": 8192, "batch_size": 512, "lr": 1e-3, "dead_threshold": 4096},
    "eval": {"tokens": 1024},
    "features": {"tokens": 2048},
    "runtime": {"artifacts": "artifacts", "results": "results", "device": "cpu", "threads": 1, "progress": False},
}
Run = Callable[..., str]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and all else from this test's environment."""
    root = tmp_path_factory.mktemp("installed")
    for command in (
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(root)],
        [sys.executable, "-m", "venv", str(root / "env")],
    ):
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = root.glob("*.whl")
    python = root / "env/bin/python"
    # Before the other packages are seen, so that pip meets no other lmsae.
    install = [str(python), "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
    (packages,) = (root / "env/lib").glob("python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("snakemake", "dvc"):
        (root / "env/bin" / name).write_text(f'#!/bin/sh\nexec {python} -m {name} "$@"\n')
        (root / "env/bin" / name).chmod(0o755)
    return root / "env/bin"


@pytest.fixture
def run(programs: Path, tmp_path: Path) -> Run:
    """Runs a program of that environment in the test's folder, or in one inside; what it said."""
    env = {name: value for name, value in environment().items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{programs}:/usr/bin:/bin"

    def run(*command: str, folder: str = "") -> str:
        done = subprocess.run(command, cwd=tmp_path / folder, env=env, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_a_project_of_ones_own_runs_under_each_engine_and_again_makes_nothing(
    run: Run, programs: Path, tmp_path: Path
) -> None:
    """What one engine has made, the next makes again in part: Python starts longer than so small a stage works."""
    where = run("python", "-c", "import lmsae; print(lmsae.__file__)").strip()
    assert Path(where).is_relative_to(programs.parent)
    run("lmsae", "new", "mine")
    project = tmp_path / "mine"
    run("git", "init", "--quiet", folder="mine")
    shared = yaml.safe_load((project / "config/config.yaml").read_text())
    (project / "config/config.yaml").write_text(yaml.safe_dump(shared | SMALL))
    sheet = (project / "config/sweep.tsv").read_text()
    (project / "config/sweep.tsv").write_text(sheet.replace("{16, 32}", "{4, 8}").replace("{topk, batchtopk}", "topk"))
    run("lmsae", "run", folder="mine")
    made = manifests(project)
    assert Counter(reference.partition("/")[0] for reference in made) == Counter(
        tokenize=1, activations=1, norm=1, init=2, train=2, eval=2, features=2, page=2, report=1
    )
    assert "topk-l2-k8" in (project / "results/report.html").read_text()
    snakemake, dvc = ["snakemake", "--cores", "2"], ["dvc", "repro"]
    for engine, stages in ((snakemake, ["train"]), (dvc, ["eval", "features"])):
        for stage in stages:
            shutil.rmtree(project / "artifacts" / stage)
        run(*engine, folder="mine")
        assert manifests(project) == made
    times = {path: path.stat().st_mtime_ns for path in project.glob("artifacts/*/*/run.json")}
    for engine in (["lmsae", "run"], snakemake, dvc):
        run(*engine, folder="mine")
    assert {path: path.stat().st_mtime_ns for path in project.glob("artifacts/*/*/run.json")} == times
    assert "topk-l2-k8" in run("lmsae", "show", "topk-l2-k8", "--folder", "mine")
