"""report: all evaluations and training curves of a sweep -> one table, plots and a page."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.config import Frozen
from lmsae.runtime.runtime import Runtime
from lmsae.stages.origin import Origin
from lmsae.stages.row import PlannedRow
from lmsae.stages.stage import Done, Job, Publisher, Stage, SweepShare


class ReportRow(Frozen):
    """A row of the sweep: its name, the references of its artifacts, and the settings that the table shows."""

    name: str
    artifacts: dict[str, str]
    settings: dict[str, Any]


class Config(Frozen):
    rows: tuple[ReportRow, ...]


def of_sweep(rows: Sequence[PlannedRow]) -> SweepShare:
    """Every row of the sweep; curves come from training, metrics from evaluation."""
    inputs = {f"{stage}/{row.name}": row.specs[stage].reference for row in rows for stage in ("train", "eval")}
    return SweepShare(Config(rows=tuple(_describe_row(row) for row in rows)), inputs)


def of_what_is_there(spec: Spec, finished: Container[str]) -> Spec | None:
    """The report of the rows that are evaluated. Its inputs alone tell it from the whole one, so it knows what it
    lacks."""
    inputs = {name: reference for name, reference in spec.inputs.items() if reference in finished}
    if not any(name.startswith("eval/") and f"train/{name.removeprefix('eval/')}" in inputs for name in inputs):
        return None
    return Spec(stage=spec.stage, version=spec.version, config=spec.config, inputs=inputs)


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write table.csv, table.parquet, metrics.json, curves.csv, density.csv, plots/ and report.html."""
    from lmsae.report.writing import write_report

    for job in jobs:
        write_report(job.config.rows, job.inputs, job.out)
        yield job, {}
    del runtime


def _describe_row(row: PlannedRow) -> ReportRow:
    """A row as the report is told of it: where it belongs, and every setting that was written for this row."""
    scored = row.specs["eval"].config
    settings = {
        "model.name": " ".join(model["source"]["name"] for model in scored["models"]),
        "dataset.name": row.specs["tokenize"].config["dataset"]["name"],
        "sae.hook_point": _hook_points(scored),
        "sae.architecture": row.values.get("sae.architecture"),
        **{name: value for name, value in row.values.items() if name in row.own and name not in _SHOWN},
    }
    return ReportRow(name=row.name, artifacts=row.lineage("train", "eval"), settings=settings)


_SHOWN = (
    "model.name",
    "model.others",
    "dataset.name",
    "sae.hook_point",
    "sae.hook_point_in",
    "sae.hook_point_out",
)


def _hook_points(scored: Mapping[str, Any]) -> str:
    """The hook points read, and those written if they are others."""
    names = [place["hook_point"] for place in scored["places"]]
    read, written = (
        " ".join(dict.fromkeys(names[number] for number in scored["sites"][side])) for side in ("reads", "writes")
    )
    return read if read == written else f"{read} -> {written}"


def _publish(report: Artifact, artifacts: Artifacts, results: Path, origin: Origin | None) -> None:
    from lmsae.stages.publishing import publish

    publish(report, Config.model_validate(report.spec().config).rows, artifacts, results, origin)


def _is_published(report: Artifact, results: Path) -> bool:
    import filecmp

    page = "report.html"
    return (results / page).exists() and filecmp.cmp(results / page, report.path / page, shallow=False)


STAGE = Stage(
    name="report",
    version=3,
    help="all evaluations of the sweep -> results/",
    config=Config,
    inputs={"train": "train", "eval": "eval"},
    make=make,
    of_sweep=of_sweep,
    lessen=of_what_is_there,
    is_wanted=True,
    publisher=Publisher(_publish, _is_published),
    # Of a dictionary the curves alone are read: its weights may be large, and are not checked for them.
    reads={"eval": frozenset({"metrics.json"}), "train": frozenset({"curves.csv"})},
)
