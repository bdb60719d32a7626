"""What every run teaches of the noise: σ, how much of it seeds share, how far the machine wanders.

By marginal likelihood on a grid of a few shapes and sizes, the past weighing a little less with
each idea, so that the noise follows the incumbent. Pure; calibration before any idea is noise.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoresearch_action.acceptance.belief import GRID, STRAY, STRAY_SPREAD, Floats, Prior
from autoresearch_action.acceptance.lineage import Code, Lineage
from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.records import Measurement

# What is known of the noise beside σ: (share of σ² that a seed explains, wander in σ² a trial)
SEEDED = ((0.0, 0.0), (0.3, 0.0), (0.55, 0.0), (0.75, 0.0), (0.87, 0.0), (0.95, 0.0))
TIMED = ((0.0, 0.01), (0.0, 0.05), (0.0, 0.2), (0.0, 0.8), (0.0, 3.0))
# σ in units of the calibration's
SCALES: Floats = np.geomspace(1 / 8, 4, 16)
# Standard deviation of log σ about the calibration's, before any run
SURE = 0.35
# Weight of the past after one more idea
MEMORY = 0.995


def learnt(
    noise: Noise,
    codes: Sequence[Code],
    sign: int,
    runs: Sequence[Measurement],
    prior: Prior | None = None,
) -> Noise:
    """The noise after one more candidate, or (without `prior`) after one more run of the incumbent,
    `codes` being what was known before: by marginal likelihood on a grid.
    """
    shapes = TIMED if noise.drift else SEEDED
    table = np.array(noise.evidence or _begin(noise, len(shapes)))
    factors = (SCALES * (noise.unit or noise.sigma) / noise.sigma) ** 2
    gains = GRID * prior.scale if prior else np.zeros(1)
    weights = prior.weights if prior else np.ones(1)
    for place, (shared, wander) in enumerate(shapes):
        shape = noise.model_copy(update={"shared": shared, "wander": wander})
        fit = Lineage(shape, codes, sign).fit(runs)
        variances = fit.effect.variance * factors[:, None]
        squares = (fit.effect.estimate - gains[None]) ** 2 / variances
        plain = np.exp(-0.5 * squares) + STRAY / STRAY_SPREAD * np.exp(-0.5 * squares / 9)
        log = np.log((plain / np.sqrt(variances)) @ weights + 1e-300)
        log -= 0.5 * (fit.spare * np.log(factors) + fit.rest / factors + fit.size)
        table[place] = MEMORY * table[place] + log
    table -= table.max()
    shares = np.exp(table)
    shares /= shares.sum()
    best = int(shares.sum(axis=1).argmax())
    sigma = (noise.unit or noise.sigma) * math.exp(float(shares.sum(axis=0) @ np.log(SCALES)))
    shared, wander = shapes[best]
    update = {"sigma": sigma, "shared": shared, "wander": wander, "unit": noise.unit or noise.sigma}
    rounded = np.maximum(table, -99).round(3).tolist()
    return noise.model_copy(update=update | {"evidence": rounded, "dof": noise.dof + fit.spare})


def _begin(noise: Noise, shapes: int) -> list[list[float]]:
    """What the baseline's runs say of σ, and that it seldom is far from there."""
    row = -noise.dof * (np.log(SCALES) + 0.5 / SCALES**2) - 0.5 * (np.log(SCALES) / SURE) ** 2
    return [row.tolist()] * shapes
