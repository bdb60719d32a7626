"""Stop gross losers early: a first look whose training loss is worse than the incumbent's was at
half of the elapsed time, by more than it can make up; or no number.

Futility only (as in group-sequential tests: Lan, Simon & Halperin 1982): a stopped run is a
discard, never part of an estimate. It is held against the incumbent's run on the same seed, whose
data come in the same order, so that most of the noise is shared; at half of the time, because the
loss depends on the data that were seen and a machine with other work gets through as little as that
of them. The margin is a share of what the incumbent's own loss still falls from there to its end,
in whatever unit that is, and the noise. An edit that does nothing loses nothing when it is stopped.

Time counts from a run's first progress line: what comes before (loading, compilation) is no
training, and differs from edit to edit. Covers the band, the incremental watch that the trial calls
on each progress line, and the audit that loosens the rule by itself. Off where the incumbent has
fewer than two runs with progress lines. Does not know whether two losses can be compared: the
caller exempts those that cannot. The constants come from recorded curves (benchmark/curves.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch_action.records import Measurement, StopRule

# Of the first looks run to the end whatever their curve says
AUDIT_SHARE = 0.1
# Of the incumbent's training: earlier, what starts fast hides what ends well
START = 0.15
# Of what the incumbent's own loss still falls: a candidate may trail by that …
SHARE = 0.05
# … and so many standard deviations of the incumbent's own curves, over seeds
SPREADS = 0.25
# Times as many where the incumbent has no run on the candidate's seed
UNPAIRED = 8.0
# A run of the same code may be as slow as this on a busy machine
SLOWEST = 0.5
# Weight of the past after one grid step: a memory of about 9 % of the run
SMOOTHING = 0.82
# Of the band
POINTS = 51
MIN_LINES = 10
# Share of true winners that the rule may cost
MOST_LOST = 0.05
# Factor on the margin where the audit says that it costs more
LOOSER = 1.5


class Watch:
    """A trial's curve as it comes in, against a StopRule. The mean forgets by elapsed time, so
    thinning is harmless.
    """

    def __init__(self, rule: StopRule) -> None:
        self.rule = rule
        step = rule.elapsed[1] - rule.elapsed[0] if len(rule.elapsed) > 1 else 0.0
        self._rate = (
            -math.log(rule.smoothing) / step if step > 0 and rule.smoothing > 0 else math.inf
        )
        self._first = self._at = 0.0
        self.mean: float | None = None

    def feed(self, elapsed: float, loss: float) -> bool:
        """Take in one progress line, `elapsed` seconds after the process's start; whether to stop
        now.
        """
        if self.mean is None:
            self.mean, self._first = loss, elapsed
        elapsed -= self._first
        if elapsed:
            gone = max(0.0, elapsed - self._at)
            weight = math.exp(-self._rate * gone) if gone else 1.0
            self.mean = weight * self.mean + (1 - weight) * loss
        self._at = elapsed
        if not self.rule.elapsed or elapsed < self.rule.elapsed[0]:
            return False
        # NaN stops too
        return not self.mean <= float(np.interp(elapsed, self.rule.elapsed, self.rule.limits))


def would_stop(rule: StopRule, curve: Sequence[tuple[float, float]]) -> float | None:
    """The elapsed second at which the rule stops this curve; None: never."""
    watch = Watch(rule)
    return next((elapsed for elapsed, loss in curve if watch.feed(elapsed, loss)), None)


def stop_rule(
    incumbent_runs: Sequence[Measurement], seed: int, audit: object | None, rng: np.random.Generator
) -> StopRule | None:
    """The rule for one first look with `seed`, or None: no band, or drawn (AUDIT_SHARE of them) to
    run to the end.
    """
    audited = rng.random() < AUDIT_SHARE
    return None if audited else band(incumbent_runs, seed, _state(audit)["looser"])


def band(incumbent_runs: Sequence[Measurement], seed: int, looser: float = 1.0) -> StopRule | None:
    """The limits for a candidate on `seed` that the incumbent's runs imply; None with fewer than
    two of MIN_LINES progress lines.
    """
    runs = [run for run in incumbent_runs if run.outcome == "ok" and len(run.curve) >= MIN_LINES]
    curves = [run.curve for run in runs]
    end = min((curve[-1][0] - curve[0][0] for curve in curves), default=0.0)
    if len(curves) < 2 or end <= 0:
        return None
    grid = np.linspace(SLOWEST * START * end, end, POINTS)
    rule = StopRule(elapsed=grid.tolist(), limits=[math.inf] * POINTS, smoothing=SMOOTHING)
    smooth = np.array([_smoothed(rule, curve, grid) for curve in curves])
    if not np.isfinite(smooth).all():
        return None
    spread = math.sqrt(float(np.mean(np.var(smooth, axis=0, ddof=1))))
    middle = smooth.mean(axis=0)
    paired = [run.trial.seed == seed for run in runs]
    reference = smooth[paired].mean(axis=0) if any(paired) else middle
    spreads = SPREADS if any(paired) else UNPAIRED * SPREADS
    # Where the slowest would stand: a loss depends on the data seen, and may rise meanwhile
    slow = np.interp(SLOWEST * grid, grid, reference)
    seen = [reference[(grid >= SLOWEST * at) & (grid <= at)].max() for at in grid]
    reference = np.maximum(slow, seen)
    limits = reference + looser * (SHARE * np.maximum(middle - middle[-1], 0) + spreads * spread)
    told = grid >= START * end
    return rule.model_copy(update={"elapsed": grid[told].tolist(), "limits": limits[told].tolist()})


def _smoothed(
    rule: StopRule, curve: Sequence[tuple[float, float]], grid: NDArray[Any]
) -> NDArray[Any]:
    watch = Watch(rule)
    means = [watch.mean for elapsed, loss in curve if watch.feed(elapsed, loss) or True]
    return np.asarray(
        np.interp(
            grid, [elapsed - curve[0][0] for elapsed, _ in curve], np.array(means, dtype=float)
        )
    )


def audit(
    before: object | None, first: Measurement, incumbent_runs: Sequence[Measurement], kept: bool
) -> dict[str, Any]:
    """The audit after one more comparable first look that was run to the end without a rule, and
    its verdict.

    Counts over all runs: `looks`, would-be stops (`stopped`), winners (`kept`), winners that would
    have been stopped (`lost`) and `bound`, the upper 95 % bound on the share of winners lost
    (Clopper & Pearson 1934; the rule of three where none is). Where even the lower 90 % bound
    exceeds MOST_LOST, `looser` widens every later rule and the counts of winners begin again.
    """
    state = _state(before)
    rule = band(incumbent_runs, first.trial.seed, state["looser"])
    if rule is None or first.outcome != "ok" or len(first.curve) < MIN_LINES:
        return state
    stopped = would_stop(rule, first.curve) is not None
    state["looks"] += 1
    state["stopped"] += int(stopped)
    state["kept"] += int(kept)
    state["lost"] += int(stopped and kept)
    if stopped and kept and clopper_pearson(state["lost"], state["kept"], 0.1)[0] > MOST_LOST:
        state |= {"looser": LOOSER * state["looser"], "kept": 0, "lost": 0}
    state["bound"] = clopper_pearson(state["lost"], state["kept"], 0.05)[1]
    return state


def clopper_pearson(hits: int, n: int, tail: float) -> tuple[float, float]:
    """Lower and upper confidence bound of a share, each one-sided with error `tail`."""
    from scipy.special import betaincinv

    low = float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    return low, float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0


def _state(told: object | None) -> dict[str, Any]:
    known = dict(told) if isinstance(told, Mapping) else {}
    return {"looks": 0, "stopped": 0, "kept": 0, "lost": 0, "bound": 1.0, "looser": 1.0} | known
