"""Frozen values, their canonical JSON, and the key that it gives them."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmsae.config import Frozen, canonical_json, key_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Point(Frozen):
    x: float
    y: float = 0.5


def test_canonical_json_is_sorted_dense_and_shortest() -> None:
    assert canonical_json({"b": 0.1, "a": [1, None, True], "é": 1e-05}) == '{"a":[1,null,true],"b":0.1,"é":1e-05}'


@given(JSON)
def test_canonical_json_reads_back_as_the_same_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=5))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_what_is_not_a_number_has_no_canonical_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"lr": float("nan")})


def test_a_key_is_the_beginning_of_the_sha256() -> None:
    assert key_of("{}") == hashlib.sha256(b"{}").hexdigest()[:16] == "44136fa355b3678a"


def test_a_default_written_out_gives_the_same_json_as_one_left_out() -> None:
    assert canonical_json(Point(x=1)) == canonical_json(Point(x=1.0, y=0.5)) == '{"x":1.0,"y":0.5}'


def test_a_frozen_value_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Point(x=1).x = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_a_frozen_value_refuses_fields_that_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Point(x=1, z=2)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf"])
def test_a_frozen_value_refuses_numbers_that_have_no_json(value: object) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Point.model_validate({"x": value})
