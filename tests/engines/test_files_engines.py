"""Rows of own activations under Snakemake and DVC."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.engines.sweep import new_sweep
from tests.engines.test_engines import NOTHING
from tests.stages.test_divide import write_vision

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]


def test_snakemake_and_dvc_make_the_rows_of_files_and_find_them_made(tmp_path: Path) -> None:
    sweep = new_sweep(tmp_path)
    shutil.rmtree(tmp_path / "model")
    write_vision(tmp_path)
    sweep.snakemake()
    assert sweep.computed() == Counter(
        divide=1, activations=1, norm=1, init=2, train=2, eval=2, features=2, page=2, report=1
    )
    sweep.dvc("repro")
    assert sweep.computed() == NOTHING
