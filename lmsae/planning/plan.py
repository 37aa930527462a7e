"""The plan: rows -> specs -> passes. Nothing heavy is imported.

Both engines, `lmsae plan` and `lmsae run` call `make_plan`; whatever they run, they run these specs.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import Artifacts, Spec, write_atomically
from lmsae.artifacts.inside import require_reference
from lmsae.artifacts.planned import write_planned
from lmsae.errors import ConfigError, DamagedArtifact, Fault, gather_faults, suggest
from lmsae.planning.cells import Row
from lmsae.planning.listed import read_list
from lmsae.planning.resolver import Resolver
from lmsae.planning.sheet import EXPERIMENT, ROW_NAME, read, read_runtime
from lmsae.planning.specs import specs_of
from lmsae.planning.sweeps import Sweep, choose_results, origin_of
from lmsae.runtime.memory import keep_garbage
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.wandb_log import obstacle
from lmsae.stages import STAGES, imported
from lmsae.stages.origin import Origin
from lmsae.stages.row import PlannedRow


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep wants."""

    rows: Sequence[PlannedRow]
    sweep: Sweep | None = None
    """The sweep as it is noted beside the artifacts; None for a part of one."""
    is_whole: bool = True
    """False for some rows of a sweep. These want nothing that is made of all rows."""

    def choose(self, names: Sequence[str]) -> "Plan":
        """The plan of those rows; without names, of all. Raises ConfigError with every name that no row has."""
        if not names:
            return self
        known = [row.name for row in self.rows]
        if unknown := [name for name in dict.fromkeys(names) if name not in known]:
            where = str(self.sweep.origin) if self.sweep else "sweep"
            faults = [Fault(where, name, None, f"there is no such row{suggest(name, known)}") for name in unknown]
            raise ConfigError(faults)
        return replace(self, rows=[row for row in self.rows if row.name in names], is_whole=False)

    def of(self, sweep: Sweep) -> "Plan":
        """The plan of a sweep with these rows."""
        known = replace(self, sweep=sweep)
        known.__dict__["_by_stage"] = self._by_stage  # of the same rows
        return known

    def specs(self, stage: str) -> list[Spec]:
        """The stage's specs, each once, in the order of the rows."""
        return list(self._by_stage[stage].values())

    @cached_property
    def _by_stage(self) -> Mapping[str, Mapping[str, Spec]]:
        """The specs of every stage by reference, in the order of the rows."""
        found: dict[str, dict[str, Spec]] = {stage: {} for stage in STAGES}
        for row in self.rows:
            for spec in row.specs.values():
                found[spec.stage].setdefault(spec.reference, spec)
        for stage in STAGES.values():
            if stage.of_sweep and self.rows and self.is_whole:
                share = stage.of_sweep(self.rows)
                spec = stage.spec(share.config, share.inputs)
                found[stage.name][spec.reference] = spec
        return found

    def count_uses(self, stage: str) -> int:
        """The number of times that rows want an artifact of the stage; a shared one counts each time."""
        return len(self.rows) if STAGES[stage].of_sweep else sum(len(row.of(stage)) for row in self.rows)

    def names_of_rows(self, spec: Spec) -> list[str]:
        """The rows that want an artifact."""
        if STAGES[spec.stage].of_sweep and spec.reference in self._by_stage[spec.stage]:
            return [row.name for row in self.rows]
        return self._names_by_reference.get(spec.reference, [])

    @cached_property
    def _names_by_reference(self) -> Mapping[str, list[str]]:
        names: dict[str, list[str]] = {}
        for row in self.rows:
            for reference in dict.fromkeys(spec.reference for spec in row.specs.values()):
                names.setdefault(reference, []).append(row.name)
        return names

    def passes(self, stage: str, together: int) -> list[list[Spec]]:
        """The stage's specs, grouped by job: one forward pass, or one stream of activations.

        Depends on the sweep alone and never on what is on disk, so that every engine sees the same jobs at any time.
        """
        if (stage, together) not in self._passes:
            self._passes[stage, together] = self._group(stage, together)
        return self._passes[stage, together]

    @cached_property
    def _passes(self) -> dict[tuple[str, int], list[list[Spec]]]:
        return {}

    def _group(self, stage: str, together: int) -> list[list[Spec]]:
        groups: dict[Hashable, list[Spec]] = {}
        specs, shares = self.specs(stage), self._shares(stage, together)
        for spec in specs:
            groups.setdefault(shares(spec), []).append(spec)
        limit = together if STAGES[stage].fills_memory else max(len(specs), 1)
        return [group[i : i + limit] for group in groups.values() for i in range(0, len(group), limit)]

    def _shares(self, stage: str, together: int) -> Callable[[Spec], Hashable]:
        """The function that is equal for specs of one pass: that of the stage, or of the passes that it follows."""
        follows = STAGES[stage].follows
        if follows is None:
            return STAGES[stage].shares
        passes = enumerate(self.passes(STAGES[stage].inputs[follows], together))
        made_in = {spec.reference: number for number, group in passes for spec in group}
        return lambda spec: made_in[spec.inputs[follows]]

    def write_specs(self, artifacts: Artifacts) -> None:
        """Write every spec, those of rows into one file, and note the sweep that wants them."""
        self._write_planned(artifacts, forget=False)
        for stage in (stage for stage in STAGES if STAGES[stage].of_sweep):
            for spec in self.specs(stage):  # one, of many megabytes
                artifacts.add(spec)
        for row in self.rows:
            if row.finished:
                imported.note_source(artifacts.add(row.specs[imported.STAGE.name]), row.finished)
        if self.sweep:
            self.sweep.note(artifacts)

    def forget_earlier(self, artifacts: Artifacts) -> None:
        """Forget what earlier plans of the sweep wanted and this one does not."""
        self._write_planned(artifacts, forget=True)
        if self.sweep:
            self.sweep.note(artifacts)

    def _write_planned(self, artifacts: Artifacts, *, forget: bool) -> None:
        of_rows = dict[str, Spec]()
        for stage in (stage for stage in STAGES if STAGES[stage].configs):
            of_rows |= self._by_stage[stage]
        name = self.sweep.path(artifacts).stem if self.sweep else "plan"
        write_planned(artifacts.root, name, of_rows, forget=forget)

    def write(self, artifacts: Artifacts, together: int, name: str = "") -> None:
        """Write every spec, and `plan/<stage>.json`, the passes of each stage: what commands without keys work on."""
        self.write_specs(artifacts)
        folder = artifacts.root / "plan" / name
        folder.mkdir(parents=True, exist_ok=True)
        for stage in STAGES:
            passes = [[spec.reference for spec in group] for group in self.passes(stage, together)]
            text = json.dumps({"stage": stage, "passes": passes}, indent=1) + "\n"
            if not (folder / f"{stage}.json").exists() or (folder / f"{stage}.json").read_text() != text:
                write_atomically(folder / f"{stage}.json", text)


