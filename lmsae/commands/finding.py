"""Finding an artifact by what a person calls it: a row, a row and a stage, or the first digits of its key."""

import re
from collections.abc import Callable
from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.errors import ConfigError, MissingArtifact, suggest
from lmsae.planning.plan import Plan
from lmsae.planning.sheet import ROW_NAME
from lmsae.stages import DICTIONARIES, ROW_STAGES

WHOLE_KEY = re.compile(r"([a-z]+/)?[0-9a-f]{16}")


def plan_if_faultless(make_plan: Callable[[], Plan]) -> Plan | None:
    """The plan, or None if the sheet has faults: what has been made can be shown all the same."""
    try:
        return make_plan()
    except ConfigError:
        return None


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
        listed = f" No row is called {row!r} either{suggest(row, sorted(rows)) or '.'}" if rows else ""
        raise MissingArtifact(f"{error}{listed}") from None
