"""report: all evaluations and training curves of a sweep -> one table, plots and a page."""

from collections.abc import Sequence
from typing import Any

from lmsae.config import Frozen
from lmsae.runtime.runtime import Runtime
from lmsae.stages.stage import Done, Job, Stage


class ReportRow(Frozen):
    """A row of the sweep: its name, the references of its artifacts, and the settings that the table shows."""

    name: str
    artifacts: dict[str, str]
    settings: dict[str, Any]


class Config(Frozen):
    rows: tuple[ReportRow, ...]


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write table.csv, table.parquet, metrics.json, curves.csv, density.csv, plots/ and report.html."""
    from lmsae.report.writing import write_report

    for job in jobs:
        write_report(job.config.rows, job.inputs, job.out)
        yield job, {}
    del runtime


# Of a dictionary the curves alone are read: its weights may be large, and are not checked for them.
READS = {"eval": frozenset({"metrics.json"}), "train": frozenset({"curves.csv"})}
STAGE = Stage("report", 3, Config, {"eval/<row>": "eval", "train/<row>": "train"}, make, reads=READS)
