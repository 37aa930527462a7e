"""The plan: rows -> specs -> passes. Nothing heavy is imported.

Both engines, `lmsae plan` and `lmsae run` call `make_plan`; whatever they run, they run these specs.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lmsae.artifacts.artifact import Artifacts, Spec, write_atomically
from lmsae.config import canonical_json, key_of
from lmsae.errors import ConfigError, DamagedArtifact, Fault, LmsaeError
from lmsae.planning.resolver import HOOK_POINTS, Resolver
from lmsae.planning.sheet import Row
from lmsae.planning.specs import spec_of
from lmsae.stages import STAGES, evaluate, report, tokenize, train
from lmsae.training.config import TrainConfig

ROW_STAGES = ("tokenize", "activations", "norm", "init", "train", "eval")


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row and the specs of its stages; second and further ones of a stage are called `activations.1` ..."""

    row: Row
    specs: Mapping[str, Spec]

    def of(self, stage: str) -> list[Spec]:
        """The row's specs of one stage."""
        return [spec for name, spec in self.specs.items() if name.partition(".")[0] == stage]

    def reported(self) -> report.ReportRow:
        """What the report is told of it: where it belongs, and every setting that was written for this row."""
        scored = self.specs["eval"].config
        settings = {
            "model.name": " ".join(model["source"]["name"] for model in scored["models"]),
            "dataset.name": self.specs["tokenize"].config["dataset"]["name"],
            "sae.hook_point": _where(scored),
            "sae.architecture": self.row.section("sae").get("architecture"),
            **{name: cell.value for name, cell in self.row.cells.items() if cell.is_own and name not in _SHOWN},
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
        inputs = {
            f"{stage}/{row.row.name}": row.specs[stage].reference for row in self.rows for stage in ("eval", "train")
        }
        return spec_of("report", config, inputs)

    def specs(self, stage: str) -> list[Spec]:
        """The stage's specs, each once, in the order of the rows."""
        if stage == "report":
            return [self.report]
        return list(self._of_rows[stage].values())

    @cached_property
    def _of_rows(self) -> Mapping[str, Mapping[str, Spec]]:
        """The specs of every stage but the report, by key, in the order of the rows."""
        found: dict[str, dict[str, Spec]] = {stage: {} for stage in ROW_STAGES}
        for row in self.rows:
            for name, spec in row.specs.items():
                found[name.partition(".")[0]].setdefault(spec.key, spec)
        return found

    def passes(self, stage: str, together: int) -> list[list[Spec]]:
        """The stage's specs, grouped into what one job makes: in one forward pass, or over one stream of activations.

        Depends on the sweep alone and never on what is on disk, so that every engine sees the same jobs at any time.
        """
        groups: dict[Any, list[Spec]] = {}
        for spec in self.specs(stage):
            groups.setdefault(PASS_OF.get(stage, _alone)(spec), []).append(spec)
        limit = together if stage in ("train", "eval") else len(self.specs(stage))
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
    config = TrainConfig.model_validate({name: specs["train"].config[name] for name in TrainConfig.model_fields})
    if counts is not None or not config.steps:
        try:
            config.require_tokens(_usable_tokens(specs["train"].config, counts) if counts is not None else 0)
        except LmsaeError as error:
            # How many tokens there are depends on the row, wherever train.tokens stands.
            faults.append(replace(row.fault("train.tokens", str(error)), row=row.name))


def _usable_tokens(config: Mapping[str, Any], counts: Mapping[str, Any]) -> int:
    """Tokens of an epoch: those at positions that are not left out, or all of them where contexts are read whole."""
    by_position = counts["train_usable_by_position"]
    if train.reads_contexts(config):
        return (counts["train_contexts"] - counts["calibration_contexts"]) * len(by_position)
    first, last = config["skip_first_positions"], config["skip_last_positions"]
    return sum(by_position[first : len(by_position) - last])


def token_counts(spec: Spec, artifacts: Artifacts) -> dict[str, Any] | None:
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


_SHOWN = ("model.name", "model.others", "dataset.name", *(f"sae.{name}" for name in HOOK_POINTS))


def _where(scored: Mapping[str, Any]) -> str:
    """The hook points read, and those written if they are others."""
    names = [place["hook_point"] for place in scored["places"]]
    read, written = (
        " ".join(dict.fromkeys(names[number] for number in scored["sites"][side])) for side in ("reads", "writes")
    )
    return read if read == written else f"{read} -> {written}"


def _alone(spec: Spec) -> str:
    return spec.key


def _same(*names: str) -> Callable[[Spec], str]:
    def identity(spec: Spec) -> str:
        config = {name: spec.config[name] for name in names}
        return key_of(canonical_json([config, spec.inputs["tokens"]]))

    return identity


PASS_OF: dict[str, Callable[[Spec], Any]] = {
    "activations": _same("model", "batch_contexts", "source"),
    # Starting weights take seconds, as starting a job does.
    "init": lambda spec: spec.inputs["activations"],
    "eval": lambda spec: evaluate.pass_of(spec.config, spec.inputs),
    "train": lambda spec: train.stream_of(spec.config, spec.inputs),
}
