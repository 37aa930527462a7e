"""Sweeps to run the engines on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import forking
from tests.engines.sweep import REPOSITORY, Sweep, at_once, new_sweep
from tests.miniature import make_until


@pytest.fixture(scope="session")
def program() -> Iterator[Path]:
    """The folder of a program `lmsae` that starts at once."""
    with forking.started(REPOSITORY) as folder:
        yield folder


@pytest.fixture(autouse=True)
def _start_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines find that program, except in tests of Slurm and of the installed package."""
    group = request.node.get_closest_marker("xdist_group")
    if group and group.args == ("engines",) and not request.node.get_closest_marker("slurm"):
        monkeypatch.setitem(at_once, None, request.getfixturevalue("program"))


@pytest.fixture(scope="session")
def by_snakemake(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of two rows that Snakemake has finished; not to be changed. It has found made all that comes before
    training: to start Python takes each stage of so small a sweep longer than its work."""
    sweep = new_sweep(tmp_path_factory.mktemp("by_snakemake"))
    with contextlib.chdir(sweep.folder):
        make_until("init")
    sweep.computed()
    sweep.snakemake()
    return sweep


@pytest.fixture
def empty(tmp_path: Path) -> Sweep:
    """A sweep of two rows of which nothing is made."""
    return new_sweep(tmp_path)


@pytest.fixture
def sweep(by_snakemake: Sweep, tmp_path: Path) -> Sweep:
    """A copy of the finished sweep, to be changed."""
    copy = by_snakemake.copy(tmp_path / "sweep")
    copy.computed()
    return copy


@pytest.fixture(scope="session")
def committed(by_snakemake: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The finished sweep with a dvc.lock, committed to git; not to be changed."""
    sweep = by_snakemake.copy(tmp_path_factory.mktemp("committed") / "sweep")
    sweep.dvc("repro")
    sweep.run("git", "add", "--all")
    sweep.run("git", "-c", "user.name=lmsae", "-c", "user.email=lmsae@localhost", "commit", "--quiet", "-m", "Two rows")
    return sweep
