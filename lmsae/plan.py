"""The plan: rows -> specs -> passes. Nothing heavy is imported.

Both engines, `lmsae plan` and `lmsae run` call `make_plan`; whatever they run, they run these specs.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lmsae.artifact import Artifacts, Spec, write_atomically
from lmsae.config import canonical_json, key_of
from lmsae.errors import ConfigError, DamagedArtifact, Fault, LmsaeError
from lmsae.resolver import Resolver, spec_of
from lmsae.sheet import Row
from lmsae.stages import STAGES, report, tokenize, train
from lmsae.training.config import TrainConfig

ROW_STAGES = ("tokenize", "activations", "norm", "init", "train", "eval")


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row and the spec of each of its stages."""

    row: Row
    specs: Mapping[str, Spec]

    def reported(self) -> report.ReportRow:
        """What the report is told of it: where it belongs, and every setting that was written for this row."""
        activations = self.specs["activations"].config
        settings = {
            "model.name": activations["model"]["source"]["name"],
            "dataset.name": self.specs["tokenize"].config["dataset"]["name"],
            "sae.hook_point": activations["hook_point"],
            "sae.architecture": self.row.section("sae").get("architecture"),
            **{name: cell.value for name, cell in self.row.cells.items() if cell.is_own},
        }
        references = {stage: spec.reference for stage, spec in self.specs.items()}
        return report.ReportRow(name=self.row.name, artifacts=references, settings=settings)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep wants."""

    rows: Sequence[PlannedRow]

    @cached_property
    def report(self) -> Spec:
        """The spec of the sweep's report."""
        config = report.Config(rows=tuple(row.reported() for row in self.rows))
        inputs = {row.row.name: row.specs["eval"].reference for row in self.rows}
        return spec_of("report", config, inputs)

    def specs(self, stage: str) -> list[Spec]:
        """The stage's specs, each once, in the order of the rows."""
        if stage == "report":
            return [self.report]
        return list({row.specs[stage].key: row.specs[stage] for row in self.rows}.values())

    def passes(self, stage: str, together: int) -> list[list[Spec]]:
        """The stage's specs, grouped into what one job makes: in one forward pass, or over one stream of activations.

        Depends on the sweep alone and never on what is on disk, so that every engine sees the same jobs at any time.
        """
        groups: dict[Any, list[Spec]] = {}
        for spec in self.specs(stage):
            groups.setdefault(PASS_OF.get(stage, _alone)(spec), []).append(spec)
        limit = together if stage in ("train", "eval") else len(self.rows)
        return [group[i : i + limit] for group in groups.values() for i in range(0, len(group), limit)]

    def write_specs(self, artifacts: Artifacts) -> None:
        """Write every spec where its artifact will be."""
        for stage in STAGES:
            for spec in self.specs(stage):
                artifacts.add(spec)

    def write(self, artifacts: Artifacts, together: int) -> None:
        """Write every spec, and `plan/<stage>.json`, the passes of each stage: what commands without keys work on."""
        self.write_specs(artifacts)
        folder = artifacts.root / "plan"
        folder.mkdir(parents=True, exist_ok=True)
        for stage in STAGES:
            passes = [[spec.reference for spec in group] for group in self.passes(stage, together)]
            text = json.dumps({"stage": stage, "passes": passes}, indent=1) + "\n"
            if not (folder / f"{stage}.json").exists() or (folder / f"{stage}.json").read_text() != text:
                write_atomically(folder / f"{stage}.json", text)


def passes_on_disk(stage: str, artifacts: Artifacts) -> list[list[str]]:
    """The references that the last written plan wants of a stage, by pass."""
    path = artifacts.root / "plan" / f"{stage}.json"
    if not path.exists():
        raise ConfigError([Fault(str(path), None, None, "there is no plan yet; write one with `lmsae plan`")])
    try:
        return json.loads(path.read_text())["passes"]
    except ValueError:
        raise ConfigError([Fault(str(path), None, None, "cannot be read; write it again with `lmsae plan`")]) from None


def make_plan(rows: Iterable[Row], artifacts: Artifacts, faults: Iterable[Fault] = ()) -> Plan:
    """Resolve every row to its specs. Raises ConfigError with the faults of all rows at once, after those `faults`
    that were found in reading them.

    Where a row's tokens are on disk already, asking for more than there are is a fault too.
    """
    resolver = Resolver(artifacts)
    faults = list(faults)
    planned = []
    for row in rows:
        specs = resolver.specs(row, faults)
        if specs is not None:
            _check_tokens(row, specs, artifacts, faults)
            planned.append(PlannedRow(row, specs))
    resolver.digests.save()
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return Plan(planned)


def _check_tokens(row: Row, specs: Mapping[str, Spec], artifacts: Artifacts, faults: list[Fault]) -> None:
    counts = token_counts(specs["tokenize"], artifacts)
    if counts is not None:
        config = TrainConfig.model_validate({name: specs["train"].config[name] for name in TrainConfig.model_fields})
        try:
            config.require_tokens(counts["train_usable"])
        except LmsaeError as error:
            faults.append(row.fault("train.tokens", str(error)))


def token_counts(spec: Spec, artifacts: Artifacts) -> dict[str, int] | None:
    """What the tokenize stage counted, or None while it has not."""
    artifact = artifacts[spec.reference]
    if not artifact.is_finished:
        return None
    path = artifact.path / tokenize.COUNTS
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        message = f"{path}: it is not what was written. Delete {artifact.path} and run the workflow again"
        raise DamagedArtifact(f"{message}; `lmsae verify` looks at every artifact.") from None


def _alone(spec: Spec) -> str:
    return spec.key


def _same(*names: str) -> Callable[[Spec], str]:
    def identity(spec: Spec) -> str:
        config = {name: spec.config[name] for name in names}
        return key_of(canonical_json([config, spec.inputs["tokens"]]))

    return identity


PASS_OF: dict[str, Callable[[Spec], Any]] = {
    "activations": _same("model", "batch_contexts"),
    # Starting weights take seconds, as starting a job does.
    "init": lambda spec: spec.inputs["activations"],
    "eval": _same("model", "tokens", "batch_contexts"),
    "train": lambda spec: train.stream_of(spec.config, spec.inputs),
}
