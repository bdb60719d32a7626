"""Lineage: one Gaussian model of all runs of the versions from the base to the incumbent.

    value(code, seed, time) = mean(code) + effect(seed) + drift(time) + error,
    mean(child) = mean(parent) + delta,

so that whatever was run on which seed and when, a candidate's delta has the likelihood
N(estimate, variance); a run far from the others weighs less. Most ideas do nothing, so that those
that were let go tell of the incumbent's value, too. A gain is positive. Pure; what effects ideas
have is belief.py's, how noisy runs are learning.py's, what to run next keep.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoresearch_action.acceptance.belief import (
    GRID,
    STRAY,
    STRAY_SPREAD,
    Effect,
    Floats,
    Prior,
)
from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.records import Measurement

# Standard deviations beyond which a run of the lineage weighs less
FAR = 2.5
# Variance, in σ², of what is not known of the lineage's first value
VAGUE = 1e5
# Ideas beside an incumbent that tell of its value: the latest
SIBLINGS = 40
_ERRORS = np.linspace(-3, 3, 31)
# Of a delta's Gaussian prior that says nothing, in variances of its likelihood
WIDE = 1e3
# Runs of a lineage that a belief rests on: the latest
LOOK_BACK = 80


@dataclass(frozen=True)
class Code:
    """One version in the line from the base to the incumbent: its runs, and the prior of its delta
    as a Gaussian (`shift` and `doubt`: mean and variance; the base has none). It was kept for its
    first `told` runs, which therefore are `lucky` by so much.
    """

    runs: Sequence[Measurement]
    shift: float = 0.0
    doubt: float = 0.0
    told: int = 0
    lucky: float = 0.0


def child(
    runs: Sequence[Measurement], told: int, effect: Effect, prior: Prior, floor: float
) -> Code:
    """A kept candidate as the next version: the Gaussian that, times its likelihood, has the
    posterior's mean and variance. `floor`: of that variance; 0: an exact count, all is known.
    """
    if not floor:
        return Code(runs)
    after = prior.given(effect)
    variance, own = max(after.variance, floor), max(effect.variance, 1e-300)
    precision = 1 / variance - 1 / own
    if precision <= 0.1 / own:
        # Two hills are wider than the likelihood, which no Gaussian prior gives
        return Code(runs, after.mean, WIDE * own, told, effect.estimate - after.mean)
    mean = (after.mean / variance - effect.estimate / own) / precision
    return Code(runs, mean, 1 / precision, told)


@dataclass(frozen=True)
class Fit:
    """An effect, and how a candidate's runs differ among themselves: `spare` degrees of freedom,
    the sum of squares `rest` in their variances, and the logarithm `size` of these.
    """

    effect: Effect
    spare: int
    rest: float
    size: float


class Lineage:
    """The incumbent's value on any seed, at any time, from the runs of a line of versions."""

    def __init__(
        self,
        noise: Noise,
        codes: Sequence[Code],
        sign: int,
        rejected: Sequence[Sequence[Measurement]] = (),
        prior: Prior | None = None,
    ) -> None:
        """`rejected`: runs of each idea that was let go beside the incumbent; by the `prior` of
        effects they tell of its value.
        """
        self.noise, self.sign = noise, sign
        self.error = (0.0, 0.0)
        self.variance = max(noise.spread**2, 1e-300)
        # Of σ²: what two runs of one code on one seed at one time differ by
        self.own_share = 1 - noise.shared + 1e-6
        # Depth, run, whether it was kept for it
        told: list[tuple[int, Measurement, bool]] = []
        for depth in range(len(codes) - 1, -1, -1):
            code = codes[depth]
            told = [(depth, run, i < code.told) for i, run in enumerate(code.runs)] + told
            if len(told) >= LOOK_BACK:
                break
        told = [one for one in told if one[1].value is not None][-LOOK_BACK:]
        self.runs = [run for _, run, _ in told]
        self.depths = np.array([depth for depth, _, _ in told])
        self.selected = np.array([selected for _, _, selected in told], dtype=bool)
        self.seeds = np.array([run.trial.seed for run in self.runs])
        self.length = sum(run.seconds for run in self.runs) / max(1, len(told)) or 1.0
        self.times = np.array([run.started for run in self.runs]) / self.length
        self.shifts = np.cumsum([code.shift for code in codes])
        self.doubts = np.cumsum([code.doubt for code in codes]) / self.variance
        lucky = np.array([code.lucky for code in codes])[self.depths] * self.selected
        values = np.array([sign * noise.seen(run.value or 0.0) for run in self.runs]) - lucky
        self.offset = float(values.mean()) if len(values) else 0.0
        self.values = values - self.offset - self.shifts[self.depths]
        # Seeds of the incumbent itself, then of those before it
        own = {run.trial.seed: None for depth, run, _ in told if depth == len(codes) - 1}
        self.known = [*own, *(seed for seed in self.seeds.tolist() if seed not in own)]
        if prior and rejected:
            self.error = self._error(rejected[-SIBLINGS:], prior)

    def _error(
        self, rejected: Sequence[Sequence[Measurement]], prior: Prior
    ) -> tuple[float, float]:
        """How much too low the incumbent's value is held to be, and by how much of the variance
        that is known: over a grid, each idea's effect being the prior's.
        """
        known = self.predict([-1], [float(self.times.max(initial=0.0))])[1][0, 0]
        known -= self.variance * self.noise.shared
        if known <= 1e-3 * self.variance:
            return 0.0, 0.0
        errors = math.sqrt(known) * _ERRORS
        log = -0.5 * _ERRORS**2
        for runs in rejected:
            effect = self.fit(runs).effect
            own = max(effect.variance - known, 0.3 * effect.variance)
            gains = effect.estimate - errors[:, None] - prior.scale * GRID[None]
            squares = -0.5 * gains**2 / own
            plain = np.exp(squares) + STRAY / STRAY_SPREAD * np.exp(squares / 9)
            log += np.log(plain @ prior.weights + 1e-300)
        weights = np.exp(log - log.max())
        weights /= weights.sum()
        mean = float(weights @ errors)
        return mean, float(known - (weights @ errors**2 - mean**2))

    @cached_property
    def _inverse(self) -> tuple[Floats, Floats]:
        """(K⁻¹, K⁻¹ values), strays weighing less."""
        kernel = self._between(self.seeds, self.depths, self.times)
        own = np.full(len(self.runs), self.own_share)
        for _ in range(2):
            inverse = np.linalg.inv(kernel + np.diag(own))
            weighed = inverse @ self.values
            apart = np.abs(weighed) / np.sqrt(np.diag(inverse) * self.variance + 1e-300)
            # Selection is the prior's
            apart = np.where(self.selected, 0.0, apart)
            # Where the machine drifts what is far may be where it stands now
            if self.noise.drift or len(apart) < 3 or apart.max() <= FAR:
                break
            own = own + np.where(apart > FAR, (apart / FAR) ** 2 - 1, 0.0) / np.diag(inverse)
        return np.asarray(inverse), np.asarray(weighed)

    def _between(self, seeds: Floats, depths: Floats, times: Floats) -> Floats:
        """Covariance in σ² of the means of any runs with those of the lineage."""
        shared, wander = self.noise.shared, self.noise.wander
        kernel = VAGUE + self.doubts[np.minimum(depths[:, None], self.depths[None])]
        if shared:
            kernel = kernel + shared * (seeds[:, None] == self.seeds[None])
        if wander:
            elapsed = np.minimum(times[:, None], self.times[None]) - self.times.min()
            kernel = kernel + wander * np.maximum(elapsed, 0.0)
        return np.asarray(kernel)

    def predict(self, seeds: Sequence[int], times: Sequence[float]) -> tuple[Floats, Floats]:
        """Mean and covariance (metric's unit, a gain positive) of the incumbent's runs on `seeds`
        at `times` (in lengths of a trial), but for their own errors.
        """
        shared, wander = self.noise.shared, self.noise.wander
        where, when = np.array(seeds), np.array(times, dtype=float)
        depth = len(self.shifts) - 1
        cross = self._between(where, np.full(len(where), depth), when)
        inverse, weighed = self._inverse
        mean = cross @ weighed + self.shifts[depth] + self.offset
        own = VAGUE + self.doubts[depth] + shared * (where[:, None] == where[None])
        if wander:
            elapsed = np.minimum(when[:, None], when[None]) - self.times.min()
            own = own + wander * np.maximum(elapsed, 0.0)
        cov = self.variance * (own - cross @ inverse @ cross.T)
        # What is known of the value is common to all seeds
        return mean + self.error[0], cov - min(self.error[1], 0.9 * max(0.0, float(cov.min())))

    @cached_property
    def value(self) -> float:
        """The incumbent's mean, in the metric's unit."""
        mean = self.sign * float(self.predict([-1], [float(self.times.max())])[0][0])
        return math.exp(mean) if self.noise.ratios else mean

    def when(self, run: Measurement) -> float:
        return run.started / self.length

    def fit(self, runs: Sequence[Measurement]) -> Fit:
        """A candidate's runs against the incumbent's."""
        values = np.array([self.sign * self.noise.seen(run.value or 0.0) for run in runs])
        where, when = [run.trial.seed for run in runs], [self.when(run) for run in runs]
        mean, cov = self.predict(where, when)
        inverse = np.linalg.inv(cov + self.variance * self.own_share * np.eye(len(runs)))
        rest, total = values - mean, float(inverse.sum())
        estimate = float((inverse @ rest).sum()) / total
        rest = rest - estimate
        size = -float(np.linalg.slogdet(inverse)[1]) + math.log(total) if len(runs) > 1 else 0.0
        return Fit(Effect(estimate, 1 / total), len(runs) - 1, float(rest @ inverse @ rest), size)

    def after_head(self, runs: Sequence[Measurement], seeds: Sequence[int], now: float) -> Floats:
        """What a candidate's variance will be after `runs` and one more on each of `seeds`."""
        where = [run.trial.seed for run in runs] + list(seeds)
        _, cov = self.predict(where, [self.when(run) for run in runs] + [now] * len(seeds))
        own, n = self.variance * self.own_share, len(runs)
        if not n:
            return np.asarray(np.diag(cov) + own)
        picks = [[*range(n), place] for place in range(n, len(where))]
        blocks = np.array([cov[np.ix_(pick, pick)] for pick in picks]) + own * np.eye(n + 1)
        return np.asarray(1 / np.linalg.inv(blocks).sum(axis=(1, 2)))

    def after_base(
        self, runs: Sequence[Measurement], seeds: Sequence[int], base: int, now: float
    ) -> Floats:
        """What a candidate's variance will be after `runs`, one more on each of `seeds` (none: on
        no more) and one of the incumbent on `base`.
        """
        where = [run.trial.seed for run in runs] + list(seeds) + [base]
        times = [self.when(run) for run in runs] + [now] * (len(seeds) + 1)
        _, cov = self.predict(where, times)
        own, n, last = self.variance * self.own_share, len(runs), len(where) - 1
        cov = cov - np.outer(cov[:, last], cov[last]) / (cov[last, last] + own)
        places = [[*range(n), place] for place in range(n, last)] or [[*range(n)]]
        found = [cov[np.ix_(pick, pick)] + own * np.eye(len(pick)) for pick in places]
        return np.asarray(1 / np.linalg.inv(np.array(found)).sum(axis=(1, 2)))
