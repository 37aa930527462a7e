"""The cost of a sweep: time, throughput and memory of every artifact, as a table and a page beside the report.

They are read from the artifacts' run.json, which differs from run to run; the report's own files do not.
"""

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from lmsae.artifacts.artifact import RUN, Artifact, Artifacts
from lmsae.report.results import Row
from lmsae.runtime.numbers import format_count, format_duration, format_share

TABLE, PAGE = "cost.csv", "cost.html"


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one artifact. Numbers are None where its run.json does not say them.

    `seconds` are its share of the pass that it was made in, each artifact of which has the same; the rates and the
    memory are those of the whole pass. Of an artifact whose making was interrupted, only the last process counts.
    """

    stage: str
    reference: str
    seconds: float | None = None
    in_pass: int | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    waiting: float | None = None
    flops_per_second: float | None = None
    memory: int | None = None
    device_memory: int | None = None
    device: str | None = None
    host: str | None = None

    @classmethod
    def of(cls, artifact: Artifact) -> "Cost":
        """The cost of an artifact, by its run.json; of one without (made elsewhere, or long ago) nothing is known."""
        stage = artifact.path.parent.name
        try:
            run = json.loads((artifact.path / RUN).read_text())
            facts, memory = dict(run["facts"]), dict(run["peak_memory_bytes"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls(stage, artifact.reference)
        seconds, waited = facts.get("seconds"), facts.get("waited_s")
        return cls(
            stage,
            artifact.reference,
            seconds and seconds / facts.get("in_pass", 1),
            facts.get("in_pass"),
            facts.get("tokens"),
            facts.get("tokens_per_second"),
            waited / seconds if seconds and waited is not None else None,
            facts.get("flops_per_second"),
            memory["host"],
            memory.get("device"),
            run.get("device"),
            run["host"],
        )


def write_cost(rows: Sequence[Row], artifacts: Artifacts, stages: Iterable[str], out: Path) -> None:
    """Write cost.csv, a line for each row and artifact of it, and cost.html: by stage, in the order of `stages`, and by
    row. Files that would not change are left as they are."""
    references = dict.fromkeys(reference for row in rows for reference in row.artifacts.values())
    costs = {reference: Cost.of(artifacts[reference]) for reference in references}
    by_row = {row.name: [costs[reference] for reference in row.artifacts.values()] for row in rows}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["row", *Cost.__dataclass_fields__])
    writer.writerows([name, *_values(cost)] for name, all_ in by_row.items() for cost in all_)
    for path, text in ((out / TABLE, table.getvalue()), (out / PAGE, _page(list(costs.values()), by_row, stages))):
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def _values(cost: Cost) -> list[str | float]:
    return ["" if value is None else value for value in (getattr(cost, name) for name in Cost.__dataclass_fields__)]


def _page(costs: Sequence[Cost], by_row: dict[str, list[Cost]], stages: Iterable[str]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(time=format_duration, count=format_count, share=format_share)
    template = environment.from_string((files("lmsae.report") / "cost.html.jinja").read_text("utf-8"))
    made = {cost.stage for cost in costs}
    stages = [stage for stage in stages if stage in made]
    return template.render(
        stages={stage: _summary([cost for cost in costs if cost.stage == stage]) for stage in stages},
        rows={name: (_total(all_), _training_of(all_)) for name, all_ in by_row.items()},
        stage_names=stages,
        seconds={
            name: {stage: _total(c for c in all_ if c.stage == stage) for stage in stages}
            for name, all_ in by_row.items()
        },
        total=_total(costs),
    )


def _summary(costs: Sequence[Cost]) -> dict[str, object]:
    """The cost of a stage: all of its time, the medians of its rates, the most memory, and where."""
    return {
        "artifacts": len(costs),
        "seconds": _total(costs),
        "tokens_per_second": _of(statistics.median, costs, "tokens_per_second"),
        "waiting": _of(statistics.median, costs, "waiting"),
        "flops_per_second": _of(statistics.median, costs, "flops_per_second"),
        "memory": _of(max, costs, "memory"),
        "device_memory": _of(max, costs, "device_memory"),
        "machines": sorted({f"{cost.device} on {cost.host}" for cost in costs if cost.device}),
    }


def _training_of(costs: Sequence[Cost]) -> Cost:
    """The cost of a row's training; of a dictionary that was not trained here, nothing is known."""
    return next((cost for cost in costs if cost.stage == "train"), Cost("train", ""))


def _total(costs: Iterable[Cost]) -> float:
    return sum(cost.seconds or 0.0 for cost in costs)


def _of(function: Callable[[list[float]], float], costs: Sequence[Cost], name: str) -> float | None:
    known = [value for value in (getattr(cost, name) for cost in costs) if value is not None]
    return function(known) if known else None
