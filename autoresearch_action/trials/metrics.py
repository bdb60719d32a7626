"""What a command printed: metrics, document blocks and progress lines, read line by line and
bounded.

A metric is a line `name: value`, `METRIC name=value`, or a JSON object of numbers; the last one
counts and how often a name came is known. Lines longer than 4,096 characters are no metrics.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

MAX_LINE = 4_096
MAX_BLOCKS_LINE = 65_000
MAX_NAMES = 200
# Of a curve
MAX_POINTS = 400
_NUMBER = r"[-+]?(?:\d[\d_,]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf(?:inity)?|nan)"
_PLAIN = re.compile(rf"\s*([A-Za-z_][\w./@-]{{0,99}})\s*:\s*({_NUMBER})\s*%?\s*", re.IGNORECASE)
_METRIC = re.compile(
    rf"\s*METRIC\s+([A-Za-z_][\w./@-]{{0,99}})\s*=\s*({_NUMBER})\s*", re.IGNORECASE
)
_PROGRESS = re.compile(
    rf"\b(?:step|iter(?:ation)?)\b.{{0,200}}?\bloss\b\s*[:=]?\s*({_NUMBER})", re.IGNORECASE
)


@dataclass
class Printed:
    """Everything that one command printed. `curve`: (clock, loss) of its progress lines, thinned
    evenly.
    """

    values: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    blocks: list[float] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)
    _every: int = 1
    _seen: int = 0

    def feed(self, line: str) -> None:
        """Take in one line that is no progress line."""
        if line.startswith("METRIC_BLOCKS:") and len(line) <= MAX_BLOCKS_LINE:
            self.blocks = [
                value for word in line.split()[1:] if (value := _number(word)) is not None
            ]
            return
        if len(line) > MAX_LINE:
            return
        found = _METRIC.fullmatch(line) or _PLAIN.fullmatch(line)
        if found:
            self._note(found[1], found[2])
        elif line.lstrip().startswith("{"):
            self._json(line)

    def _json(self, line: str) -> None:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(told, dict):
            for name, value in told.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._note(str(name)[:100], repr(value))

    def _note(self, name: str, text: str) -> None:
        value = _number(text)
        if value is not None and (name in self.values or len(self.values) < MAX_NAMES):
            self.values[name] = value
            self.counts[name] = self.counts.get(name, 0) + 1

    def progress(self, line: str) -> float | None:
        """The loss that a progress line tells; None for other lines."""
        found = _PROGRESS.search(line[:MAX_LINE])
        return _number(found[1]) if found else None

    def point(self, clock: float, loss: float) -> None:
        """Add to the curve; when it grows too long every second point goes."""
        if self._seen % self._every == 0:
            self.curve.append((round(clock, 3), loss))
        self._seen += 1
        if len(self.curve) > MAX_POINTS:
            self.curve, self._every = self.curve[::2], self._every * 2


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("_", ""))
    except (ValueError, OverflowError):
        return None
