"""Numbers as people read them: counts, bytes and durations."""


def format_count(number: float) -> str:
    """A number to three digits, with a letter for its thousands: `1.42M`."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def format_bytes(number: float) -> str:
    """A number of bytes: `512 bytes`, `1.42GB`."""
    return f"{number:,.0f} bytes" if number < 1000 else f"{format_count(number)}B"
