"""Finding an artifact by what a person calls it: a row, a row and a stage, or the first digits of its key."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.errors import ConfigError, MissingArtifact, suggest
from lmsae.planning.plan import Plan
from lmsae.planning.sheet import ROW_NAME
from lmsae.planning.sweeps import known_sweeps
from lmsae.stages import DICTIONARIES, ROW_STAGES

WHOLE_KEY = re.compile(r"([a-z]+/)?[0-9a-f]{16}")
DESCRIBED = "features"


def plan_if_faultless(make_plan: Callable[[], Plan]) -> Plan | None:
    """The plan, or None if the sheet has faults: what has been made can be shown all the same."""
    try:
        return make_plan()
    except ConfigError:
        return None


def find_noted(name: str, artifacts: Artifacts, stage: str | None = None) -> list[Artifact]:
    """The artifacts that a key means or, if a sweep that was planned has a row of this name, those of the row; of one
    stage only, if it is named. Rows of several sweeps may have one name: all of theirs are meant."""
    rows: dict[str, set[str]] = {}
    for sweep in known_sweeps(artifacts):
        for row in sweep.wants.keys() - {""}:
            rows.setdefault(row, set()).update(sweep.wants[row])
    if not WHOLE_KEY.fullmatch(name) and name in rows:
        found = [one for one in sorted(rows[name]) if stage is None or one.startswith(f"{stage}/")]
        if not found:
            raise MissingArtifact(f"row {name} wants nothing of {stage}.")
        return [artifacts[one] for one in found]
    try:
        return [artifacts.find(name if stage is None or "/" in name else f"{stage}/{name}")]
    except MissingArtifact as error:
        listed = f" No planned row is called {name!r} either{suggest(name, sorted(rows)) or '.'}" if rows else ""
        raise MissingArtifact(f"{error}{listed}") from None


def find_described(name: Path | str, artifacts: Artifacts, results: Path) -> Path:
    """The folder of the features that a name means: a folder, a row of any sweep that was planned, or a key.

    Raises MissingArtifact if it means nothing, if rows of several sweeps have this name, or if it is not finished.
    """
    if isinstance(name, Path) or ("/" in name and Path(name).is_dir()):
        return Path(name)
    found = find_of_row(name.removesuffix(f"/{DESCRIBED}"), [DESCRIBED], artifacts, results)
    if found is None:
        found = _find_by_key(name, artifacts, rows_of_sweeps(artifacts))
    return found.require_intact(read=()).path


def rows_of_sweeps(artifacts: Artifacts) -> list[str]:
    """The rows of all sweeps that were planned, by name."""
    return sorted({row for sweep in known_sweeps(artifacts) for row in sweep.wants if row})


def find_of_row(row: str, stages: Sequence[str], artifacts: Artifacts, results: Path) -> Artifact | None:
    """The artifact of the first of some stages that a row of any sweep wants; None if no sweep has such a row, and none
    is published.

    Raises MissingArtifact if rows of several sweeps have this name.
    """
    sweeps = [sweep for sweep in known_sweeps(artifacts) if row and row in sweep.wants]
    for stage in stages:
        wants = {one for sweep in sweeps for one in sweep.wants[row] if one.startswith(f"{stage}/")}
        if len(wants) > 1:
            raise MissingArtifact(f"several sweeps have a row {row}: name one of {', '.join(sorted(wants))}.")
        if wants:
            return artifacts[wants.pop()]
    if sweeps or not ROW_NAME.fullmatch(row):
        return None
    links = (results / "rows" / row / stage for stage in stages)
    return next((artifacts.find("/".join(link.resolve().parts[-2:])) for link in links if link.is_dir()), None)


def _find_by_key(key: str, artifacts: Artifacts, rows: Sequence[str]) -> Artifact:
    try:
        return artifacts.find(key if "/" in key else f"{DESCRIBED}/{key}")
    except MissingArtifact as error:
        if key in rows:
            listed = f" Row {key} wants none: its features.tokens is 0."
        else:
            listed = f" No row is called {key!r} either{suggest(key, rows) or '.'}" if rows else ""
        raise MissingArtifact(f"{error}{listed}") from None


def find_artifact(name: str, artifacts: Artifacts, results: Path, plan: Callable[[], Plan | None]) -> Artifact:
    """The artifact that a name means: `ROW` (its dictionary), `ROW/STAGE`, or the first digits of a key.

    A row is one of the plan. If there is no plan, because the sheet has faults, or if it has no such row, it is one of
    the published ones. Raises MissingArtifact if the name means nothing.
    """
    if WHOLE_KEY.fullmatch(name):
        return artifacts.find(name)
    row, _, stage = name.partition("/")
    stages = (stage,) if stage else DICTIONARIES
    may_be_row = ROW_NAME.fullmatch(row) and {*stages} <= {*ROW_STAGES}
    planned = plan() if may_be_row else None
    if planned is not None:
        named = [one for one in planned.rows if one.name == row]
        specs = [spec for one in named for spec in (one.of(stage) if stage else [one.dictionary])]
        if len(specs) > 1:
            options = ", ".join(spec.reference for spec in specs)
            raise MissingArtifact(f"row {row} has several artifacts of {stage}: name one of {options}.")
        if specs:
            return artifacts[specs[0].reference]
    links = [results / "rows" / row / one for one in stages] if may_be_row else []
    for published in (link for link in links if link.is_dir()):
        return artifacts.find("/".join(published.resolve().parts[-2:]))
    try:
        return artifacts.find(name)
    except MissingArtifact as error:
        rows = {one.name for one in planned.rows} if planned is not None else set()
        rows |= {path.name for path in (results / "rows").glob("*")}
        if row in rows:
            near = "" if stage in ROW_STAGES else suggest(stage, ROW_STAGES) or f"; stages are {', '.join(ROW_STAGES)}"
            listed = f" Row {row} has no artifact of {stage!r}{near}" if stage else ""
        else:
            listed = f" No row is called {row!r} either{suggest(row, sorted(rows)) or '.'}" if rows else ""
        raise MissingArtifact(f"{error}{listed}") from None