def passes_on_disk(stage: str, artifacts: Artifacts, name: str = "") -> list[list[str]]:
    """The references that the last written plan of a name wants of a stage, by pass.

    Raises ConfigError if there is no plan, DamagedArtifact if its file holds something else.
    """
    path = artifacts.root / "plan" / name / f"{stage}.json"
    if not path.exists():
        raise ConfigError([Fault(str(path), None, None, "there is no plan yet; write one with `lmsae plan`")])
    try:
        passes = json.loads(path.read_text())["passes"]
        found = [[require_reference(reference, path) for reference in group] for group in passes]
        if others := [one for group in found for one in group if not one.startswith(f"{stage}/")]:
            raise ValueError(f"{others[0]} is not of {stage}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path}: cannot be read as a plan ({error!r}); write it again with `lmsae plan`."
        raise DamagedArtifact(message) from None
    return found


def make_plan(rows: list[Row], artifacts: Artifacts, faults: Iterable[Fault] = ()) -> Plan:
    """Resolve every row to its specs. Raises ConfigError with the faults of all rows at once, after those `faults`
    that were found in reading them.

    If a row's tokens are on disk already, it is a fault to ask for more than there are. The rows lose their cells on
    the way: those of a large sheet take as much memory as its plan.
    """
    resolver, faults = Resolver(artifacts), list(faults)
    planned = []
    for number, row in enumerate(rows):
        rows[number] = replace(row, cells={})
        resolved = resolver.resolve(row, faults)
        if resolved is not None:
            specs = specs_of(resolved, resolver.texts)
            given = resolver.share(frozenset(row.cells))
            planned.append(PlannedRow(row.name, resolver.settings(resolved), given, specs, resolved.finished))
    resolver.digests.save()
    if not faults:
        faults = [*_find_twins(rows, planned)]
    if faults:
        raise ConfigError(gather_faults(faults))
    return Plan(planned)


def _find_twins(rows: Iterable[Row], planned: Iterable[PlannedRow]) -> Iterator[Fault]:
    """A fault for each row of a rule that wants just what another of that rule does: the report would take it for the
    same dictionary of another seed."""
    first: dict[Hashable, str] = {}
    for row, made in zip(rows, planned, strict=True):
        if row.rule is not None:
            wants = (row.rule, *(spec.reference for spec in made.specs.values()))
            other = first.setdefault(wants, row.name)
            if other != row.name:
                message = f"is the same as row {other}: nothing that differs between them means anything to it"
                yield row.fault(None, message)


def _name_of(config: Path | Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The name of a single experiment, which may be several rows by a rule."""
    written = rows[0].rule or rows[0].name
    of_file = config.stem if isinstance(config, Path) else EXPERIMENT
    return next((name for name in (written, of_file) if ROW_NAME.fullmatch(name)), rows[0].name)


def plan_of(
    config: Path | Mapping[str, Any],
    sheet: Path | None,
    overrides: Iterable[str],
    flags: Mapping[str, Any],
    *,
    name: str | None = None,
) -> tuple[Plan, Runtime]:
    """The plan of what the user wrote, and how to work on it. Raises ConfigError with every fault at once.

    `flags` win over the config's `runtime` section, and `name` over the name of a single experiment. `results` of the
    runtime becomes the folder that is this sweep's own.
    """
    faults: list[Fault] = []
    runtime = read_runtime(config, flags, faults)
    faults += _faults_of_logging(config, runtime)
    rows = read(config, sheet, overrides, faults, name=name)
    is_named = name is not None or "name" in config if isinstance(config, Mapping) else True
    own_name = _name_of(config, rows) if rows else ""
    return plan_rows(rows, runtime, lambda wants: origin_of(config, sheet, own_name, is_named, wants), faults)


def _faults_of_logging(config: Path | Mapping[str, Any], runtime: Runtime) -> Iterator[Fault]:
    """A fault if nothing could be sent to Weights & Biases."""
    if reason := obstacle(runtime.wandb):
        yield Fault(config.name if isinstance(config, Path) else EXPERIMENT, None, "runtime.wandb.mode", reason)


def plan_of_list(
    rows: Sequence[Mapping[str, Any]], shared: Path | Mapping[str, Any], name: str | None, flags: Mapping[str, Any]
) -> tuple[Plan, Runtime]:
    """The plan of rows that Python lists (lmsae/planning/listed.py), and how to work on it, as `plan_of` has them. A
    sweep that nobody named is called after what it wants."""
    faults: list[Fault] = []
    runtime = read_runtime(shared, flags, faults)
    faults += _faults_of_logging(shared, runtime)
    listed = read_list(rows, shared, faults)
    return plan_rows(listed, runtime, lambda wants: origin_of({}, None, name or "sweep", bool(name), wants), faults)


def plan_rows(
    rows: list[Row], runtime: Runtime, origin_of_wants: Callable[[object], Origin], faults: Iterable[Fault]
) -> tuple[Plan, Runtime]:
    """The plan of rows that were read with these faults, and the runtime with the folder of results that is their own.

    `origin_of_wants` tells their origin by the references that each wants. Raises ConfigError with every fault.
    """
    artifacts = Artifacts.of(runtime)
    with keep_garbage():
        plan = make_plan(rows, artifacts, faults)
    wants = {row.name: [spec.reference for spec in row.specs.values()] for row in plan.rows}
    origin = origin_of_wants(wants)
    asked_for = "results" in runtime.model_fields_set
    runtime = runtime.model_copy(
        update={"results": choose_results(origin, runtime.results, artifacts, is_asked_for=asked_for)}
    )
    wants[""] = [spec.reference for stage in STAGES.values() if stage.of_sweep for spec in plan.specs(stage.name)]
    return plan.of(Sweep(origin, runtime.results, wants)), runtime
