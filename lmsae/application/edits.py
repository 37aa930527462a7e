"""Edits of latents as a person writes them on a command line: 7+=5, 7-=5, 7=5, 7=0."""

import re
from collections.abc import Iterable

from lmsae.errors import ConfigError, Fault

_EDIT = re.compile(r"(\d+)(\+=|-=|=)(.+)")


def parse_edits(edits: Iterable[str]) -> tuple[dict[int, float], dict[int, float]]:
    """The amounts to add and the codes to clamp to, by latent. Raises ConfigError with every fault at once."""
    add: dict[int, float] = {}
    clamp: dict[int, float] = {}
    faults = []
    for edit in edits:
        match = _EDIT.fullmatch(edit.replace(" ", ""))
        amount = _number(match[3]) if match else None
        if match is None or amount is None:
            wanted = "wanted: LATENT+=AMOUNT or LATENT-=AMOUNT to add, LATENT=CODE to clamp, LATENT=0 to ablate"
            faults.append(Fault(edit, None, None, f"is no edit of a latent; {wanted}, as in 7+=5"))
            continue
        latent = int(match[1])
        if latent in add or latent in clamp:
            faults.append(Fault(edit, None, None, f"latent {latent} is edited twice"))
        elif match[2] == "=":
            clamp[latent] = amount
        else:
            add[latent] = amount if match[2] == "+=" else -amount
    if faults:
        raise ConfigError(faults)
    return add, clamp


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
