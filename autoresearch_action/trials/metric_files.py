"""A metric that stands in a file which the scorer writes: JSON by a path, or a known tool's own
report. The file is untrusted text: no link is followed, and no more than 16 MiB is read.

Several numbers (one a benchmark) give their geometric mean. A new tool is one more entry of TOOLS.
Durations are in seconds, whatever unit the tool writes.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from autoresearch_action.trials.metrics import NoMetric, Printed

MAX_BYTES = 16 << 20
# Files that one pattern may name, and numbers that one report may give
MOST = 10_000
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_GO = re.compile(r"^Benchmark\S*\s+\d+\s+([\d.eE+-]+) ns/op", re.MULTILINE)


def read(printed: Printed, directory: Path, pattern: str, path: str) -> None:
    """Put the metric from the files of `pattern` (`*` stands for any letters within one name) into
    what was `printed`, and of how many numbers it is. Raises NoMetric.
    """
    name = printed.wanted[0]
    numbers = _all(directory, pattern, path, name)
    if not numbers:
        what = f"nothing at {path}" if path else f"neither {name} nor a known tool's report"
        raise NoMetric(f"{pattern} holds {what}.")
    if len(numbers) == 1:
        printed.told(name, numbers[0])
        return
    if not all(number > 0 and math.isfinite(number) for number in numbers):
        raise NoMetric(f"{pattern} holds {len(numbers)} numbers, not all above zero: give a path.")
    printed.told(name, math.exp(math.fsum(map(math.log, numbers)) / len(numbers)))
    printed.told(f"{name}.count", float(len(numbers)))


def _all(directory: Path, pattern: str, path: str, name: str) -> list[float]:
    numbers: list[float] = []
    files = 0
    for file, descriptor in _found(directory, pattern):
        files += 1
        try:
            numbers += _numbers(_text(file, descriptor), path, name, file)
        finally:
            os.close(descriptor)
    if not files:
        raise NoMetric(f"{pattern}, which holds the metric, was not written.")
    return numbers


def _found(directory: Path, pattern: str) -> Iterator[tuple[str, int]]:
    """(name, open descriptor) of what `pattern` names; each is the caller's to close."""
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _below(top, PurePosixPath(pattern).parts, "")
    finally:
        os.close(top)


def _below(folder: int, parts: Sequence[str], before: str) -> Iterator[tuple[str, int]]:
    last = len(parts) == 1
    for name in sorted(fnmatch.filter(os.listdir(folder), parts[0]))[:MOST]:
        kind = os.O_NONBLOCK if last else os.O_DIRECTORY
        try:
            found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=folder)
        except NotADirectoryError:
            # Beside those that a pattern means
            continue
        except OSError as error:
            raise NoMetric(f"{before}{name} cannot be read: {error.strerror}.") from None
        if last:
            yield f"{before}{name}", found
            continue
        try:
            yield from _below(found, parts[1:], f"{before}{name}/")
        finally:
            os.close(found)


def _text(name: str, descriptor: int) -> str:
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        raise NoMetric(f"{name} is no file of its own.")
    if facts.st_size > MAX_BYTES:
        raise NoMetric(f"{name} has {facts.st_size:,} bytes; a metric's may have {MAX_BYTES:,}.")
    data = b""
    while len(data) <= MAX_BYTES and (chunk := os.read(descriptor, 1 << 20)):
        data += chunk
    return data[:MAX_BYTES].decode("utf-8-sig", "replace")


def _numbers(text: str, path: str, name: str, file: str) -> list[float]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        if path:
            raise NoMetric(f"{file} is no JSON, in which a path could be followed.") from None
        return [float(found) * 1e-9 for found in _GO.findall(text)[:MOST]] or _printed(text, name)
    if path:
        return [*_at(told, path.split("."))][:MOST]
    for tool in TOOLS:
        try:
            if found := tool(told):
                return found[:MOST]
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            continue
    return _printed(json.dumps(told) if isinstance(told, dict) else text, name)


def _printed(text: str, name: str) -> list[float]:
    """As if the file had been printed."""
    printed = Printed((name,), strict=True)
    for line in text.splitlines():
        printed.feed(line)
    printed.end()
    known = printed.values.keys() | printed.refused.keys()
    return [printed.metric("the metric's file")] if name in known else []


def _at(told: Any, steps: Sequence[str]) -> Iterator[float]:
    """The numbers at a path: keys and places, `*` for all of a list or an object."""
    if not steps:
        if isinstance(told, (int, float)) and not isinstance(told, bool):
            yield float(told)
        return
    if isinstance(told, dict):
        inside = list(told.values()) if steps[0] == "*" else [told.get(steps[0])]
    elif isinstance(told, list):
        place = int(steps[0]) if re.fullmatch(r"-?\d{1,6}", steps[0]) else len(told)
        inside = told if steps[0] == "*" else told[place:][:1]
    else:
        return
    for item in inside:
        yield from _at(item, steps[1:])


def _pytest_benchmark(told: Any) -> list[float]:
    return [float(one["stats"]["median"]) for one in told["benchmarks"]]


def _google_benchmark(told: Any) -> list[float]:
    runs = told["benchmarks"]
    medians = [one for one in runs if one.get("aggregate_name") == "median"]
    plain = [one for one in runs if one.get("run_type", "iteration") == "iteration"]
    return [
        float(one["real_time"]) * _SECONDS[one.get("time_unit", "ns")] for one in medians or plain
    ]


def _hyperfine(told: Any) -> list[float]:
    return [float(one["median"]) for one in told["results"]]


def _asv(told: Any) -> list[float]:
    values = [
        one[0] if isinstance(one, list) else one["result"] for one in told["results"].values()
    ]
    flat = [number for one in values for number in (one if isinstance(one, list) else [one])]
    return [float(number) for number in flat if number is not None]


def _criterion(told: Any) -> list[float]:
    return [float(told["median"]["point_estimate"]) * 1e-9]


# Each gives its numbers, or none or an error for another's report
TOOLS: tuple[Callable[[Any], list[float]], ...] = (
    _pytest_benchmark,
    _google_benchmark,
    _hyperfine,
    _asv,
    _criterion,
)
