"""What the benchmarks on the real train.py share: a small data profile, a small starting point,
what the machine is.

The data are prepare.py's own on the standard library's source, in a folder of their own; the
starting point is train.py with SMALL_BASE's numbers, so that a window of seconds holds hundreds of
steps. Nothing else is changed.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = ROOT / ".autoresearch" / "benchmark" / "data"
RESULTS = HERE / "results"
# The second is the processor profile's
SMALL_BASE = {"WIDTH#2": 64, "TOKENS_PER_STEP#2": 10}
sys.path.insert(0, str(ROOT))


def prepared() -> Path:
    """The data folder of the small profile; made the first time (about ten seconds)."""
    import prepare

    os.environ["AUTORESEARCH_DATA"] = str(DATA)
    prepare.prepare("stdlib", prepare.Profile("cpu", 64, 1024, 300.0, 16384, 16, 2 << 20, 64 << 20))
    return DATA


def turned(source: bytes, numbers: Mapping[str, Any]) -> bytes:
    """A train.py with these numbers, by the names of its literals."""
    from autoresearch_action.agents.literals import find, swap

    places = {knob: knob.key.removeprefix("train.py:") for knob in find(source, "train.py")}
    return swap(
        source, {knob: numbers[place] for knob, place in places.items() if place in numbers}
    )


def base_source() -> bytes:
    return turned((ROOT / "train.py").read_bytes(), SMALL_BASE)


def machine() -> str:
    """One line: how many cores, which, and how busy they are right now."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        model = next(
            line.split(":", 1)[1].strip()
            for line in text.splitlines()
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        model = platform.machine()
    cores = len(os.sched_getaffinity(0))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    return f"{when} UTC, {cores} of {os.cpu_count()} cores ({model}), load {load} over 1, 5, 15 min"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table, the first column left, the others right, with an empty line after it."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        " | ".join(
            cell.ljust(w) if not i else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    ]
    rule = " | ".join(("-" * (w - 1) + ("-" if not i else ":")) for i, w in enumerate(widths))
    return [f"| {line} |" for line in [lines[0], rule, *lines[1:]]] + [""]


def publish(name: str, lines: list[str], write: bool) -> None:
    """Print a report; with `write` also put it into benchmark/results/NAME.md."""
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text)
