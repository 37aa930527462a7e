"""Foreseeing: an artifact is refused if it would be of no use, since no stage behind it can be made."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.errors import ConfigError, DamagedArtifact, NotEnoughTokens
from lmsae.planning.estimates import Estimator
from lmsae.planning.plan import Plan, passes_on_disk
from lmsae.stages import STAGES

Wanted = Mapping[str, str]
"""The references that stages which `require` something are to make, and for each the rows that want it, if known."""


def wanted_by(plan: Plan) -> Wanted:
    """Artifacts that a plan wants of the stages that require something."""
    specs: Iterable[Spec] = (spec for stage in STAGES.values() if stage.require for spec in plan.specs(stage.name))
    return {spec.reference: f"row {', '.join(plan.names_of_rows(spec))}" for spec in specs}


def wanted_on_disk(artifacts: Artifacts) -> Wanted:
    """Artifacts that the last written plan wants of them; none without a plan, or if it is damaged: a job that was told
    what to make goes on without it."""
    found: dict[str, str] = {}
    for stage in (stage for stage in STAGES.values() if stage.require):
        with suppress(ConfigError, DamagedArtifact):
            found |= {one: one for group in passes_on_disk(stage.name, artifacts) for one in group}
    return found


def find_useless(
    references: Sequence[str], wanted: Wanted, artifacts: Artifacts, device: str
) -> dict[str, NotEnoughTokens]:
    """Those of some artifacts that are of no use, for no stage that takes them can ever be made; each with the reasons.

    It is known only now: the plan was made before there were tokens to count.
    """
    missing = {reference for reference in references if not artifacts[reference].is_finished}
    if not missing:
        return {}
    outlook, reasons = Estimator(artifacts, device), dict[str, dict[str, list[str]]]()
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
