"""The report's tables, for spreadsheets, notebooks and `dvc metrics` and `dvc plots`."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lmsae.metrics.definitions import bin_centers
from lmsae.report.controls import best_control, compared, find_controls
from lmsae.report.main_metrics import MAIN_METRICS, in_order
from lmsae.report.results import MAIN_SETTINGS, Result, names_of, settings_of, text_of

Cell = str | float | bool | None
"""The content of a cell of a table; None where there is nothing to say."""
ERROR = "standard_error."
"""Stands before a metric's name in the name of the column with its standard error."""


def write_tables(results: Sequence[Result], given: Sequence[str], out: Path) -> None:
    """Write the tables: table, breakdown (csv and parquet), metrics.json, metrics/<row>.json, standard_errors.json,
    pareto.csv, density.csv and curves.csv.

    The settings whose names are `given` stand before the metrics, and the defaults at the end. `metrics.json` has every
    metric, a file of `metrics/` the main ones of a row: `dvc metrics show` makes a line of each file.
    """
    write_table(table(results, given), out / "table")
    by_row = {r.name: {name: number_or_null(r.metrics[name]) for name in in_order(r.metrics)} for r in results}
    _write_json(out / "metrics.json", by_row)
    (out / "metrics").mkdir(exist_ok=True)
    for name, metrics in by_row.items():
        _write_json(out / "metrics" / f"{name}.json", {one.name: metrics.get(one.name) for one in MAIN_METRICS})
    errors = {r.name: {name: number_or_null(value) for name, value in r.errors.items()} for r in results}
    _write_json(out / "standard_errors.json", errors)
    write_table(_breakdown(results), out / "breakdown")
    _write_csv(out / "pareto.csv", _pareto(results))
    densities = [(r.name, *pair) for r in results for pair in zip(bin_centers(), r.histogram, strict=True)]
    names = ("row", "log10_density", "latents")
    _write_csv(out / "density.csv", dict(zip(names, zip(*densities, strict=True), strict=True)))
    _write_csv(out / "curves.csv", _curves(results), nothing="NaN")


def write_table(columns: Mapping[str, Sequence[Cell]], path: Path) -> None:
    """Write `<path>.csv` and `<path>.parquet`: the same table, with numbers that are numbers and empty cells."""
    columns = {name: of_one_type(values) for name, values in columns.items()}
    _write_csv(path.with_suffix(".csv"), columns)
    pq.write_table(pa.table({name: _array(values) for name, values in columns.items()}), path.with_suffix(".parquet"))


def table(results: Sequence[Result], given: Sequence[str]) -> dict[str, Sequence[Cell]]:
    """The columns of the table, a value for each dictionary: name, settings, metrics, health with its diagnoses,
    artifact keys, and the settings that are defaults."""
    settings = {name: [as_cell(result.settings.get(name)) for result in results] for name in settings_of(results)}
    metrics = in_order(names_of([result.metrics for result in results]))
    stages = names_of([result.artifacts for result in results])
    errors = [metric.name for metric in MAIN_METRICS if any(metric.name in result.errors for result in results)]
    first = {name: values for name, values in settings.items() if name in MAIN_SETTINGS or name in given}
    return {
        "name": [result.name for result in results],
        **first,
        **{name: [number_or_null(result.metrics.get(name, math.nan)) for result in results] for name in metrics},
        **{f"{ERROR}{name}": [number_or_null(r.errors.get(name, math.nan)) for r in results] for name in errors},
        "healthy": [result.verdict.ok for result in results],
        "diagnoses": [" ".join(one.name for one in result.verdict.diagnoses) for result in results],
        "findings": ["; ".join(result.verdict.findings) for result in results],
        **_beside_controls(results),
        **{f"artifacts.{stage}": [result.artifacts.get(stage) for result in results] for stage in stages},
        **{name: values for name, values in settings.items() if name not in first},
    }


def _beside_controls(results: Sequence[Result]) -> dict[str, Sequence[Cell]]:
    """The name of each dictionary's hardest control, and its scores; no columns where no row is one."""
    controls = find_controls(results)
    if not controls:
        return {}
    best = [best_control(controls, result.name) for result in results]
    scores = {
        f"control.{name}": [number_or_null(one.case.metric(name)) if one else None for one in best]
        for name in compared(results)
    }
    return {"control": [one.name if one else None for one in best], **scores}


def of_one_type(values: Sequence[Cell]) -> Sequence[Cell]:
    """The values of a column as one type: truth values, whole numbers, numbers, or else text. None stays."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else text_of(value) for value in values]


def _array(values: Sequence[Cell]) -> pa.Array:
    # Only a metric can have no value anywhere, and metrics are numbers.
    return pa.array(values, None if any(value is not None for value in values) else pa.float64())


def as_cell(setting: object) -> Cell:
    """A setting as it stands in a table: a list is text, as in a sheet."""
    return setting if setting is None or isinstance(setting, str | float | int) else text_of(setting)


def _pareto(results: Sequence[Result]) -> dict[str, Sequence[Cell]]:
    return {
        "row": [result.name for result in results],
        "architecture": [result.architecture for result in results],
        "hook_points": [result.hook_points for result in results],
        **{m.name: [number_or_null(r.metrics.get(m.name, math.nan)) for r in results] for m in MAIN_METRICS},
    }


def _breakdown(results: Sequence[Result]) -> dict[str, Sequence[Cell]]:
    """A line for each row and bin: the kind and the ends of the bin, and every metric with its standard error."""
    lines: list[dict[str, Cell]] = []
    for result in results:
        for kind, found in result.breakdowns.items():
            for i, (low, high) in enumerate(zip(found.low, found.high, strict=True)):
                line: dict[str, Cell] = {"row": result.name, "by": kind, "from": float(low), "to": float(high)}
                for prefix, side in (("", found.metrics), (ERROR, found.errors)):
                    line |= {prefix + name: number_or_null(values[i]) for name, values in side.items()}
                lines.append(line)
    names = names_of(lines) or ["row", "by", "from", "to"]
    return {name: [line.get(name) for line in lines] for name in names}


def _curves(results: Sequence[Result]) -> dict[str, Sequence[Cell]]:
    """Every point of every curve below each other; None where a dictionary has no such curve."""
    lengths = [len(next(iter(result.curves.values()), ())) for result in results]
    names = names_of([result.curves for result in results])
    columns: dict[str, Sequence[Cell]] = {
        name: of_one_type([v for r, n in zip(results, lengths, strict=True) for v in r.curves.get(name, [None] * n)])
        for name in names
    }
    return {"row": [r.name for r, n in zip(results, lengths, strict=True) for _ in range(n)], **columns}


def number_or_null(value: float) -> float | None:
    """Strict JSON has no NaN, and a table has an empty cell instead."""
    return value if math.isfinite(value) else None


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def _write_csv(path: Path, columns: Mapping[str, Sequence[Cell]], nothing: str = "") -> None:
    """Write columns as csv. `nothing` stands where there is no number: the empty text, which every reader knows, or
    NaN in a long table, for readers that guess a column's type by its first lines and take empty ones for text."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(_lines(columns, nothing))


def _lines(columns: Mapping[str, Sequence[Cell]], nothing: str) -> Iterable[list[Cell]]:
    for line in zip(*columns.values(), strict=True):
        yield [nothing if cell is None or cell != cell else cell for cell in line]
