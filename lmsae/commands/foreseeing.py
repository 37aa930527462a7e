"""Foreseeing: an artifact is refused if it would be of no use, since no stage behind it can be made, or if the memory
that it needs is not there."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.errors import ConfigError, DamagedArtifact, LmsaeError, NoMemoryError, NotEnoughTokens
from lmsae.planning.estimates import Estimator
from lmsae.planning.plan import Plan, passes_on_disk
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES
from lmsae.stages.fitting import TOLERANCE, Room
from lmsae.stages.footprint import Footprint
from lmsae.stages.stage import Stage

Wanted = Mapping[str, str]
"""The references that stages which `require` something are to make, and for each the rows that want it, if known."""


def wanted_by(plan: Plan) -> Wanted:
    """Artifacts that a plan wants of the stages that require something."""
    specs: Iterable[Spec] = (spec for stage in STAGES.values() if stage.require for spec in plan.specs(stage.name))
    return {spec.reference: f"row {', '.join(plan.names_of_rows(spec))}" for spec in specs}


def wanted_on_disk(artifacts: Artifacts, plan: str = "") -> Wanted:
    """Artifacts that the last written plan wants of them; none without a plan, or if it is damaged: a job that was told
    what to make goes on without it."""
    found: dict[str, str] = {}
    for stage in (stage for stage in STAGES.values() if stage.require):
        with suppress(ConfigError, DamagedArtifact):
            found |= {one: one for group in passes_on_disk(stage.name, artifacts, plan) for one in group}
    return found


def find_useless(
    references: Sequence[str], wanted: Wanted, artifacts: Artifacts, device: str, specs: dict[str, Spec]
) -> dict[str, NotEnoughTokens]:
    """Those of some artifacts that are of no use, for no stage that takes them can ever be made; each with the reasons.

    It is known only now: the plan was made before there were tokens to count. `specs` has those that are known, by
    reference, and those that are read are added.
    """
    missing = {reference for reference in references if not artifacts[reference].is_finished}
    if not missing:
        return {}
    outlook, reasons = Estimator(artifacts, device, specs), dict[str, dict[str, list[str]]]()
    for reference, rows in wanted.items():
        spec = outlook.spec(reference)
        taken = missing & {*spec.inputs.values()}
        if not taken or artifacts[reference].is_finished:
            continue
        if reason := _refuse(spec, outlook):
            for one in taken:
                reasons.setdefault(one, {}).setdefault(reason, []).append(rows)
        else:
            missing -= taken
    return {
        one: NotEnoughTokens("\n".join(f"{'; '.join(rows)}: {reason}" for reason, rows in reasons[one].items()))
        for one in references
        if one in missing and one in reasons
    }


def _refuse(spec: Spec, outlook: Estimator) -> str | None:
    """The reason why an artifact can never be made; None if there is none."""
    require = STAGES[spec.stage].require
    try:
        if require:
            require(spec, outlook)
    except NotEnoughTokens as error:
        return str(error)
    return None


def divide_to_fit(
    stage: Stage, references: Sequence[str], artifacts: Artifacts, runtime: Runtime
) -> tuple[list[list[str]], dict[str, NoMemoryError]]:
    """The artifacts of some passes in groups that fit into memory one after the other, and the errors of those that do
    not fit by themselves.

    Company never changes an artifact, so smaller passes make the same. Only artifacts that fill memory are divided;
    others of a pass are made one after the other anyway.
    """
    missing = [reference for reference in references if not artifacts[reference].is_finished]
    outlook, errors = Estimator(artifacts, runtime.device), dict[str, NoMemoryError]()
    alone = {one: found for one in missing if (found := _memory(stage, [outlook.spec(one)], outlook))}
    room = _room(runtime) if alone else None
    if room is None:
        return [[*references]] if references else [], {}
    for reference, footprint in alone.items():
        if lack := room.lack(footprint, at_least=1 - TOLERANCE):
            errors[reference] = NoMemoryError(f"{stage.name} {lack}.")
    groups: list[list[str]] = [[]]
    for reference in (one for one in references if one not in errors):
        if stage.fills_memory and reference in alone:
            spec = outlook.spec(reference)
            beside = [other for one in groups[-1] if one in alone and _share(stage, other := outlook.spec(one), spec)]
            together = _memory(stage, [*beside, spec], outlook)
            groups += [[]] if beside and together and room.lack(together) else []
        groups[-1].append(reference)
    return [group for group in groups if group], errors


def _share(stage: Stage, one: Spec, other: Spec) -> bool:
    return stage.shares(one) == stage.shares(other)


def _memory(stage: Stage, specs: Sequence[Spec], outlook: Estimator) -> Footprint | None:
    """The memory of a pass; None where nobody knows it. What is wrong with a spec or an input its job will say."""
    try:
        return stage.effort.memory(specs, outlook)
    except (LmsaeError, ValueError, KeyError):
        return None


def _room(runtime: Runtime) -> Room | None:
    """The memory that this process has; None for a device that this machine has not, as the job will say."""
    try:
        return Room.of_job(runtime)
    except ConfigError:
        return None
