"""The summary of a published report: where it is, and the main metrics of its rows as a table for a terminal."""

import csv
from pathlib import Path

from lmsae.report.main_metrics import MAIN_METRICS
from lmsae.runtime.numbers import format_share

MOST_ROWS = 40


def summarize(results: Path) -> str:
    """The summary of the report in a folder of results."""
    with open(results / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = [metric for metric in MAIN_METRICS if any(metric.name in row for row in rows)]
    lines = [["row", *(metric.heading for metric in shown), ""]]
    for row in rows[:MOST_ROWS]:
        values = [_format(row.get(metric.name), metric.is_share) for metric in shown]
        lines.append([row["name"], *values, "healthy" if row["healthy"] == "True" else "look"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:-1]), word]) for name, *cells, word in lines
    ]
    more = [f"... and {len(rows) - MOST_ROWS} more rows"] if len(rows) > MOST_ROWS else []
    return "\n".join([*map(str.rstrip, text), *more, f"The report is {results / 'report.html'}"])


def _format(cell: str | None, is_share: bool) -> str:
    if not cell:
        return "-"
    return format_share(float(cell)) if is_share else f"{float(cell):.4g}"
