"""Numbers as text for people: counts, bytes, durations and shares. All commands and pages write them alike."""

import re
from collections.abc import Sequence

_THOUSANDS = ("", " k", " M", " G", " T", " P")


def format_count(number: float, digits: int = 3) -> str:
    """A count with a letter for thousands: `842`, `1.42 M`."""
    for unit in _THOUSANDS[:-1]:
        if abs(number) < 999.5:
            return f"{_round(number, digits)}{unit}"
        number /= 1000
    return f"{_round(number, digits)}{_THOUSANDS[-1]}"


def format_bytes(number: float, digits: int = 3) -> str:
    """A number of bytes, with decimal units: `842 bytes`, `1.42 GB`."""
    return f"{number:,.0f} bytes" if abs(number) < 999.5 else f"{format_count(number, digits)}B"


def format_duration(seconds: float, digits: int = 3) -> str:
    """A duration in seconds, minutes or hours: `0.42 s`, `12.3 min`, `3.4 h`."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60)):
        if seconds < limit:
            return f"{_round(seconds / size, digits)} {unit}"
    return f"{_round(seconds / 3600, digits)} h"


def format_age(seconds: float) -> str:
    """A long time in the unit that people would use: `12.3 min`, `3.4 h`, `12 d`."""
    return format_duration(seconds) if seconds < 48 * 3600 else f"{seconds / 86_400:,.0f} d"


def parse_age(text: str) -> float:
    """The seconds of an age as `gc` takes it: `12h`, `30d`, `8w`. Raises ValueError that says what was wanted."""
    return _parse(text, {"h": 3600, "d": 86_400, "w": 7 * 86_400}, "a number of hours, days or weeks, such as 12h, 30d")


def parse_bytes(text: str) -> float:
    """The bytes of a size with decimal units: `500MB`, `1.5 TB`. Raises ValueError that says what was wanted."""
    units = {f"{unit.strip()}b": 1000**power for power, unit in enumerate(_THOUSANDS)}
    return _parse(text, units, "a number of bytes with its unit, such as 500MB, 1.5TB")


def _parse(text: str, units: dict[str, int], wanted: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]+)", text.strip().lower())
    unit = next((size for name, size in units.items() if found and name.lower() == found[2]), None)
    if found is None or unit is None:
        raise ValueError(f"found {text!r}; wanted {wanted}")
    return float(found[1]) * unit


def format_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as lines of text, the columns side by side."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def format_share(share: float) -> str:
    """A share of a whole in percent: `12.5 %`."""
    return f"{100 * share:.1f} %"


def _round(number: float, digits: int) -> str:
    """A number with so many significant digits; a large one is written out, without an exponent."""
    rounded = float(f"{number:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"
