"""Running a plan, or one stage of it, in this process: what every engine's jobs come down to.

One row's failure never costs another row's result: passes go on, and what failed is told when all else is made.
"""

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmsae.artifacts.artifact import Artifacts, Spec, write_atomically
from lmsae.commands.finding import find_noted
from lmsae.commands.foreseeing import Wanted, divide_to_fit, find_useless, wanted_by, wanted_on_disk
from lmsae.commands.logging_pages import pages_of
from lmsae.config import canonical_json, key_of
from lmsae.errors import LmsaeError, MissingArtifact, Unmade
from lmsae.planning.plan import Plan, passes_on_disk
from lmsae.planning.sweeps import known_sweeps
from lmsae.runtime.memory import explain_no_memory
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.wandb_log import with_pages
from lmsae.stages import STAGES
from lmsae.stages.making import Outcome, try_artifacts
from lmsae.stages.origin import Origin
from lmsae.stages.stage import Stage

Say = Callable[[str], None]
Destination = tuple[Path, Origin | None]
"""A folder of results, and the sweep that it is for if that is known."""
Destinations = Callable[[str], Sequence[Destination]]


def run_plan(plan: Plan, runtime: Runtime, say: Say = print, show: Say = lambda summary: None) -> None:
    """Make every artifact of a plan, stage by stage, and publish to `runtime.results`. `say` is told how it goes, and
    `show` in the end what is there to see.

    What failed is raised when all else is made: its own error for a plan of one row, else Unmade.
    """
    work = _run(plan, runtime, say, show)
    rows = {spec.reference: plan.names_of_rows(spec) for stage in STAGES for spec in plan.specs(stage)}
    work.require_made(rows if len(plan.rows) > 1 else {})


def try_plan(plan: Plan, runtime: Runtime) -> Mapping[str, Exception]:
    """Make and publish every artifact of a plan, in silence; returns the errors of those that failed, by reference."""
    return _run(plan, runtime, lambda line: None, lambda summary: None).outcome.failures


def _run(plan: Plan, runtime: Runtime, say: Say, show: Say) -> "_Work":
    artifacts = Artifacts.of(runtime)
    origin = plan.sweep.origin if plan.sweep else None
    plan.write_specs(artifacts)
    work = _Work(artifacts, runtime, say, show, wanted_by(plan), lambda reference: [(runtime.results, origin)])
    work.specs.update((spec.reference, spec) for stage in STAGES for spec in plan.specs(stage))
    for stage in (stage for stage in STAGES.values() if plan.specs(stage.name)):
        work.run(stage, [[spec.reference for spec in group] for group in plan.passes(stage.name, runtime.together)])
    return work


def run_stage(
    stage: str,
    keys: Sequence[str],
    runtime: Runtime,
    say: Say = print,
    show: Say = lambda summary: None,
    *,
    results: Path | None = None,
    plan: str = "",
) -> None:
    """Make the artifacts of a stage that are named by key or row; without names, those that the plan on disk of the
    name `plan` wants, and index them.

    What is published goes to `results`, or else to the folder of each sweep that wants it. What failed is raised when
    all else is made: of several failures, Unmade.
    """
    artifacts = Artifacts.of(runtime)

    def destinations(reference: str) -> list[Destination]:
        sweeps = [] if results else [one for one in known_sweeps(artifacts) if reference in one.references]
        return [(one.results, one.origin) for one in sweeps] or [(results or runtime.results, None)]

    work = _Work(artifacts, runtime, say, show, wanted_on_disk(artifacts, plan), destinations)
    if keys:
        references = dict.fromkeys(one.reference for key in keys for one in find_noted(key, artifacts, stage))
        work.run(STAGES[stage], [[*references]])
        work.require_made({})
    else:
        passes = passes_on_disk(stage, artifacts, plan)
        work.run(STAGES[stage], passes)
        work.require_made({})
        write_index(stage, [reference for group in passes for reference in group], artifacts, plan)


