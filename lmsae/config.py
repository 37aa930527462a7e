"""Frozen values, the canonical JSON that is their identity, and the key that it gives them."""

import contextlib
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, InitErrorDetails

KEY_DIGITS = 16
LARGEST = 2**63 - 1
"""The largest whole number that every library below can count with."""
POINTS_OF_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
"""100.000 and the like, which half of Europe writes for 100,000."""
COMMA_OF_DECIMALS = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")

JsonObject = dict[str, Any]
"""A JSON object as `json` reads it. Whoever takes a value out of it knows what it is, or checks."""


class Frozen(BaseModel):
    """An immutable value that refuses fields it does not know. Its canonical JSON is its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def with_from(description: str) -> type[Frozen]:
    """A config with one field, `from`: the name of something finished. Python keeps the word, so that no class body can
    have it."""
    fields: dict[str, Any] = {"from": (str | None, Field(default=None, description=description))}
    return create_model("From", __base__=Frozen, **fields)


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, shortest floats that read back equal, no NaN."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_of(*canonical: str) -> str:
    """The key of a canonical JSON text, whole or in pieces: the first 16 hex digits of its sha256."""
    digest = hashlib.sha256()
    for piece in canonical:
        digest.update(piece.encode())
    return digest.hexdigest()[:KEY_DIGITS]


Config = TypeVar("Config", bound=BaseModel)


def parse_json(text: str, **options: Any) -> Any:
    """The value of a JSON text, with the options of `json.loads`. Raises ValueError if it is none or nests deeply."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def parse_float(text: str) -> float | str:
    """A number with a point in a config file; 100.000 and the like stay text, which no whole number may be."""
    return text if POINTS_OF_THOUSANDS.fullmatch(text) else float(text)


def read_cells(model: type[Config], cells: Mapping[str, object]) -> Config:
    """Such a config of cells by field. Raises pydantic's ValidationError with the faults of all cells."""
    values: dict[str, object] = {}
    faults: list[InitErrorDetails] = []
    for name, cell in cells.items():
        try:
            values[name] = parse_cell(model, name, cell) if name in model.model_fields else cell
        except ValueError as error:
            faults.append(_fault(name, cell, str(error)))
    try:
        made = model.model_validate(values)
    except ValidationError as error:
        told = [fault.get("loc") for fault in faults]
        faults += [_again(problem) for problem in error.errors() if problem["loc"] not in told]
    else:
        large = [name for name, value in made if isinstance(value, int) and abs(value) > LARGEST]
        faults += [_fault(name, cells[name], f"wanted: a number of at most {LARGEST:,}") for name in large]
        if not faults:
            return made
    raise ValidationError.from_exception_data(model.__name__, faults)


def _fault(name: str, cell: object, message: str) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=(name,), input=cell, ctx={"error": message})


def _again(problem: ErrorDetails) -> InitErrorDetails:
    kept = problem.get("ctx", {})
    return InitErrorDetails(type=problem["type"], loc=problem["loc"], input=problem["input"], ctx=kept)


def parse_cell(model: type[BaseModel], name: str, value: object) -> object:
    """The value of a cell for a field: text is split where the field is a list, or read as a number as YAML does.

    Pydantic does the rest. Raises ValueError for text that is no text, and for what computers read as another whole
    number than people do.
    """
    for text in value if isinstance(value, list | tuple) else (value,):
        if isinstance(text, str):
            _require_text(text)
    annotation = model.model_fields[name].annotation
    options = _options(annotation)
    if takes_words(annotation):
        words = tuple(value.replace(",", " ").split()) if isinstance(value, str) else value
        if _holds_whole_numbers(annotation):
            for word in words if isinstance(words, list | tuple) else ():
                _refuse_points_of_thousands(word, ())
        return words
    if not isinstance(value, str):
        return value
    if int in options:
        _refuse_points_of_thousands(value, options)
    if float in options and COMMA_OF_DECIMALS.fullmatch(value.strip()):
        raise ValueError(f"a number has a point and no comma: write {value.strip().replace(',', '.')}")
    if {int, float} <= set(options):
        return _parse_number(value)
    return value


def _refuse_points_of_thousands(value: object, options: tuple[object, ...]) -> None:
    if isinstance(value, str) and POINTS_OF_THOUSANDS.fullmatch(value.strip()):
        whole, number = value.strip().replace(".", ""), value.strip().partition(".")[0]
        share = ".0" if float in options else ""
        raise ValueError(
            f"a point does not separate thousands: write {whole} or {int(whole):_}, or else {number}{share}"
        )


def _holds_whole_numbers(annotation: object) -> bool:
    """True if the values of a field of this type are lists of whole numbers."""
    return any(int in typing.get_args(option) for option in _options(annotation) if typing.get_origin(option) is tuple)


def takes_words(annotation: object) -> bool:
    """True if the values of a field of this type are lists, which a cell has as words."""
    return any(typing.get_origin(option) is tuple for option in _options(annotation))


def _options(annotation: object) -> tuple[object, ...]:
    return typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)


def _require_text(text: str) -> None:
    if "\0" in text:
        raise ValueError("it holds a NUL character, which no name or path can have")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start + 1} is half a surrogate pair, which is no text") from None


def _parse_number(text: str) -> int | float | str:
    """The integer or float that a text writes, else the text itself.

    Pydantic would take 1.0, which means all of the steps, for 1, which means a single one.
    """
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text
