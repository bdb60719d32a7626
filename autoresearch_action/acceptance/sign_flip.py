"""The test of a claim, its interval and its estimate: on the differences of pairs alone.

The test is Fisher's sign-flip randomisation test on the pairs' differences (Fisher 1935, §21;
Pitman 1937): within a pair the order is random, so without an effect every difference is as likely
to have either sign, whatever its distribution: heavy tails and skew cannot break the level. It
looks twice, by stage-wise ordering of the sign patterns (Armitage 1957; Jennison & Turnbull 1999,
§8.4), which keeps the level exactly. The interval inverts the test (Hartigan 1969, typical values).

Pure. Knows nothing of runs, seeds and metrics (confirm.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoresearch_action.acceptance.noise import t_quantile

# Of the level spent at the first look
FIRST_SHARE = 0.6
# A first look with a p-value above this ends it (futility: cannot raise the error)
HOPELESS = 0.35
COVERAGE = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What the test says at one look. `p_value` belongs to the whole plan of looks, not to this
    look alone.
    """

    p_value: float
    rejected: bool
    hopeless: bool


def stagewise(
    differences: Sequence[float], looks: Sequence[int], level: float, last: bool = True
) -> Outcome:
    """The sign-flip test after the last of `looks` pairs; the earlier looks are known not to have
    rejected.

    `differences`: improvements, > 0 better. One-sided p-value = share of the 2ⁿ sign patterns that
    would have been rejected at an earlier look, or else sum to at least what was seen. Not `last`:
    only FIRST_SHARE of level is spent.
    """
    rejected = np.zeros(1, dtype=bool)
    p_value = share = 1.0
    for index, n in enumerate(looks):
        final = index == len(looks) - 1
        spend = level if final and last else FIRST_SHARE * level
        sums = flips(differences[:n])
        earlier = np.tile(rejected, len(sums) // len(rejected))
        spare = np.sort(sums[~earlier])[::-1]
        slack = 1e-12 * float(np.abs(sums).max())
        if final:
            share = float(np.mean(sums >= sums[0] - slack))
            p_value = float(np.mean(earlier | (sums >= sums[0] - slack)))
            return Outcome(p_value, bool(p_value <= spend), not last and share > HOPELESS)
        room = math.floor(spend * len(sums) + 1e-9) - int(earlier.sum())
        # Equal sums are rejected together or not at all.
        edge = spare[room] + slack if 0 <= room < len(spare) else math.inf
        rejected = earlier | (sums > edge)
    raise ValueError("no looks")


def flips(differences: Sequence[float]) -> Floats:
    """Sums under all 2ⁿ sign patterns; bit i of the index flips difference i, index 0 is what was
    seen.
    """
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def interval(
    differences: Sequence[float], coverage: float = COVERAGE
) -> tuple[float | None, float | None]:
    """The effects that the two-sided sign-flip test does not reject: order statistics of the subset
    means.
    """
    sums, counts = np.zeros(1), np.zeros(1)
    for value in differences:
        sums, counts = np.concatenate([sums, sums + value]), np.concatenate([counts, counts + 1])
    means = np.sort(sums[1:] / counts[1:])
    rank = math.floor((1 - coverage) / 2 * len(sums) + 1e-9)
    return (float(means[rank - 1]), float(means[-rank])) if rank else (None, None)


def adjusted(differences: Sequence[float], level: float) -> float:
    """`conditional` for pairs."""
    n, plain = len(differences), math.fsum(differences) / len(differences)
    spread = float(np.std(differences, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return conditional(plain, spread, n - 1, level)


def conditional(plain: float, spread: float, freedom: int, level: float) -> float:
    """The estimate given that it is quoted only where the test rejects: it then is too high on
    average.

    Conditional maximum likelihood of a truncated normal mean, averaged with the plain one (Zhong &
    Prentice 2008, Biostatistics 9:621), never below half of the plain estimate.
    """
    from scipy.special import log_ndtr

    if spread == 0:
        return plain
    edge = min(plain, t_quantile(1 - level, freedom) * spread)
    low, high = 0.0, plain
    for _ in range(50):
        middle = (low + high) / 2
        u = (middle - edge) / spread
        mills = math.exp(-u * u / 2 - math.log(2 * math.pi) / 2 - float(log_ndtr(u)))
        low, high = (middle, high) if (plain - middle) / spread > mills else (low, middle)
    return (plain + (low + high) / 2) / 2
