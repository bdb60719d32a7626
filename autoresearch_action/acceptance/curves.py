"""Curves: stop a candidate early when its training loss lies plainly above the incumbent's at equal elapsed time.

The band comes from the incumbent's own runs; a stop is futility only and never part of an estimate. A random share of
candidates is exempt and run to the end: that audit tells whether the rule would have killed winners, and loosens it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autoresearch_action.records import Measurement, StopRule, Verdict

START = 0.3  # of the incumbent's elapsed time, from where on a candidate is judged
MARGIN = 0.1  # nats above the band, at least (at 20 % or with less, winners were killed)
WIDTH = 4.0  # standard deviations between the incumbent's runs, at least
AUDIT_SHARE = 0.1
MOST_KILLED = 0.05  # share of true winners that may be lost
POINTS = 24  # of the band
MIN_LINES = 10
SMOOTHING = 0.9


class Watch:
    """A trial's curve as it comes in, against a StopRule."""

    def __init__(self, rule: StopRule) -> None:
        self.rule, self._mean, self._weight = rule, 0.0, 0.0

    def feed(self, elapsed: float, loss: float) -> bool:
        """Take in one progress line; whether to stop now. A loss that is no number stops at once."""
        if not math.isfinite(loss):
            return True
        keep = self.rule.smoothing
        self._mean, self._weight = keep * self._mean + (1 - keep) * loss, keep * self._weight + (1 - keep)
        if not self.rule.elapsed or elapsed < self.rule.elapsed[0]:
            return False
        limit = float(np.interp(elapsed, self.rule.elapsed, self.rule.limits))
        return self._mean / self._weight > limit


def smooth(curve: Sequence[tuple[float, float]], keep: float = SMOOTHING) -> tuple[list[float], list[float]]:
    """(elapsed, exponential mean of the loss, bias-corrected) of a curve."""
    mean = weight = 0.0
    elapsed, means = [], []
    for clock, loss in curve:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + (1 - keep)
        elapsed.append(clock)
        means.append(mean / weight)
    return elapsed, means


def would_stop(rule: StopRule, curve: Sequence[tuple[float, float]]) -> float | None:
    """The elapsed second at which the rule stops this curve; None: never."""
    watch = Watch(rule)
    return next((clock for clock, loss in curve if watch.feed(clock, loss)), None)


def band(incumbent: Sequence[Measurement], looser: float = 1.0) -> StopRule | None:
    """The rule from the incumbent's runs; None with fewer than two runs of ten progress lines each."""
    curves = [smooth(run.curve) for run in incumbent if run.outcome == "ok" and len(run.curve) >= MIN_LINES]
    if len(curves) < 2:
        return None
    end = min(elapsed[-1] for elapsed, _ in curves)
    begin = START * end
    grid = np.linspace(begin, end, POINTS)
    values = np.array([np.interp(grid, elapsed, means) for elapsed, means in curves])
    spread = values.std(axis=0, ddof=1)
    limits = values.mean(axis=0) + looser * np.maximum(MARGIN, WIDTH * spread)
    return StopRule(elapsed=[round(float(x), 3) for x in grid], limits=[round(float(x), 5) for x in limits], smoothing=SMOOTHING)


def stop_rule(incumbent: Sequence[Measurement], audit: object, rng: np.random.Generator) -> StopRule | None:
    """The rule for one candidate's first look; None where there is no band or the candidate is audited."""
    if rng.random() < AUDIT_SHARE:
        return None
    told = audit if isinstance(audit, Mapping) else {}
    return band(incumbent, float(told.get("looser", 1.0)))


def judge_audit(past: object, audited: Sequence[tuple[Verdict, Measurement]], incumbent: Sequence[Measurement]) -> dict[str, float]:
    """Take in first looks that ran to the end: how many winners there were, and how many the rule would have killed.

    Where more than 5 % of them would have been (one is enough to begin with), the rule's margin grows by a half.
    """
    told = dict(past) if isinstance(past, Mapping) else {}
    facts = {name: float(told.get(name, start)) for name, start in (("winners", 0), ("killed", 0), ("seen", 0), ("looser", 1.0))}
    rule = band(incumbent, facts["looser"])
    for verdict, run in audited:
        facts["seen"] += 1
        if verdict.status == "keep":
            facts["winners"] += 1
            facts["killed"] += bool(rule and would_stop(rule, run.curve) is not None)
    if facts["killed"] > max(0.5, MOST_KILLED * facts["winners"]):
        facts |= {"looser": 1.5 * facts["looser"], "winners": 0.0, "killed": 0.0}
    return facts
