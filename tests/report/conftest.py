"""Sweeps to report on."""

from pathlib import Path

import pytest

from tests.report.sweeps import Sweep


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a healthy and an unhealthy row, at two hook points. To be read only."""
    sweep = Sweep(tmp_path_factory.mktemp("reported"))
    sweep.add("good=1+1", {"l0": 4.25})
    sweep.add(
        "weak", {"l2_ratio": 0.5}, {"sae.k": "3", "train.lr": 0.001, "sae.hook_point": "blocks.1.hook_resid_post"}
    )
    return sweep.report().path


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)
