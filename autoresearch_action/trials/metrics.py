"""What a command printed: metrics, document blocks and progress lines, read line by line and
bounded.

A metric is a name and a number, however the program writes them: `name: value`, `name = value`,
`METRIC name=value`, a JSON object (pretty, nested, in a list) or a Python dict, fields of a line
(`loss: 2 | val_bpb: 0.9`), behind a logger's or a launcher's prefix, in colour. Numbers are those
of an English locale: where a comma can be a decimal one the value is refused, and why is kept. Of
a name the last value counts; whether another was printed is known. A `strict` reader (the
scorer's) reads no progress line. Lines longer than 4,096 characters are no metrics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_LINE = 4_096
MAX_BLOCKS_LINE = 65_000
MAX_NAMES = 200
# Characters of a JSON text over several lines
MAX_JSON = 200_000
# Of a line, and names, that a failure shows
SHOWN, SHOWN_NAMES = 200, 12
# Of a curve
MAX_POINTS = 400
_NAME = r"[^\W\d][\w./@-]{0,99}"
_NUMBER = (
    r"[-+]?(?:[0-9][0-9_]*+(?:,[0-9]++)*+(?:\.[0-9]*+(?:,[0-9]++)?+)?+(?:[eE][-+]?[0-9]++)?+"
    r"|\.[0-9]++(?:[eE][-+]?[0-9]++)?+|inf(?:inity)?|nan)"
)
# tensor(0.34, device='cuda:0'), np.float64(0.34)
_VALUE = rf"(?:[\w.]{{1,40}}\()?({_NUMBER})(?:[^()]{{0,80}}\))?"
_MARK = r"[\"'`*_]{0,3}"
_FIELD = re.compile(
    rf"{_MARK}({_NAME}?){_MARK}\s*+(?:[:=]|->|→)\s*+{_MARK}{_VALUE}{_MARK}\s*+%?\s*+"
    rf"(?:(?:±|\+/?-)\s*+{_NUMBER}\s*+%?\s*+)?[,;]?",
    re.IGNORECASE,
)
_METRIC = re.compile(rf"METRIC\s+({_NAME})\s*=\s*({_NUMBER})", re.IGNORECASE)
_QUOTED = re.compile(rf"[\"']({_NAME})[\"']\s*:\s*{_VALUE}\s*(?=[,}}])", re.IGNORECASE)
_WORD = re.compile(rf"(?:^|(?<=\s))({_NAME})=({_NUMBER})(?=$|\s)", re.IGNORECASE)
_CELL = re.compile(_NAME)
_ALONE = re.compile(_NUMBER, re.IGNORECASE)
COLOUR = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# Loggers' and launchers' prefixes, a progress bar that the line was printed behind, list marks
_PREFIX = re.compile(
    r"\s*(?:"
    r"\[[^\[\]]{1,100}\](?:<\w+>)?:?"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?,?"
    r"|(?:\d\d[-/]\d\d\s)?\d\d:\d\d:\d\d(?:[.,]\d+)?"
    r"|[IWEF]\d{4}\s\d\d:\d\d:\d\d\.\d+\s+\d+\s[^\]]{1,80}\]"
    r"|(?:DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL)\b(?::[\w.]*:)?:?"
    r"|[\w.]{1,60} - (?=\w+ - |DEBUG|INFO|WARN)"
    r"|rank ?\d+:|\d{1,5}:(?=\s)|wandb:"
    r"|[^|]{0,80}\d+%\|[^|]*\|[^\]]{0,80}\]"
    r"|[-*>•#✅→|]+(?=\s))\s*[-|]?\s*",
    re.IGNORECASE,
)
_COUNTER = re.compile(
    r"\W{0,3}(?:step|iter(?:ation)?|epoch|batch|ep|it|round|trial)\b[\s:=#\[]*\d", re.IGNORECASE
)
_BAR = re.compile(r"\d%\||\d\s?(?:it|ex|tok\w*)/s|(?:s|ms)/(?:it|step)\b")
_PROGRESS = re.compile(
    rf"\b(?:step|iter(?:ation)?)\b.{{0,200}}?\bloss\b\s*[:=]?\s*({_NUMBER})", re.IGNORECASE
)
_JSON_BODY = re.compile(r"\s*(?:[\[\]{}\",\d+-]|true\b|false\b|null\b|NaN\b|-?Infinity\b|$)")
# Of a record: what it is called, and what it says
_CALLED, _SAYS = ("name", "metric", "key"), ("value", "score", "result")
# With thousands by commas; a comma between one to three digits and three more can be either
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:(?:,\d{3})+\.\d*|(?:,\d{3}){2,})(?:[eE][-+]?\d+)?")


class NoMetric(Exception):
    """There is no value to be had; the text says why, in one sentence."""


@dataclass
class Printed:
    """Everything that one command printed. `curve`: (clock, loss) of its progress lines, thinned
    evenly.
    """

    # Names that count, however many there are: the metric, then others
    wanted: tuple[str, ...] = ()
    # The scorer's: its progress lines are not read
    strict: bool = False
    values: dict[str, float] = field(default_factory=dict)
    # Names that were printed with several values
    differing: set[str] = field(default_factory=set)
    # Numbers with a comma that may be a decimal one, by name
    refused: dict[str, str] = field(default_factory=dict)
    blocks: list[float] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)
    # The last line that names the metric and gave no number for it
    near: str = ""
    # Lines of a JSON text that goes on, and its open brackets
    _json: list[str] = field(default_factory=list)
    _depth: int = 0
    _size: int = 0
    _every: int = 1
    _seen: int = 0

    def feed(self, line: str) -> None:
        """Take in one line."""
        if line.startswith("METRIC_BLOCKS:") and len(line) <= MAX_BLOCKS_LINE:
            words = line.split()[1:]
            self.blocks = [value for word in words if (value := number(word)) is not None]
            return
        if len(line) > MAX_LINE:
            return
        plain = COLOUR.sub("", line).strip().lstrip("\ufeff")
        if self._json:
            self._continue(plain)
        elif not self._begins(bare := _bare(plain)):
            alone = _FIELD.fullmatch(bare)
            progress = bool(_COUNTER.match(bare) or _BAR.search(bare))
            self._line(plain, progress and not (alone and alone[1] in self.wanted))

    def end(self) -> None:
        """The output has ended: what looked like the beginning of a JSON text was none."""
        lines, self._json, self._depth = self._json, [], 0
        for line in lines:
            self._line(line)

    def _line(self, line: str, progress: bool = False) -> None:
        """Of a progress line only the names that are wanted, and for the scorer none at all."""
        metric, told = self.wanted[0] if self.wanted else "", False
        for name, text in () if progress and self.strict else pairs(line):
            if not progress or name in self.wanted:
                self._note(name, text)
                told = told or name == metric
        if metric and not told and metric.lower() in line.lower():
            self.near = line[:SHOWN]

    # -- JSON over several lines

    def _begins(self, line: str) -> bool:
        """Whether it begins a JSON text that goes on in the lines below."""
        if not re.fullmatch(r"[\[{]\s*(?:[\[{\"].*)?", line) or (depth := _depth(line)) <= 0:
            return False
        self._json, self._depth, self._size = [line], depth, len(line)
        return True

    def _continue(self, line: str) -> None:
        self._size += len(line)
        if self._size > MAX_JSON or not _JSON_BODY.match(line):
            self.end()
            self.feed(line)
            return
        self._json.append(line)
        self._depth += _depth(line)
        if self._depth <= 0:
            lines, self._json = self._json, []
            try:
                told = json.loads("\n".join(lines))
            except (ValueError, RecursionError):
                self._json = lines
                self.end()
                return
            for name, text in leaves(told):
                self._note(name, text)

    # -- values

    def _note(self, name: str, text: str) -> None:
        full = len(self.values) + len(self.refused) >= MAX_NAMES
        if full and name not in self.values and name not in self.wanted:
            return
        value, before = number(text), self.values.pop(name, None)
        if before not in (None, value) or name in self.refused:
            self.differing.add(name)
        self.refused.pop(name, None)
        if value is None:
            self.refused[name] = text[:SHOWN]
        else:
            self.values[name] = value

    def told(self, name: str, value: float) -> None:
        """A value from elsewhere, which overrules what was printed."""
        self.values[name] = value
        self.refused.pop(name, None)
        self.differing.discard(name)

    def metric(self, phase: str) -> float:
        """The first of `wanted`. Raises NoMetric where it was not printed as `phase` must."""
        name = self.wanted[0]
        if name in self.refused:
            raise NoMetric(
                f"`{phase}` printed {name} as {self.refused[name]}: a comma there can be a decimal"
                " one, as in a German locale. Print it with a point and without thousands"
                " (LC_NUMERIC=C)."
            )
        if self.strict and name in self.differing:
            raise NoMetric(f"`{phase}` printed different values of {name}; one is allowed.")
        if name not in self.values:
            others = ", ".join([*self.values][:SHOWN_NAMES])
            told = f"; it printed {others}" if others else ", nor any other `name: value`"
            near = f"; the nearest line: {self.near}" if self.near else ""
            raise NoMetric(f"`{phase}` printed no {name}{told}{near}".rstrip(".!?") + ".")
        return self.values[name]

    def progress(self, line: str) -> float | None:
        """The loss that a progress line tells; None for other lines."""
        found = _PROGRESS.search(line[:MAX_LINE])
        return number(found[1]) if found else None

    def point(self, clock: float, loss: float) -> None:
        """Add to the curve; when it grows too long every second point goes."""
        if self._seen % self._every == 0:
            self.curve.append((round(clock, 3), loss))
        self._seen += 1
        if len(self.curve) > MAX_POINTS:
            self.curve, self._every = self.curve[::2], self._every * 2


def pairs(line: str) -> Iterator[tuple[str, str]]:
    """The (name, number as it is written) pairs that one line tells. A new way of writing metrics
    is one more step here.
    """
    bare = _bare(line)
    brace = bare.find("{")
    if found := _METRIC.fullmatch(bare) or _FIELD.fullmatch(bare):
        yield found[1], found[2]
    elif brace >= 0 and bare.endswith(("}", "]")):
        yield from _braces(bare[bare.find("[") if bare.startswith("[") else brace :])
    else:
        cells = [cell.strip() for cell in re.split(r"[|│┃║\t]", line.strip(" |│┃║"))]
        if len(cells) == 2 and _CELL.fullmatch(cells[0]) and _ALONE.fullmatch(cells[1]):
            yield cells[0], cells[1]
        for part in re.split(r"\s*[|│;\t]\s*|,\s+", bare):
            if found := _FIELD.fullmatch(part):
                yield found[1], found[2]
            else:
                yield from _WORD.findall(part)


def _bare(line: str) -> str:
    """A line without what a logger, a launcher or a progress bar put before it."""
    for _ in range(8):
        found = _PREFIX.match(line)
        rest = line[found.end() :] if found else ""
        if not rest:
            break
        line = rest
    return line.strip()


def _braces(text: str) -> Iterator[tuple[str, str]]:
    try:
        yield from leaves(json.loads(text))
    except (ValueError, RecursionError):
        # A Python dict, with tensors in it perhaps
        yield from _QUOTED.findall(text)


def leaves(told: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """The numbers in a JSON value, each by the name next to it, nested ones by their path too."""
    if depth > 20:
        return
    if isinstance(told, list):
        for item in told:
            yield from leaves(item, path, depth + 1)
    elif isinstance(told, dict):
        called = next((told[key] for key in _CALLED if isinstance(told.get(key), str)), None)
        for name, value in told.items():
            inside = f"{path}.{name}" if path else str(name)
            if isinstance(value, (dict, list)):
                yield from leaves(value, inside, depth + 1)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                yield from ((one[:100], repr(value)) for one in dict.fromkeys((str(name), inside)))
                if called and name in _SAYS:
                    yield called[:100], repr(value)


def _depth(line: str) -> int:
    """How many more brackets a line opens than it closes, outside of strings."""
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
    return sum(map(outside.count, "{[")) - sum(map(outside.count, "}]"))


def number(text: str) -> float | None:
    """The number that is written; None for none, and where a comma can be a decimal one."""
    if "," in text and not _THOUSANDS.fullmatch(text):
        return None
    try:
        return float(text.replace(",", "").replace("_", ""))
    except (ValueError, OverflowError):
        return None
