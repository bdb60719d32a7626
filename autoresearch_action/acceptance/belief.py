"""Belief: what effects ideas have, and what is known of one.

The prior over effects is a mixture, a third of it at nothing, that is fitted to all ideas so far
(empirical Bayes: Robbins 1956; Efron 2010). What a candidate's runs say of its effect is
lineage.py's. A gain is positive. Pure; what to run next is keep.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Effects in σ of the first calibration
_SIDE = np.geomspace(0.05, 40, 48)
GRID: Floats = np.concatenate([-_SIDE[::-1], [0.0], _SIDE])
_WIDTH = np.gradient(GRID)
# Mean sizes of gains and losses that the prior mixes
SIZES = (0.3, 0.7, 1.5, 3.0, 6.0, 14.0)
# Ideas' worth of what is thought of ideas before the first: nothing, gains and losses by size
NOTHING_COUNT = 1.25
GAIN_COUNTS = (0.15, 0.2, 0.22, 0.2, 0.12, 0.05)
LOSS_COUNTS = (0.2, 0.3, 0.45, 0.4, 0.2, 0.06)
_COUNTS = np.array([NOTHING_COUNT, *GAIN_COUNTS, *LOSS_COUNTS])
# Share of runs that are off by more than σ tells, and how far these spread
STRAY, STRAY_SPREAD = 0.03, 3.0
_STRAYS = math.log(STRAY / (1 - STRAY) / STRAY_SPREAD)


def _components() -> Floats:
    rows = [np.where(GRID == 0, 1.0, 0.0)]
    for side in (1, -1):
        for size in SIZES:
            density = np.where(side * GRID > 0, np.exp(-np.abs(GRID) / size) * _WIDTH, 0.0)
            rows.append(density / density.sum())
    return np.array(rows)


COMPONENTS = _components()


@dataclass(frozen=True)
class Effect:
    """The likelihood of a delta: N(estimate, variance), in the metric's unit."""

    estimate: float
    variance: float

    def on_grid(self, scale: float) -> Floats:
        """Likelihood of each effect of GRID × `scale`, up to a factor; a few runs are strays."""
        squares = -0.5 * (self.estimate - scale * GRID) ** 2 / max(self.variance, 1e-300)
        logs = np.logaddexp(squares, squares / STRAY_SPREAD**2 + _STRAYS)
        return np.asarray(np.exp(logs - logs.max()))


@dataclass(frozen=True)
class Posterior:
    """What is known of one delta: weights of GRID × `scale`."""

    weights: Floats
    scale: float

    @property
    def mean(self) -> float:
        return self.scale * float(self.weights @ GRID)

    @property
    def variance(self) -> float:
        return max(0.0, self.scale**2 * float(self.weights @ GRID**2) - self.mean**2)

    @property
    def chance(self) -> float:
        """That it is a gain."""
        return float(self.weights[GRID > 0].sum())

    def interval(self, coverage: float = 0.9) -> tuple[float, float]:
        tail, reached = (1 - coverage) / 2, np.cumsum(self.weights)
        low, high = np.searchsorted(reached, [tail, 1 - tail]).clip(0, len(GRID) - 1)
        return self.scale * float(GRID[low]), self.scale * float(GRID[high])


class Prior:
    """What effects ideas have, fitted to the effects seen so far. `scale`: GRID's unit."""

    def __init__(self, scale: float, seen: Sequence[Effect] = ()) -> None:
        self.scale = scale
        self._rows = np.zeros((0, len(_COUNTS)))
        self._shares = _COUNTS / _COUNTS.sum()
        for effect in seen:
            self._take(effect)
        self._fit(30)

    def add(self, effect: Effect) -> None:
        """Learn from one more idea."""
        self._take(effect)
        self._fit(3)

    def _take(self, effect: Effect) -> None:
        row = COMPONENTS @ effect.on_grid(self.scale)
        self._rows = np.vstack([self._rows, row / max(float(row.sum()), 1e-300)])

    def _fit(self, steps: int) -> None:
        """Expectation-maximisation of the mixture's shares, with the counts as its prior."""
        for _ in range(steps):
            parts = self._rows * self._shares
            parts /= parts.sum(axis=1, keepdims=True) + 1e-300
            counts = _COUNTS + parts.sum(axis=0)
            self._shares = counts / counts.sum()
        self.weights: Floats = self._shares @ COMPONENTS

    def given(self, *effects: Effect) -> Posterior:
        weights = self.weights
        for effect in effects:
            weights = weights * effect.on_grid(self.scale)
        return Posterior(weights / weights.sum(), self.scale)
