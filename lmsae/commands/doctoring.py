"""The doctor: what is wrong with dictionaries that are trained and evaluated, the evidence, and what to change."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.commands.finding import find_artifact
from lmsae.errors import ConfigError, Fault, MissingArtifact
from lmsae.health.case import read_case
from lmsae.health.config import thresholds_of
from lmsae.health.verdict import Verdict, examine
from lmsae.metrics.definitions import current_versions
from lmsae.planning.plan import Plan
from lmsae.planning.sheet import read, read_section, require_one

ALL = "all"
DICTIONARY = "dictionary"
"""The name that an evaluation has for the dictionary it scored."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A dictionary to judge: what it is called, its training, its evaluation, and the settings of its row."""

    name: str
    train: Artifact
    evaluation: Artifact
    settings: Mapping[str, object]

    def examine(self, forced: Mapping[str, object]) -> Verdict:
        """The verdict by the thresholds of its row, and those that are forced. Raises MissingArtifact and
        DamagedArtifact."""
        case = read_case(self.train.require_intact({"curves.csv"}), self.evaluation.require_intact({"metrics.json"}))
        return examine(case, thresholds_of({**self.settings, **forced}))


def doctor(
    names: Sequence[str],
    plan: Callable[[], Plan | None],
    artifacts: Artifacts,
    results: Path,
    overrides: Sequence[str],
    say: Callable[[str], None],
) -> int:
    """Judge dictionaries by the names of their rows or by keys; `all`, or no name, means every row of the plan.

    `overrides` are texts `doctor.field=value`, over the settings of rows. Returns 0 if all are healthy, else 1. Raises
    MissingArtifact if one that is named, or every one of the plan, is not evaluated.
    """
    forced = _read_forced(overrides)
    if not names or ALL in names:
        patients, waiting = _patients_of_plan(plan(), artifacts)
    else:
        patients, waiting = [_find(name, plan, artifacts, results) for name in names], []
    sick = 0
    for patient in patients:
        verdict = patient.examine(forced)
        sick += not verdict.ok
        for line in _describe(patient.name, verdict):
            say(line)
    for name in waiting:
        say(f"{name}: not evaluated yet")
    if len(patients) + len(waiting) > 1:
        say(f"{len(patients) - sick} healthy, {sick} not" + (f", {len(waiting)} not evaluated" if waiting else ""))
    return 1 if sick or waiting else 0


def _read_forced(overrides: Sequence[str]) -> dict[str, object]:
    """The settings `doctor.*` of some overrides, checked as those of a sheet are."""
    faults: list[Fault] = []
    rows = read({}, None, overrides, faults)
    row = require_one(rows, faults, "thresholds are the same for all rows")

    def refuse(column: str | None, message: str, only_if_own: bool = False, depends_on_row: bool = False) -> None:
        faults.append(row.fault(column, message))

    section = read_section(row, "doctor", row.section("doctor"), refuse)
    if faults or section is None:
        raise ConfigError(faults)
    return {f"doctor.{name}": value for name, value in section.model_dump(exclude_unset=True).items()}


def _patients_of_plan(plan: Plan | None, artifacts: Artifacts) -> tuple[list[Patient], list[str]]:
    """The rows that are evaluated, and the names of the others."""
    if plan is None:
        raise MissingArtifact("the sheet has faults, which `lmsae plan` lists: mend them, or name keys.")
    patients, waiting = [], []
    for row in plan.rows:
        train, evaluation = (artifacts[row.specs[stage].reference] for stage in ("train", "eval"))
        if evaluation.is_finished and train.is_finished:
            patients.append(Patient(row.name, train, evaluation, row.settings))
        else:
            waiting.append(row.name)
    if not patients:
        raise MissingArtifact("no row of the sweep is evaluated yet: `lmsae run` makes all of it.")
    return patients, waiting


def _find(name: str, plan: Callable[[], Plan | None], artifacts: Artifacts, results: Path) -> Patient:
    """The dictionary that a name means: a row, its train or eval artifact, or the first digits of a key of one."""
    found = find_artifact(name, artifacts, results, plan)
    stage = found.path.parent.name
    if stage == "eval":
        evaluation, train = found, artifacts[found.spec().inputs[DICTIONARY]]
    elif stage == "train":
        train, evaluation = found, evaluation_of(found, artifacts)
    else:
        raise MissingArtifact(f"{found.reference} is no dictionary: name a row, or an artifact of train or eval.")
    planned = plan()
    row = name.partition("/")[0]
    rows = [one for one in planned.rows if train.reference == one.specs["train"].reference] if planned else []
    chosen = next((one for one in rows if one.name == row), rows[0] if rows else None)
    return Patient(name, train, evaluation, chosen.settings if chosen else {})


def evaluation_of(train: Artifact, artifacts: Artifacts) -> Artifact:
    """The finished evaluation of a dictionary; of several the one with the most metric groups of today."""
    now = current_versions().items()

    def evaluations() -> Iterator[tuple[int, str, Artifact]]:
        for one in artifacts.everywhere():
            if one.path.parent.name == "eval" and one.is_finished:
                spec = one.spec()
                if spec.inputs.get(DICTIONARY) == train.reference:
                    yield len(now & spec.config.get("groups", {}).items()), one.reference, one

    best = max(evaluations(), default=None)
    if best is None:
        raise MissingArtifact(f"{train.reference} is not evaluated yet: `lmsae run` makes all of the sweep.")
    return best[-1]


def _describe(name: str, verdict: Verdict) -> Iterator[str]:
    yield f"{name}: {'healthy' if verdict.ok else ', '.join(one.name for one in verdict.diagnoses)}"
    for diagnosis in verdict.diagnoses:
        yield f"  {diagnosis.name}: {diagnosis.meaning}"
        yield from (f"    {evidence}; {evidence.source}" for evidence in diagnosis.evidence)
        yield f"    {diagnosis.advice}."
    yield from (f"  {remark}" for remark in verdict.remarks)
