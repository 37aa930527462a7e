"""All checks of a row, each a function that names what it reads by its parameters and yields refusals (draft.py)."""

from lmsae.planning.checks import (
    learning,
    machine,
    parts,
    reaching,
    sharding,
    sparse_probes,
    starting,
    text,
    without_model,
)
from lmsae.planning.draft import Check

CHECKS: tuple[Check, ...] = (
    *text.CHECKS,
    *parts.CHECKS,
    *reaching.CHECKS,
    *learning.CHECKS,
    *machine.CHECKS,
    *sharding.CHECKS,
    *sparse_probes.CHECKS,
    *starting.CHECKS,
    *without_model.CHECKS,
)
