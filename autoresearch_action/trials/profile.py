"""A profile of the incumbent: which command makes it, and what is read off what that printed.

The brief's own `profile`, or cProfile around a `run` (or, where there is none, an `evaluate`) that
begins with a Python interpreter. Its run measures nothing.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from autoresearch_action.brief import Brief
from autoresearch_action.ledger import RunState
from autoresearch_action.records import Measurement, Record

# Characters of what was printed that are kept, functions that are read off it
MOST, FUNCTIONS = 6_000, 40
_PYTHON = re.compile(r"python(\d+(\.\d+)?)?")
# What the interpreter takes before the program, as far as it is passed on
_SWITCHES = re.compile(r"-[bBdEiIOqsSuvx]+")
_OURS = re.compile(r"^PROFILE ([\d.]+) (.+):(\d+) (.+)$", re.MULTILINE)
# As pstats prints it: calls, own seconds, each, total, each, place
_PSTATS = re.compile(
    r"^\s*[\d/]+\s+([\d.]+)\s+[\d.]+\s+[\d.]+\s+[\d.]+\s+(\S+):(\d+)\((.+)\)\s*$", re.MULTILINE
)


class Hot(Record):
    """A function of a profile. `share`: of the whole time, libraries that it called included."""

    file: str
    line: int
    name: str
    share: float


def command(brief: Brief) -> str | None:
    """What makes the profile; None where nothing does."""
    if brief.profile:
        return brief.profile
    return around(brief.run or brief.evaluate or "")


def around(run: str) -> str | None:
    """A Python command under cProfile; None for another one, or one that a shell takes apart."""
    try:
        words = shlex.split(run)
    except ValueError:
        return None
    if not words or re.search(r"[;&|<>$`()*?\n]", run):
        return None
    first = 2 if words[:2] == ["uv", "run"] else 0
    if len(words) > first and _PYTHON.fullmatch(os.path.basename(words[first])):
        before, rest = words[: first + 1], words[first + 1 :]
    elif first:
        before, rest = [*words[:2], "python"], words[2:]
    else:
        return None
    while rest and _SWITCHES.fullmatch(rest[0]):
        before.append(rest.pop(0))
    if not rest or (rest[0].startswith("-") and rest[0] != "-m"):
        return None
    source = Path(__file__).with_name("profiler.py").read_text("utf-8")
    return shlex.join([*before, "-c", source, *rest])


def latest(run_state: RunState, tree: str) -> Measurement | None:
    """The profile of the code with this git tree, else the last one that was made."""
    found = {
        of: runs[-1]
        for (stage, of), runs in run_state.confirm_runs.items()
        if stage == "profile" and runs[-1].outcome == "ok"
    }
    return found.get(tree) or next(reversed(found.values()), None)


def hottest(printed: str) -> list[Hot]:
    """The functions that a profile names, the hottest first; [] where it is of another form."""
    found = [
        Hot(share=float(share), file=file, line=int(line), name=name)
        for share, file, line, name in _OURS.findall(printed)
    ]
    if not found:
        rows = [(float(own), *rest) for own, *rest in _PSTATS.findall(printed)]
        total = sum(row[0] for row in rows) or 1.0
        found = [
            Hot(share=own / total, file=file, line=int(line), name=name)
            for own, file, line, name in rows
        ]
    return sorted(found, key=lambda one: -one.share)[:FUNCTIONS]
