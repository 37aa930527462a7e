"""Provenance of a report's numbers: when dictionaries were trained and evaluated, by which lmsae, and on what.

It stands in the artifacts' run.json, which differs from run to run. A report's own files are the same bytes for the
same results, so they have none of it, and publishing adds it to the page and to the table.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup

from lmsae.artifacts.artifact import RUN, Artifact, Artifacts
from lmsae.report.results import Row

STAGES = {"train": "trained", "eval": "evaluated"}
"""The stages whose provenance is told, and the word for what they did."""
PAGE, TABLE = "report.html", "table"
BEGIN, END = Markup("<!-- provenance -->"), Markup("<!-- /provenance -->")
_BETWEEN = re.compile(f"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Provenance:
    """The provenance of an artifact: when it was finished (UTC), the version and commit of lmsae, and the device that
    computed. What its run.json does not say is None."""

    finished: str | None = None
    lmsae: str | None = None
    commit: str | None = None
    device: str | None = None

    @classmethod
    def of(cls, artifact: Artifact) -> "Provenance":
        """That of an artifact by its run.json; of one without, nothing is known."""
        try:
            run = json.loads((artifact.path / RUN).read_text())
            return cls(*(run.get(name) for name in cls.__dataclass_fields__))
        except (FileNotFoundError, ValueError, AttributeError):
            return cls()


def complete(report: Path, rows: Sequence[Row], artifacts: Artifacts, out: Path) -> dict[str, Path]:
    """Write those files of a report that tell the provenance of its rows to `out`; returns them by name."""
    # Imported here: whether a page is published, engines ask before anything runs.
    import pyarrow.parquet as pq

    from lmsae.report.tables import write_table

    known = {stage: [_of_row(row, stage, artifacts) for row in rows] for stage in STAGES}
    done = {}
    if (report / PAGE).exists():
        told = "".join(_tell(word, known[stage]) for stage, word in STAGES.items())
        (out / PAGE).write_text(_BETWEEN.sub(lambda _: told, (report / PAGE).read_text("utf-8")), "utf-8")
        done[PAGE] = out / PAGE
    if (report / f"{TABLE}.parquet").exists():
        added = {
            f"provenance.{stage}.{name}": [asdict(one)[name] or "" for one in of_rows]
            for stage, of_rows in known.items()
            for name in Provenance.__dataclass_fields__
        }
        columns = pq.read_table(report / f"{TABLE}.parquet").to_pydict()
        write_table({**columns, **added}, out / TABLE)
        done |= {f"{TABLE}.{kind}": out / f"{TABLE}.{kind}" for kind in ("csv", "parquet")}
    return done


def _of_row(row: Row, stage: str, artifacts: Artifacts) -> Provenance:
    """That of a row's artifact of a stage; nothing where it has none, as a dictionary that was trained elsewhere."""
    return Provenance.of(artifacts[row.artifacts[stage]]) if stage in row.artifacts else Provenance()


def shows(completed: Path, page: Path) -> bool:
    """True if a file is this page of a report, with or without provenance."""
    return completed.exists() and _BETWEEN.sub("", completed.read_text("utf-8")) == page.read_text("utf-8")


def _tell(word: str, known: Sequence[Provenance]) -> str:
    """A fact of the page: the days, and each lmsae and device."""
    days = sorted({one.finished[:10] for one in known if one.finished})
    makers = dict.fromkeys(
        f"lmsae {one.lmsae}{f', commit {one.commit}' if one.commit else ''}, on {one.device}"
        for one in known
        if one.lmsae
    )
    when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "unknown"
    return Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(word, "; ".join([when, *makers]))