def write_index(stage: str, references: Sequence[str], artifacts: Artifacts, plan: str = "") -> None:
    """Write `index/<stage>.json`, or `index/<plan>/<stage>.json`: a digest of each artifact's manifest by its
    reference; the same bytes anywhere."""
    manifests = {reference: artifacts[reference].manifest() for reference in sorted(references)}
    path = artifacts.root / "index" / plan / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    digests = {reference: key_of(canonical_json(manifest)) for reference, manifest in manifests.items()}
    write_atomically(path, json.dumps(digests, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class _Work:
    """Passes that are run one after the other, and what became of their artifacts."""

    artifacts: Artifacts
    runtime: Runtime
    say: Say
    show: Say
    wanted: Wanted
    destinations: Destinations
    outcome: Outcome = field(default_factory=Outcome)
    lost: set[str] = field(default_factory=set)
    """The artifacts that need one that has failed."""
    specs: dict[str, Spec] = field(default_factory=dict)
    """Those that are known, by reference: every pass asks for those of all that may be of no use."""

    def run(self, stage: Stage, passes: Sequence[Sequence[str]]) -> None:
        """Make and publish the artifacts of some passes of a stage, but for those that need what has failed."""
        asked = [reference for references in passes for reference in references]
        before, made_of = len(self.outcome.made), {}
        for references in passes:
            chosen = {one: fewer for one in references if (fewer := self._choose(stage, one))}
            self._foresee(stage, list(chosen.values()))
            made_of |= chosen
        made = self.outcome.made[before:]
        there = sum(self.artifacts[reference].is_finished for reference in {*asked}.difference(made))
        failed = sum(reference in self.outcome.failures for reference in asked)
        self.say(f"{stage.name}: {len(made)} made, {there} there already" + (f", {failed} failed" if failed else ""))
        if stage.publisher:
            for reference, one in made_of.items():
                for results, origin in self.destinations(reference) if self.artifacts[one].is_finished else ():
                    stage.publisher.publish(self.artifacts[one], self.artifacts, results, origin)
                    self.show(stage.publisher.summarize(results))

    def require_made(self, rows: Mapping[str, Sequence[str]]) -> None:
        """Raise what failed, if anything did. `rows` has the names of the rows that want an artifact, if there are
        several rows."""
        failures = self.outcome.failures
        if not rows:
            self.outcome.require_made()
        elif failures:
            lines = [f"  {one}{_format_rows(rows.get(one, ()))}: {_describe(one, failures[one])}" for one in failures]
            raise Unmade("\n".join([f"{len(lines)} failed; all that need none of them are made.", *lines]), failures)

    def _choose(self, stage: Stage, reference: str) -> str | None:
        """The artifact to make in the place of one that is asked for: itself, or one of those inputs that are there;
        None if it needs what has failed, or would be of no use."""
        if self.artifacts[reference].is_finished:
            return reference
        try:
            spec = self.artifacts[reference].spec()
        except LmsaeError as error:
            self.outcome.failures[reference] = error
            return None
        inputs = set(spec.inputs.values())
        finished = {one for one in inputs if self.artifacts[one].is_finished}
        if stage.lessen and len(finished) < len(inputs) and (lessened := stage.lessen(spec, finished)):
            message = f"{len(inputs - finished)} of its {len(inputs)} inputs are not finished"
            self.outcome.failures[reference] = MissingArtifact(f"{message}; {lessened.reference} is made of the others")
            return self.artifacts.add(lessened).reference
        if inputs & (self.lost | self.outcome.failures.keys()):
            self.lost.add(reference)
            return None
        return reference

    def _foresee(self, stage: Stage, references: Sequence[str]) -> None:
        """Make those artifacts of a pass that are of use and fit into memory, in as many passes as that takes."""
        useless = find_useless(references, self.wanted, self.artifacts, self.runtime.device, self.specs)
        self.outcome.failures.update(useless)
        useful = [reference for reference in references if reference not in useless]
        groups, too_large = divide_to_fit(stage, useful, self.artifacts, self.runtime)
        self.outcome.failures.update(too_large)
        if len(groups) > 1:
            self.say(f"{stage.name}: {len(groups)} passes in the place of one, which does not fit into memory")
        for group in groups:
            self._try(stage, group)

    def _try(self, stage: Stage, references: Sequence[str]) -> None:
        """Make artifacts. What goes wrong with all of them at once is the failure of each that is not finished."""
        try:
            with with_pages(pages_of(references, self.artifacts, self.runtime)):
                outcome = try_artifacts(stage, references, self.artifacts, self.runtime)
        except Exception as error:
            told = explain_no_memory(error, stage.name, stage.effort.lessen)
            unfinished = [one for one in references if not self.artifacts[one].is_finished]
            if not (unfinished and isinstance(told, LmsaeError | OSError)):
                raise
            outcome = Outcome(failures=dict.fromkeys(unfinished, told))
        for error in dict.fromkeys(outcome.failures.values()):
            if not isinstance(error, LmsaeError | OSError):
                traceback.print_exception(error, file=sys.stderr)
            for one in (error, error.__cause__):  # their frames hold what was in memory
                traceback.clear_frames(one.__traceback__ if one else None)
        self.outcome.add(outcome)


def _format_rows(names: Sequence[str]) -> str:
    return f" (row{'s' if len(names) > 1 else ''} {', '.join(names)})" if names else ""


def _describe(reference: str, error: Exception) -> str:
    """The words of an error about an artifact; with its class if nobody has foreseen it: its traceback was printed."""
    if isinstance(error, LmsaeError | OSError):
        return str(error).removeprefix(f"{reference}: ")
    return f"{type(error).__name__}: {error}"
