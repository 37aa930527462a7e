"""Frozen values, the canonical JSON that is their identity, and the key that it gives them."""

import contextlib
import hashlib
import json
import types
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict

KEY_DIGITS = 16

JsonObject = dict[str, Any]
"""A JSON object as `json` reads it. Whoever takes a value out of it knows what it is, or checks."""


class Frozen(BaseModel):
    """An immutable value that refuses fields it does not know. Its canonical JSON is its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, shortest floats that read back equal, no NaN."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_of(canonical: str) -> str:
    """The key of a canonical JSON text: the first 16 hex digits of its sha256."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_DIGITS]


def parse_cell(model: type[Frozen], name: str, value: object) -> object:
    """The value of a cell for a field: text is split where the field is a list, or read as a number as YAML does.

    Pydantic does the rest.
    """
    annotation = model.model_fields[name].annotation
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if not isinstance(value, str):
        return value
    if any(typing.get_origin(option) is tuple for option in options):
        return tuple(value.replace(",", " ").split())
    if {int, float} <= set(options):
        return _parse_number(value)
    return value


def _parse_number(text: str) -> int | float | str:
    """The integer or float that a text writes, else the text itself.

    Pydantic would take 1.0, which means all of the steps, for 1, which means a single one.
    """
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text
