"""Mixtures: several texts in one stream, each with a share of its tokens.

    0.7*HuggingFaceFW/fineweb?subset=sample-10BT 0.3*allenai/WildChat-1M?messages_column=conversation

Each text is shuffled, split and packed by itself, exactly as it would be alone. Then whole contexts are interleaved. So
a share is a share of the tokens, whatever the lengths of documents, and every stretch of the stream keeps it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

import numpy as np

from lmsae.errors import SourceError

_BEGINS = re.compile(r"\s*[0-9.]+\*")
_WORD = re.compile(r"(?P<weight>[^*\s]+)\*(?P<name>[^?\s]+)(\?(?P<fields>\S+))?")


@dataclass(frozen=True, slots=True)
class Part:
    """One text of a mixture: its weight, its name, and the `dataset.*` columns written for it alone."""

    weight: float
    name: str
    fields: dict[str, str]


def is_mixture(name: str) -> bool:
    """True if a `dataset.name` is written as a mixture: it begins with a weight and an asterisk."""
    return _BEGINS.match(name) is not None


def parts_of(name: str) -> list[Part]:
    """The parts of a mixture, with weights that add up to one. Raises SourceError for one that is not well written."""
    parts = [_parse_part(word) for word in name.split()]
    total = math.fsum(part.weight for part in parts)
    return [Part(part.weight / total, part.name, part.fields) for part in parts]


def interleave(weights: Sequence[float], available: Sequence[int], most: int | None) -> np.ndarray:
    """The number of the text that each context of a mixture comes from, int (contexts,).

    The n-th context of a text is due at (n - 1/2) / weight, and contexts come in the order in which they are due
    (Webster's method). Of the first j contexts a text of weight w has w * j, give or take half of 1 + (the number of
    texts) * w. The mixture ends after `most` contexts, or where a text has no context left when one is due.
    """
    counts = [count if most is None else min(count, most) for count in available]
    due = [(np.arange(count + 1) + 0.5) / weight for count, weight in zip(counts, weights, strict=True)]
    order = np.argsort(np.concatenate(due), kind="stable")
    text = np.repeat(np.arange(len(counts)), [len(times) for times in due])[order]
    exhausted = np.isin(order, np.cumsum([len(times) for times in due]) - 1)  # the last time of each stands for its end
    return text[: np.argmax(exhausted)][:most]


def find_first_exhausted(weights: Sequence[float], available: Sequence[int]) -> int:
    """The number of the text that ends first in a mixture without a limit, and so ends the mixture."""
    return int(np.argmin((np.array(available) + 0.5) / np.array(weights)))


def _parse_part(word: str) -> Part:
    found = _WORD.fullmatch(word)
    try:
        weight = float(found["weight"]) if found else 0.0
        fields = dict(parse_qsl(found["fields"] or "", keep_blank_values=True, strict_parsing=True)) if found else {}
    except ValueError:
        weight, fields = 0.0, {}
    if not found or not 0 < weight < math.inf:
        raise SourceError(
            f"dataset.name: {word!r} is no part of a mixture; wanted WEIGHT*NAME or WEIGHT*NAME?COLUMN=VALUE&..., with "
            "a weight above 0 and columns of `dataset`, such as 0.3*allenai/WildChat-1M?messages_column=conversation"
        )
    return Part(weight, found["name"], fields)
