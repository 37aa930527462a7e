"""Settings of every test: one thread each, no hub, tensor shapes checked, skips that a mark explains and CI refuses."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests.browser import Browser, find_chromium, start_browser
from tests.miniature import ROWS, Said, write_config, write_model, write_sweep, write_text

# Workers share the cores, and subprocesses inherit this. Libraries read these when they are imported.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "WANDB_SILENT": "true",
}.items():
    os.environ.setdefault(_name, _value)
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; Triton reads this when it is imported
RUN_NETWORK_TESTS = os.environ.get("LMSAE_TEST_NETWORK") == "1"
if not RUN_NETWORK_TESTS:
    os.environ["HF_HUB_OFFLINE"] = "1"

# Shapes and dtypes of these rooms' signatures are checked at every call. Not of the whole package: beartype decorates
# methods one by one and so refuses `Self`, which pydantic models need. An int may stand where a float is annotated.
METRICS = [f"lmsae.metrics.{name}" for name in ("bins", "contexts", "formulas", "splicing")]
SHAPE_CHECKED = ["lmsae.geometry", "lmsae.sparsity", "lmsae.losses", "lmsae.dictionary", *METRICS]
install_import_hook(SHAPE_CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

REQUIRE_ALL_TESTS = os.environ.get("LMSAE_REQUIRE_ALL_TESTS") == "1"
# A law is tried on more examples where all tests are required. No example can be too slow: a loaded machine takes a
# second for what a quiet one does in a millisecond.
settings.register_profile(
    "any machine",
    max_examples=100 if REQUIRE_ALL_TESTS else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")
MAY_BE_SKIPPED_IN_CI = ("apart", "gpu", "network")


def why_not(mark: str) -> str | None:
    """Why tests with this mark cannot run here, or None if they can."""
    if mark == "network" and not RUN_NETWORK_TESTS:
        return "reaches a model hub; set LMSAE_TEST_NETWORK=1"
    if mark == "slurm" and not (shutil.which("slurmctld") and shutil.which("slurmd")):
        return "needs Slurm: apt install slurmctld slurmd slurm-client"
    if mark == "browser" and not find_chromium():
        return "needs a browser: apt install chromium"
    if mark == "gpu":
        import torch

        if not torch.cuda.is_available():
            return "needs a CUDA device"
    return None


def packages_of(item: pytest.Item) -> tuple[str, ...]:
    """The packages that a test needs which are not in the lock, as its mark names them."""
    (mark,) = [one for one in item.iter_markers("apart")][:1]
    return mark.args or ("sae_probes",)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.option.keyword or config.option.markexpr or any("::" in name for name in config.args)
    if not (REQUIRE_ALL_TESTS or chosen):
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)
    for item, packages in ((item, packages_of(item)) for item in items if item.get_closest_marker("apart")):
        if any(find_spec(package) is None for package in packages):
            reason = f"needs {' and '.join(packages)}, in an environment of its own (CONTRIBUTING.md)"
            item.add_marker(pytest.mark.skip(reason=reason))
    for mark in ("browser", "gpu", "network", "slurm"):
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and (reason := why_not(mark)):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where every test is required."""
    if REQUIRE_ALL_TESTS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and LMSAE_REQUIRE_ALL_TESTS is set. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not any(item.get_closest_marker(mark) for mark in MAY_BE_SKIPPED_IN_CI):
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report


def made_once(name: str, tmp_path_factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """A folder that all workers of a run share. The first that asks makes it, and the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = root / f"{name}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the miniature's model, text and config, of which nothing has been made."""

    def make(folder: Path) -> None:
        write_model(folder)
        write_text(folder)
        write_config(folder)
        write_sweep(folder, ROWS)

    return made_once("pristine", tmp_path_factory, make)


@pytest.fixture(scope="session")
def finished(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with all its artifacts and results. Look, and do not touch: tests share it."""

    def make(folder: Path) -> None:
        from lmsae.cli import main

        shutil.copytree(pristine, folder, dirs_exist_ok=True)
        with contextlib.chdir(folder):
            assert main(["run"]) == 0

    return made_once("finished", tmp_path_factory, make)


@pytest.fixture
def fresh(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of the miniature, of which nothing has been made."""
    return _moved_into(pristine, tmp_path, monkeypatch)


@pytest.fixture
def made(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of the finished miniature, to be changed or broken."""
    return _moved_into(finished, tmp_path, monkeypatch)


def _moved_into(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    shutil.copytree(source, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def lmsae(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command of lmsae in this process and gives its exit code and what it said."""
    from lmsae.cli import main

    def command(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return command


@pytest.fixture(scope="module")
def _browser() -> Iterator[Browser]:
    with start_browser() as browser:
        yield browser


@pytest.fixture
def browser(_browser: Browser) -> Iterator[Browser]:
    """A browser to open pages from disk in. What a page complains of, or asks a network for, fails the test."""
    yield _browser
    try:
        _browser.check()
    finally:
        _browser.forget()
