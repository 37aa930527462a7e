"""Snakemake and DVC take what a colleague's folder lends as made (`runtime.also_look_in`)."""

import shutil
from collections import Counter

import pytest

from tests.engines.sweep import TWO_ROWS, Sweep, write_config
from tests.engines.test_engines import ENGINES, NOTHING
from tests.miniature import manifests, write_sweep

pytestmark = [pytest.mark.xdist_group("engines"), pytest.mark.slow]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_computes_what_nobody_lends_and_nothing_else(empty: Sweep, sweep: Sweep, engine: str) -> None:
    write_config(empty.folder, runtime={"also_look_in": [str(sweep.artifacts)]})
    lent = manifests(sweep.folder)
    empty.engine(engine)
    assert empty.computed() == NOTHING
    assert (empty.folder / "results/rows/top/train").resolve().is_relative_to(sweep.artifacts)
    assert "top" in (empty.folder / "results/report.html").read_text()
    write_sweep(empty.folder, [*TWO_ROWS, {**TWO_ROWS[0], "name": "quicker", "train.lr": "0.01"}])
    empty.engine(engine)
    assert empty.computed() == Counter(train=1, eval=1, features=1, page=1, report=1)
    assert (sweep.computed(), manifests(sweep.folder)) == (NOTHING, lent)


def test_snakemake_makes_here_what_a_lender_no_longer_has(empty: Sweep, sweep: Sweep) -> None:
    write_config(empty.folder, runtime={"also_look_in": [str(sweep.artifacts)]})
    empty.snakemake()
    shutil.rmtree(sweep.artifacts / "train")
    empty.snakemake()
    assert empty.computed() == Counter(train=2)
    sweep.artifacts.rename(sweep.folder / "moved")
    assert f"there is no folder {sweep.artifacts}" in empty.snakemake(fails=True)
