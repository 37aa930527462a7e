"""The summary that a run ends with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lmsae.report.main_metrics import MAIN_METRICS
from lmsae.report.results import read_results
from lmsae.report.summary import MOST_ROWS, summarize
from lmsae.report.tables import write_tables

if TYPE_CHECKING:
    from tests.report.sweeps import Sweep


def test_a_summary_has_the_main_metrics_of_each_row_and_says_where_the_report_is(reported: Path) -> None:
    head, good, weak, where = summarize(reported).splitlines()
    assert all(metric.heading in head for metric in MAIN_METRICS)
    values = ["4.25", "0.9", "0.95", "0.99", "0.1", "0.97", "0.0", "%", "12.5", "%", "healthy"]
    assert good.split() == ["good=1+1", *values]
    assert weak.split()[-1] == "look"
    assert where == f"The report is {reported / 'report.html'}"


def test_what_was_not_measured_has_a_dash_and_many_rows_are_cut_short(sweep: Sweep) -> None:
    for number in range(MOST_ROWS + 2):
        sweep.add(f"row-{number}", {"l2_ratio": math.nan if number else 1.0, "dead": number})
    write_tables(read_results(sweep.config, sweep.inputs), (), sweep.artifacts.root)
    lines = summarize(sweep.artifacts.root).splitlines()
    assert lines[2].split()[6] == "-"
    assert lines[-2] == "... and 2 more rows"
    assert len(lines) == 1 + MOST_ROWS + 2
