"""Numbers as text for people: one way of writing each kind."""

import pytest

from lmsae.runtime.numbers import format_bytes, format_count, format_duration, format_share


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (842, "842"),
        (999.4, "999"),
        (999.5, "1 k"),
        (1420, "1.42 k"),
        (23_456_789, "23.5 M"),
        (999_600, "1 M"),
        (1e10, "10 G"),
        (3.5e12, "3.5 T"),
        (4e18, "4,000 P"),
        (0.0123, "0.0123"),
        (-1500, "-1.5 k"),
    ],
)
def test_a_count_has_three_digits_and_a_letter_for_thousands(number: float, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (842, "842 bytes"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (2.5e9, "2.5 GB")]
)
def test_bytes_have_decimal_units(number: float, text: str) -> None:
    assert format_bytes(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.423, "0.423 s"),
        (89.9, "89.9 s"),
        (90, "1.5 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (123_456, "34.3 h"),
        (12_345_678, "3,430 h"),
    ],
)
def test_a_duration_is_in_seconds_minutes_or_hours(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_an_estimate_is_written_with_fewer_digits() -> None:
    assert format_duration(765, digits=2) == "13 min"
    assert format_count(23_456_789, digits=2) == "23 M"


def test_a_share_is_a_percentage() -> None:
    assert format_share(0.1251) == "12.5 %"
