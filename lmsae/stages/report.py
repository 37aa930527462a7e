"""report: all evaluations and training curves of a sweep -> one table, plots and a page."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.config import Frozen, canonical_json
from lmsae.health.config import DoctorSection
from lmsae.runtime.runtime import Runtime
from lmsae.stages.origin import Origin
from lmsae.stages.row import PlannedRow
from lmsae.stages.stage import Done, Job, Publisher, Stage, SweepShare


class ReportRow(Frozen):
    """A row of the sweep: its name, the references of its artifacts, and its settings that are not every row's."""

    name: str
    artifacts: dict[str, str]
    settings: dict[str, Any]


class Config(Frozen):
    rows: tuple[ReportRow, ...]
    shared: dict[str, Any]
    """The settings that all rows share, by dotted name, defaults too."""
    given: tuple[str, ...]
    """The names of those settings, shared or not, that the user wrote; the others are defaults."""


def of_sweep(rows: Sequence[PlannedRow]) -> SweepShare:
    """Every row of the sweep: curves come from its dictionary's training, metrics from its evaluation, and it links to
    its page of latents."""
    inputs = {f"{name}/{row.name}": spec.reference for row in rows for name, spec in _parts(row)}
    shared = _settings(rows[0])
    for settings in map(_settings, rows[1:]):
        for name in [name for name, value in shared.items() if settings.get(name) != value]:
            del shared[name]
    given = tuple(sorted({name for columns in {row.given for row in rows} for name in columns}))
    # A large sweep has a hundred megabytes of rows, so their text is written one by one.
    before, after = canonical_json(Config(rows=(), shared=shared, given=given)).split('"rows":[]', 1)
    pieces = [piece for row in rows for piece in (",", canonical_json(_describe(row, shared)))]
    return SweepShare("".join([before, '"rows":[', *pieces[1:], "]", after]), inputs)


def _parts(row: PlannedRow) -> list[tuple[str, Spec]]:
    """The artifacts that a report reads of a row, by the names of their stages there."""
    return [("train", row.dictionary), ("eval", row.specs["eval"]), *(("page", spec) for spec in row.of("page"))]


def _describe(row: PlannedRow, shared: Mapping[str, Any]) -> ReportRow:
    return ReportRow(
        name=row.name,
        artifacts=row.lineage(*(spec for _, spec in _parts(row))),
        settings={name: value for name, value in _settings(row).items() if name not in shared},
    )


def of_what_is_there(spec: Spec, finished: Container[str]) -> Spec | None:
    """The report of the rows that are evaluated. Its inputs alone tell it from the whole one, so it knows what it
    lacks."""
    inputs = {name: reference for name, reference in spec.inputs.items() if reference in finished}
    if not any(name.startswith("eval/") and f"train/{name.removeprefix('eval/')}" in inputs for name in inputs):
        return None
    return Spec(stage=spec.stage, version=spec.version, config=spec.config, inputs=inputs)


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write tables of metrics, standard errors, curves and bins, metrics/, plots/ and report.html."""
    from lmsae.report.writing import write_report

    for job in jobs:
        write_report(job.config, job.inputs, job.out)
        yield job, {}
    del runtime


def _settings(row: PlannedRow) -> dict[str, Any]:
    """A row's settings, with what its names meant when it was planned, and one cell for its hook points."""
    scored, text = row.specs["eval"].config, row.tokens.config
    models = [model["source"] for model in scored["models"]]
    texts = [one["dataset"] for one in text["dataset"].get("sources", [text])] if "dataset" in text else []
    settings = {
        **row.settings,
        "model.name": " ".join(model["name"] for model in models),
        "model.revision": " ".join(model["revision"] for model in models),
        **({"dataset.name": text["dataset"]["name"]} if texts else {}),
        **({"dataset.digest": " ".join(one["digest"] for one in texts)} if texts else {}),
        "sae.hook_point": _hook_points(scored),
    }
    return {name: value for name, value in settings.items() if name not in _SHOWN_ELSEWHERE}


_SHOWN_ELSEWHERE = ("model.others", "sae.hook_point_in", "sae.hook_point_out")


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
    from lmsae.report.provenance import PAGE, shows

    return shows(results / PAGE, report.path / PAGE)


def _summarize(results: Path) -> str:
    from lmsae.report.summary import summarize

    return summarize(results)


STAGE = Stage(
    name="report",
    version=6,
    help="all evaluations of the sweep -> results/",
    config=Config,
    inputs={"train": "train", "eval": "eval", "page": "page"},
    make=make,
    of_sweep=of_sweep,
    lessen=of_what_is_there,
    sections={"doctor": DoctorSection},
    is_wanted=True,
    publisher=Publisher(_publish, _is_published, _summarize),
    # Of a training no dictionary is read: weights may be large, and are not checked for its curves.
    reads={
        "eval": frozenset({"metrics.json", "standard_errors.json", "breakdown.json"}),
        "train": frozenset({"curves.csv", "along.csv"}),
        "import": frozenset(),
        "page": frozenset({"index.html"}),
    },
)
