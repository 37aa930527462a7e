"""A sweep of the miniature with a row of every kind of geometry, trained, evaluated and described."""

import contextlib
import shutil
from pathlib import Path

import pytest

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.named import load
from tests.conftest import made_once
from tests.miniature import HERE, ROWS, make_until, row_of, write_model, write_sweep

GEOMETRIES = ["transcoder", "skip_transcoder", "crosscoder", "clt", "molt", "lorsa"]
NAMES = ["top", "batch", "jump", *GEOMETRIES]
TEXT = "abc de fghij"


@pytest.fixture(scope="session")
def sweep(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts of all these rows. Look, and do not touch: tests share it."""

    def make(folder: Path) -> None:
        shutil.copytree(pristine, folder, dirs_exist_ok=True)
        write_model(folder, "other", seed=1)
        rows = [*(row for row in ROWS if row["name"] in NAMES), *map(row_of, GEOMETRIES)]
        of_both = {"name": "of-both", "sae.hook_point": HERE, "model.others": "other"}
        write_sweep(folder, [*rows, row_of("crosscoder", **of_both)])
        with contextlib.chdir(folder):
            make_until("features")

    return made_once("geometries", tmp_path_factory, make)


@pytest.fixture
def here(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sweep as the working directory."""
    monkeypatch.chdir(sweep)
    return sweep


@pytest.fixture(params=NAMES)
def sae(request: pytest.FixtureRequest, here: Path) -> LoadedDictionary:
    """Each dictionary of the sweep in turn."""
    return load(request.param, device="cpu")


@pytest.fixture
def top(here: Path) -> LoadedDictionary:
    """The topk dictionary of the sweep."""
    return load("top", device="cpu")
