"""Sweeps to report on."""

from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact
from lmsae.report.writing import write_report
from tests.report.sweeps import Sweep, rich


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a healthy and an unhealthy row, at two hook points. To be read only."""
    sweep = Sweep(tmp_path_factory.mktemp("reported"))
    sweep.add("good=1+1", {"l0": 4.25})
    sweep.add(
        "weak", {"l2_ratio": 0.5}, {"sae.k": "3", "train.lr": 0.001, "sae.hook_point": "blocks.1.hook_resid_post"}
    )
    return sweep.report().path


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with figures of many rows, one of which has a page of its latents. To be looked at only."""
    sweep, out = rich(tmp_path_factory.mktemp("explored")), tmp_path_factory.mktemp("results")
    write_report(sweep.config, {**sweep.inputs, "page/topk-4-1": Artifact(out)}, out)
    return out / "report.html"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)
