"""Frozen, the base of everything that has an identity, and the hash that gives it one."""

import contextlib
import hashlib
import json
import types
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict

KEY_DIGITS = 16


class Frozen(BaseModel):
    """An immutable value that refuses fields it does not know. Its canonical JSON is its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, shortest floats that read back equal, no NaN."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_of(canonical: str) -> str:
    """The key of a canonical JSON text: the first 16 hex digits of its sha256."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_DIGITS]


def typed(model: type[Frozen], name: str, value: Any) -> Any:
    """A cell's text as a list where the field is one, or as the number that YAML would read; pydantic does the rest."""
    annotation = model.model_fields[name].annotation
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if not isinstance(value, str):
        return value
    if any(typing.get_origin(option) is tuple for option in options):
        return tuple(value.replace(",", " ").split())
    if {int, float} <= set(options):
        return _number(value)
    return value


def _number(text: str) -> Any:
    """The integer or float that a text is. Pydantic would take 1.0, all of the steps, for 1, a single one."""
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text
