"""What runs printed, as few numbers: means with their spread, changes beside another code's, curves
at four points.

Of measurements it reads runs of the search alone, so that no held-out number can get into a prompt.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence

from autoresearch_action.records import Measurement

# Shares of a run at which its training loss is told
POINTS = (0.1, 0.25, 0.5, 1.0)
# Relative change below which a number counts as the same
SAME = 0.002
# … and standard deviations of single runs
SPREADS = 1.5
# Numbers whose change is told, the largest changes first
MOST_CHANGES = 12
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


def one_line(text: str, limit: int) -> str:
    """`text` as one line of at most `limit` characters, without control, escape and direction
    characters, and without what would end a fence of the prompt.
    """
    line = " ".join(_CONTROL.sub(" ", text).split()).replace("</", "<\\/")
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def searched(runs: Sequence[Measurement]) -> list[Measurement]:
    """Those of the search that gave a value."""
    return [r for r in runs if r.trial.stage == "search" and r.outcome == "ok"]


def values(runs: Sequence[Measurement]) -> dict[str, list[float]]:
    """Every number that was printed, by name, over the runs of the search."""
    found: dict[str, list[float]] = {}
    for run in searched(runs):
        for name, value in run.metrics.items():
            found.setdefault(name, []).append(value)
    return found


def told(name: str, numbers: Sequence[float]) -> str:
    """`name mean ± spread`."""
    wide = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    spread = f" ± {wide:.2g}" if wide else ""
    return f"{name} {statistics.fmean(numbers):.6g}{spread}"


def changes(mine: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> str:
    """The change of every number beside the other code's, in per cent; what stayed within the
    spread of runs is only counted.
    """
    found = {name: _change(mine[name], other[name]) for name in mine.keys() & other.keys()}
    moved = sorted((name for name in found if found[name]), key=lambda name: -abs(found[name]))
    shown = [f"{name} {100 * found[name]:+.3g} %" for name in moved[:MOST_CHANGES]]
    same = len(found) - len(shown)
    if shown and same:
        shown.append(f"{same} other{'s' * (same != 1)} as before")
    return ", ".join(shown)


def _change(mine: Sequence[float], other: Sequence[float]) -> float:
    """Relative; 0 where it is within SAME or the spread of runs."""
    before, now = statistics.fmean(other), statistics.fmean(mine)
    spread = max(statistics.stdev(runs) if len(runs) > 1 else 0.0 for runs in (mine, other))
    least = max(SAME * abs(before), SPREADS * spread)
    return (now - before) / abs(before) if before and abs(now - before) > least else 0.0


def curve(runs: Sequence[Measurement]) -> list[float]:
    """The mean training loss at each of POINTS; [] where no run printed a curve."""
    courses = [run.curve for run in searched(runs) if len(run.curve) > 3]
    points = POINTS if courses else ()
    return [statistics.fmean(_at(course, point) for course in courses) for point in points]


def _at(course: Sequence[tuple[float, float]], share: float) -> float:
    first, last = course[0][0], course[-1][0]
    return min(course, key=lambda point: abs(point[0] - first - share * (last - first)))[1]


def curve_told(runs: Sequence[Measurement]) -> str:
    return ", ".join(f"{loss:.4g}" for loss in curve(runs))


def phases(runs: Sequence[Measurement]) -> str:
    """Mean seconds of each phase."""
    found: dict[str, list[float]] = {}
    for run in searched(runs):
        for name, seconds in run.phases.items():
            found.setdefault(name, []).append(seconds)
    return ", ".join(f"{name} {statistics.fmean(all_):.3g} s" for name, all_ in found.items())
