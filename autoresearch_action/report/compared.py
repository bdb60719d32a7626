"""Every number that base and head printed in the proof, side by side.

Means over the confirmation's runs, the change with its 95 % interval (Welch's t on the runs; of the
metric itself the test's), and the brief's limit beside it. Reads the run state alone; no layout
(body.py).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_action.ledger import RunState
from autoresearch_action.records import Confirmation, Goal, Measurement, sign_of
from autoresearch_action.text import rounded

# Phases whose seconds are told: what a change costs in time
PHASES = ("run", "evaluate")


@dataclass(frozen=True)
class Number:
    """One row. `low` and `high` are of the change; None where a spread was not seen. `clear`: the
    interval does not hold nothing.
    """

    name: str
    base: float
    head: float
    low: float | None
    high: float | None
    limit: str = ""

    @property
    def change(self) -> float:
        return self.head - self.base

    @property
    def percent(self) -> str:
        """Of the base, for people; "" where it is 0."""
        if not self.base:
            return ""
        scale = 100 / abs(self.base)
        return f" ({rounded(scale * self.change, scale * self.half, plus=True)} %)"

    @property
    def clear(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def half(self) -> float:
        """Half of the interval's width, in the number's unit: no digit beyond it means anything."""
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / 2


def numbers(run_state: RunState) -> list[Number]:
    """The metric first, then what else was printed, then seconds; empty without a proof."""
    run, confirmation = run_state.run, run_state.confirmation
    if run is None or confirmation is None:
        return []
    runs, sides = run_state.proof, ("base", "head")
    base, head = ([_told(one) for one in runs if one.trial.side == side] for side in sides)
    names = list(dict.fromkeys(name for told in (*base, *head) for name in told))
    limits, tested = run.contract.get("limits") or {}, _tested(run.goal, confirmation)
    found = []
    for name in sorted(names, key=lambda name: name != run.metric):
        before, after = ([told[name] for told in side if name in told] for side in (base, head))
        if (any(before) and after) or (before and any(after)):
            low, high = (tested if name == run.metric else None) or welch(before, after)
            means = statistics.fmean(before), statistics.fmean(after)
            limit = limits.get(name)
            told = str(limit.get("text", "")) if isinstance(limit, dict) else ""
            found.append(Number(name, *means, low, high, told))
    return found


def _tested(goal: Goal, confirmation: Confirmation) -> tuple[float, float] | None:
    """The test's interval of the metric's change."""
    if confirmation.low is None or confirmation.high is None:
        return None
    ends = sorted(sign_of(goal) * end for end in (confirmation.low, confirmation.high))
    return ends[0], ends[1]


def _told(run: Measurement) -> dict[str, float]:
    seconds = {f"seconds of {name}": run.phases[name] for name in PHASES if name in run.phases}
    return {**run.metrics, **seconds}


def welch(base: Sequence[float], head: Sequence[float]) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of the difference of means (Welch 1947); None with fewer than two
    runs of a side.
    """
    from scipy.special import stdtrit

    if min(len(base), len(head)) < 2:
        return None, None
    parts = [statistics.variance(side) / len(side) for side in (base, head)]
    change = statistics.fmean(head) - statistics.fmean(base)
    if not sum(parts):
        return change, change
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (base, head), strict=True)
    )
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(sum(parts))
    return change - half, change + half
