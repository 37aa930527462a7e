"""What a sweep cost: read from provenance, and nothing made up where that says nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lmsae.report.cost import Cost, write_cost

if TYPE_CHECKING:
    from tests.report.sweeps import Sweep

STAGES = ("tokenize", "activations", "norm", "init", "train", "eval")
RUN = {
    "host": "node7",
    "device": "NVIDIA H200",
    "peak_memory_bytes": {"host": 3_000_000, "device": 2_000_000},
    "facts": {
        "seconds": 120.0,
        "in_pass": 4,
        "tokens": 12_000_000,
        "tokens_per_second": 100_000.0,
        "waited_s": 6.0,
        "flops": 3e14,
        "flops_per_second": 10**13,
    },
}


@pytest.fixture
def priced(sweep: Sweep, tmp_path: Path) -> Path:
    """The cost of two rows, of which the first dictionary's provenance is known and nothing else's."""
    first = sweep.add("first=1+1")
    sweep.add("second", settings={"sae.k": "3"})
    (sweep.artifacts[first.artifacts["train"]].path / "run.json").write_text(json.dumps(RUN))
    write_cost(sweep.rows, sweep.artifacts, STAGES, tmp_path)
    return tmp_path


def train_of(row: str, folder: Path) -> dict[str, str]:
    """The line of cost.csv on a row's dictionary."""
    with open(folder / "cost.csv", newline="") as file:
        (line,) = (line for line in csv.DictReader(file) if (line["row"], line["stage"]) == (row, "train"))
    return line


def test_an_artifact_takes_its_share_of_the_time_of_its_pass(priced: Path) -> None:
    train = train_of("first=1+1", priced)
    assert float(train["seconds"]) == 120 / 4
    assert float(train["waiting"]) == 6 / 120
    assert (train["tokens_per_second"], train["flops_per_second"]) == ("100000.0", "10000000000000")
    assert (train["memory"], train["device_memory"], train["host"]) == ("3000000", "2000000", "node7")


def test_what_provenance_does_not_say_stays_empty(priced: Path) -> None:
    train = train_of("second", priced)
    assert {train[name] for name in Cost.__dataclass_fields__ if name not in ("stage", "reference")} == {""}


def test_the_page_shows_stages_in_their_order_and_escapes_names(priced: Path) -> None:
    page = (priced / "cost.html").read_text()
    stages = [page.index(f"<tr><td>{stage}</td>") for stage in ("tokenize", "activations", "train", "eval")]
    assert stages == sorted(stages)
    for shown in ("30 s", "100 k", "5.0 %", "10 T", "NVIDIA H200 on node7", "rows/first%3D1%2B1/"):
        assert shown in page


def test_a_run_from_before_these_facts_or_none_at_all_is_no_error(sweep: Sweep) -> None:
    row = sweep.add("one")
    artifact = sweep.artifacts[row.artifacts["train"]]
    for text in ('{"facts": {}, "peak_memory_bytes": {"host": 5}, "host": "old"}', "{", None):
        if text is None:
            (artifact.path / "run.json").unlink()
        else:
            (artifact.path / "run.json").write_text(text)
        assert Cost.of(artifact).seconds is None
