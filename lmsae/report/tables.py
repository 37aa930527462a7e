"""The report's tables, for spreadsheets, notebooks and `dvc metrics` and `dvc plots`."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lmsae.metrics.formulas import HISTOGRAM_BINS, HISTOGRAM_HIGH, HISTOGRAM_LOW
from lmsae.report.main_metrics import MAIN_METRICS, in_order
from lmsae.report.results import Result, names_of

Cell = str | float | bool
"""The content of a cell of a table."""


def write_tables(results: Sequence[Result], out: Path) -> None:
    """Write table.csv, table.parquet, metrics.json, pareto.csv, density.csv and curves.csv."""
    columns, main = table(results), [metric.name for metric in MAIN_METRICS]
    _write_csv(out / "table.csv", list(columns), zip(*columns.values(), strict=True))
    pq.write_table(_type_columns(columns), out / "table.parquet")
    by_row = {r.name: {name: _number_or_null(r.metrics[name]) for name in in_order(r.metrics)} for r in results}
    (out / "metrics.json").write_text(json.dumps(by_row, indent=1, allow_nan=False) + "\n")
    _write_csv(out / "pareto.csv", ["row", "architecture", "hook_points", *main], _pareto(results, main))
    _write_csv(out / "density.csv", ["row", "log10_density", "latents"], _densities(results))
    curves = names_of([result.curves for result in results])
    _write_csv(out / "curves.csv", ["row", *curves], _curves(results, curves))


def table(results: Sequence[Result]) -> dict[str, list[Cell]]:
    """The columns of the table, a value for each dictionary: name, settings, metrics, health, artifact keys."""
    settings = names_of([result.settings for result in results])
    metrics = in_order(names_of([result.metrics for result in results]))
    stages = names_of([result.artifacts for result in results])
    return {
        "name": [result.name for result in results],
        **{name: [result.settings.get(name, "") for result in results] for name in settings},
        **{name: [result.metrics.get(name, math.nan) for result in results] for name in metrics},
        "healthy": [result.verdict.ok for result in results],
        "findings": ["; ".join(result.verdict.findings) for result in results],
        **{f"artifacts.{stage}": [result.artifacts.get(stage, "") for result in results] for stage in stages},
    }


def bin_centers() -> list[float]:
    """The middle of each bin of a density histogram, in log10 of the firing rate."""
    width = (HISTOGRAM_HIGH - HISTOGRAM_LOW) / HISTOGRAM_BINS
    return [round(HISTOGRAM_LOW + (i + 0.5) * width, 6) for i in range(HISTOGRAM_BINS)]


def _type_columns(columns: Mapping[str, Sequence[Cell]]) -> pa.Table:
    """Metrics as float64 whether or not they happen to be whole numbers."""
    numeric = {name: pa.array([float(v) for v in values]) for name, values in columns.items() if _is_numeric(values)}
    return pa.table({**columns, **numeric})


def _is_numeric(values: Sequence[Cell]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _pareto(results: Sequence[Result], main: Sequence[str]) -> Iterable[list[Cell]]:
    for result in results:
        yield [result.name, result.architecture, result.hook_points, *(result.metrics.get(m, "") for m in main)]


def _densities(results: Sequence[Result]) -> Iterable[list[Cell]]:
    for result in results:
        yield from ([result.name, *pair] for pair in zip(bin_centers(), result.histogram, strict=True))


def _curves(results: Sequence[Result], columns: Sequence[str]) -> Iterable[list[Cell]]:
    for result in results:
        points = len(next(iter(result.curves.values()), ()))
        for i in range(points):
            yield [
                result.name,
                *(_as_number(result.curves[name][i]) if name in result.curves else "" for name in columns),
            ]


def _as_number(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _number_or_null(value: float) -> float | None:
    """Strict JSON has no NaN."""
    return value if math.isfinite(value) else None


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Cell]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
