"""Checks applied to what a test knows of a row."""

from lmsae.errors import Fault
from lmsae.planning.checks import CHECKS
from lmsae.planning.draft import Draft
from lmsae.planning.remembering import Memory
from lmsae.planning.sheet import Row


def refusals(**known: object) -> list[tuple[str | None, str]]:
    """The columns and messages for which a row is refused of which so much is known."""
    faults: list[Fault] = []
    draft = Draft(Row("a", "sweep.tsv"), faults, known)
    draft.run(CHECKS, Memory())
    return [(fault.column, fault.message) for fault in faults]
