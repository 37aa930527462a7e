"""Numbers as text for people: counts, bytes, durations and shares. All commands and pages write them alike."""

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


def format_share(share: float) -> str:
    """A share of a whole in percent: `12.5 %`."""
    return f"{100 * share:.1f} %"


def _round(number: float, digits: int) -> str:
    """A number with so many significant digits; a large one is written out, without an exponent."""
    rounded = float(f"{number:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"
