"""Frozen, the base of everything that has an identity, and the hash that gives it one."""

import hashlib
import json
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
