"""Provenance of a report: told on the page and in the table once it is published, and in no artifact."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from lmsae.report.provenance import Provenance, complete, shows

if TYPE_CHECKING:
    from lmsae.artifacts.artifact import Artifact
    from tests.report.sweeps import Sweep

RUN = {"finished": "2026-11-28T23:59:59+00:00", "lmsae": "0.1.0", "commit": "bc792d85040d", "device": "NVIDIA H200"}


def completed(sweep: Sweep, out: Path) -> Artifact:
    report = sweep.report()
    out.mkdir(exist_ok=True)
    assert set(complete(report.path, sweep.rows, sweep.artifacts, out)) == {
        "report.html",
        "table.csv",
        "table.parquet",
    }
    return report


def note_run(sweep: Sweep, reference: str, **changes: object) -> None:
    (sweep.artifacts[reference].path / "run.json").write_text(json.dumps({**RUN, **changes, "facts": {}}))


def facts(page: Path) -> dict[str, str]:
    """The facts at the head of a page."""
    head = page.read_text().split('<dl class="facts">')[1].split("</dl>")[0]
    return dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", head))


@pytest.mark.slow
def test_the_page_tells_days_versions_and_devices_once(sweep: Sweep, tmp_path: Path) -> None:
    for name, day, version in (("one", "28", "0.1.0"), ("two", "30", "0.1.0"), ("three", "29", "<0.2>")):
        row = sweep.add(name, settings={"train.lr": day})
        note_run(sweep, row.artifacts["train"], finished=f"2026-11-{day}T12:00:00+00:00", lmsae=version)
        note_run(sweep, row.artifacts["eval"], commit=None)
    completed(sweep, tmp_path / "out")
    told = facts(tmp_path / "out/report.html")
    maker = "lmsae 0.1.0, commit bc792d85040d, on NVIDIA H200"
    assert told["trained"] == f"2026-11-28 to 2026-11-30; {maker}; {maker.replace('0.1.0', '&lt;0.2&gt;')}"
    assert told["evaluated"] == "2026-11-28; lmsae 0.1.0, on NVIDIA H200"


@pytest.mark.slow
def test_the_table_tells_it_of_each_row_in_both_formats(sweep: Sweep, tmp_path: Path) -> None:
    row, unknown = sweep.add("one"), sweep.add("two", settings={"sae.k": 3})
    note_run(sweep, row.artifacts["train"])
    for stage in ("train", "eval"):
        (sweep.artifacts[unknown.artifacts[stage]].path / "run.json").unlink(missing_ok=True)
    report = completed(sweep, tmp_path / "out")
    with open(tmp_path / "out/table.csv", newline="") as file:
        one, two = csv.DictReader(file)
    assert {name: one[f"provenance.train.{name}"] for name in RUN} == RUN
    assert {two[f"provenance.{stage}.{name}"] for stage in ("train", "eval") for name in RUN} == {""}
    table, plain = pq.read_table(tmp_path / "out/table.parquet"), pq.read_table(report.path / "table.parquet")
    assert table.column_names == list(one)
    assert table.select(plain.column_names) == plain, "all else as it was, to the type"


@pytest.mark.slow
def test_a_page_is_known_with_its_provenance_and_not_when_it_has_changed(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("one")
    page, report = tmp_path / "out/report.html", completed(sweep, tmp_path / "out")
    assert shows(page, report.path / "report.html")
    page.write_text(page.read_text().replace("healthy", "unhealthy"))
    assert not shows(page, report.path / "report.html")
    assert not shows(tmp_path / "nowhere.html", report.path / "report.html")


def test_an_odd_run_says_nothing(sweep: Sweep) -> None:
    artifact = sweep.artifacts[sweep.add("one").artifacts["train"]]
    for text in ("{", "[]", "null", "{}"):
        (artifact.path / "run.json").write_text(text)
        assert Provenance.of(artifact) == Provenance()
