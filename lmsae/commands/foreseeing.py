"""Foreseeing: a pass is refused if what it makes would be of no use, since a stage behind it cannot be made."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.errors import ConfigError, NotEnoughTokens
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
    """Artifacts that the last written plan wants of them; none without a plan."""
    found: dict[str, str] = {}
    for stage in (stage for stage in STAGES.values() if stage.require):
        with suppress(ConfigError):
            found |= {one: one for group in passes_on_disk(stage.name, artifacts) for one in group}
    return found


def require_use(references: Sequence[str], wanted: Wanted, artifacts: Artifacts, device: str) -> None:
    """Raise NotEnoughTokens if a stage that takes any of these artifacts can never be made.

    It is known only now: the plan was made before there were tokens to count.
    """
    missing = {reference for reference in references if not artifacts[reference].is_finished}
    if not missing:
        return
    outlook, reasons = Estimator(artifacts, device), dict[str, list[str]]()
    for reference, rows in wanted.items():
        spec = outlook.spec(reference)
        require = STAGES[spec.stage].require
        if require and missing & {*spec.inputs.values()} and not artifacts[reference].is_finished:
            try:
                require(spec, outlook)
            except NotEnoughTokens as error:
                reasons.setdefault(str(error), []).append(rows)
    if reasons:
        raise NotEnoughTokens("\n".join(f"{'; '.join(rows)}: {reason}" for reason, rows in reasons.items()))
