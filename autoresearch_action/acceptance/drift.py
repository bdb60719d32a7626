"""Drift: where the incumbent stands now, on a machine whose speed wanders and steps.

The level of its stored runs as a random walk seen through noise (Muth 1960; Harvey 1989, §2.3): old
runs fade with their age, an outlier moves it little (Masreliez & Martin 1977), and a run that
contradicts it starts it anew. A row of candidates that all look far worse is the sign of a step
(Page 1954), and none is rejected for long without a look at the incumbent. Decides nothing about a
candidate (keep.py).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_action.acceptance.noise import Evidence, Noise, good, pool, sample_variance
from autoresearch_action.records import Measurement

# Variance, in σ², that the level gains over the length of one run
WANDER = 0.17
# Standard deviations of surprise beyond which a run moves the level no further
CLIP = 1.5
# Standardised surprise from which a run says that the machine has stepped
STEP = 3.0
# … where a row of candidates has said so before
STEP_AFTER_ROW = 1.7
# Standardised loss from which a candidate adds to a row, and the most that it adds
FAR, FARTHEST = 0.92, 3.0
# … and beyond which the row looks like a step
ROW = 4.0
# Above the mean of a row that looks like a step, from which a candidate is not rejected unseen
OUTSTANDING = 0.4
# Candidates in a row that make it a long one, and what is asked of the next above their mean
LONG, LONG_BAR = 4, 0.3
# Runs of a new incumbent that its level begins with
BEGIN = 4


@dataclass(frozen=True)
class Level:
    """The incumbent now: its value, the variance of that in σ², and the noise σ² as far as it is
    known.
    """

    value: float
    share: float
    variance: float
    dof: int
    # Start of the latest run it rests on
    when: float

    def at(self, run: Measurement) -> float:
        """`share` when `run` started, which may be long ago."""
        return self.share + WANDER * abs(run.started - self.when) / max(run.seconds, 1e-9)

    def against(self, candidate: Sequence[Measurement], sign: int) -> Evidence:
        """The candidate's gain over the level."""
        values = good(candidate)
        variance, dof = pool((self.variance, self.dof), sample_variance(values))
        gain = sign * (math.fsum(values) / len(values) - self.value)
        return Evidence(
            gain,
            math.sqrt(variance * (self.at(candidate[-1]) + 1 / len(values))),
            dof,
            len(values),
            False,
        )

    def suspicion(
        self, siblings: Sequence[Measurement], sign: int, before: float = math.inf, but: int = 0
    ) -> tuple[bool, float]:
        """Whether the row of candidates since looks like a step (Page's cumulative sum), and the
        mean gain of its far ones.

        `before`, `but`: without those from that time on, and without that candidate.
        """
        total = 0.0
        far: list[float] = []
        for run in sorted(siblings, key=lambda run: run.started):
            if self.when < run.started < before and run.trial.number != but and good([run]):
                z = self.against([run], sign).z
                total = max(0.0, total + min(FARTHEST, -z - FAR))
                far = [*far, z] if total else []
        return total > ROW, math.fsum(far) / max(1, len(far))

    def bar(self, siblings: Sequence[Measurement], sign: int) -> float:
        """The standardised gain above which a candidate is not rejected unseen, low as it is: it
        stands out of a row of candidates that looks like a step, or is no worse than the mean of a
        long row. Without such a row, infinite.
        """
        stepped, mean = self.suspicion(siblings, sign)
        bar = mean + OUTSTANDING if stepped else math.inf
        row = [
            self.against([run], sign).z
            for run in siblings
            if run.started > self.when and good([run])
        ]
        return min(bar, math.fsum(row) / len(row) + LONG_BAR) if len(row) >= LONG else bar

    def after(self, run: Measurement, siblings: Sequence[Measurement], sign: int) -> Level:
        """The level after one more run of the incumbent: moved towards it, or begun anew where the
        machine has stepped.
        """
        assert run.value is not None
        share = self.at(run)
        spread = math.sqrt(self.variance * (share + 1))
        surprise = run.value - self.value
        z = abs(Evidence(surprise, spread, self.dof, 1, False).z) if spread else 0.0
        if z > STEP or (
            z > STEP_AFTER_ROW
            and self.suspicion(siblings, sign, run.started, run.trial.asked_by)[0]
        ):
            return Level(run.value, 1.0, self.variance, self.dof, run.started)
        gain = share / (share + 1)
        moved = self.value + gain * max(-CLIP * spread, min(CLIP * spread, surprise))
        variance, dof = pool((self.variance, self.dof), (surprise**2 / (share + 1), 1))
        return Level(moved, gain, variance, dof, run.started)


def level(
    noise: Noise, references: Sequence[Measurement], siblings: Sequence[Measurement], sign: int
) -> Level:
    """From all runs of the incumbent that count and the first runs of `siblings`, other candidates
    measured against it.
    """
    runs = sorted((run for run in references if run.value is not None), key=lambda run: run.started)
    count = sum(run.trial.asked_by == 0 for run in runs) or BEGIN
    begin, later = runs[:count], runs[count:]
    values = good(begin)
    # The baseline's own spread is in the noise already.
    variance, dof = pool(
        (noise.sigma**2, noise.dof),
        sample_variance(values) if begin[0].trial.asked_by else (0.0, 0),
    )
    # A median: one slow run in four must not lower the bar for everything that follows.
    now = Level(statistics.median(values), 1.2 / len(values), variance, dof, begin[-1].started)
    for run in later:
        now = now.after(run, siblings, sign)
    return now
