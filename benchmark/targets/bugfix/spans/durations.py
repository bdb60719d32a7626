"""Durations as text, and back."""

import re

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
PART = re.compile(r"(\d+)([dhms])")


def parse(text: str) -> int:
    """Seconds of a duration like "1d 2h 3m 4s". Parts come in any order and may repeat, spaces do
    not matter, and a minus in front holds for the whole.
    """
    total = 0
    for number, unit in PART.findall(text):
        total += int(number) * UNITS[unit]
        if text.startswith("-"):
            total = -total
    return total


def spell(seconds: int) -> str:
    """The shortest way to say it with whole parts, largest first: "1d 4s". Nothing is "0s"; what is
    below zero has a minus in front of the whole.
    """
    parts = []
    sign = "-" if seconds < 0 else ""
    seconds = abs(seconds)
    for unit, size in UNITS.items():
        if seconds > size:
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return sign + (" ".join(parts) or "0s")
