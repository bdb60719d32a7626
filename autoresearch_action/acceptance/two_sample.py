"""The test of a plain effect: labels in random order, so that few runs are enough.

Fisher's randomisation test of two samples (Fisher 1935, §21; Pitman 1937): which runs are the
head's is drawn at random, so without an effect every choice of them is as likely as the one that
was made, whatever the runs' distribution or the machine's drift. Four and four runs reach 1/70
where sign flips need six pairs. A change that makes runs alike and none better is no gain, so
Welch's test (1947), whose null are equal means whatever the spreads, must agree: the p-value is the
larger of both. The interval inverts that. Also chooses, before anything is
run, between this test and the paired one (sign_flip.py) from what is believed of the effect. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from autoresearch_action.acceptance.noise import MORE_PAIRS, Noise, first_look, t_quantile
from autoresearch_action.acceptance.sign_flip import COVERAGE, Floats
from autoresearch_action.records import Record

# Runs of both sides together
LEAST_RUNS, MOST_RUNS = 8, 16


class Plan(Record):
    """How a claim is tested, chosen before it: runs of `base` and `head` in random order, or as
    many `pairs` with sign flips.
    """

    base: int = 0
    head: int = 0
    pairs: int = 0

    @property
    def runs(self) -> int:
        return self.base + self.head or 2 * self.pairs


@lru_cache(maxsize=64)
def _choices(head: int, total: int) -> tuple[tuple[int, ...], ...]:
    return tuple(combinations(range(total), head))


def differences(base: Floats, head: Floats) -> Floats:
    """Mean of the head's less mean of the base's under every choice of labels (last axis); the one
    that was made comes first. Arrays of runs in the last axis.
    """
    values = np.concatenate([head, base], axis=-1)
    picks = np.array(_choices(head.shape[-1], values.shape[-1]))
    sums = values[..., picks].sum(axis=-1)
    rest = values.sum(axis=-1, keepdims=True) - sums
    return np.asarray(sums / head.shape[-1] - rest / base.shape[-1])


def p_value(base: Floats, head: Floats) -> Floats:
    """One-sided, a higher head being better: the share of choices that are as good, or Welch's."""
    every = differences(base, head)
    slack = 1e-12 * np.abs(every).max(axis=-1, keepdims=True)
    choices = (every >= every[..., :1] - slack).mean(axis=-1)
    return np.asarray(np.maximum(choices, _welch(base, head)))


def _welch(base: Floats, head: Floats) -> Floats:
    from scipy.special import stdtr

    mine, theirs = (side.var(axis=-1, ddof=1) / side.shape[-1] + 1e-300 for side in (head, base))
    # Of the squared error
    share = mine / (mine + theirs)
    freedom = 1 / (share**2 / (head.shape[-1] - 1) + (1 - share) ** 2 / (base.shape[-1] - 1))
    gain = head.mean(axis=-1) - base.mean(axis=-1)
    return np.asarray(stdtr(freedom, -gain / np.sqrt(mine + theirs)))


def interval(base: Floats, head: Floats) -> tuple[float | None, float | None]:
    """The shifts that the test does not reject, a tail of (1 − COVERAGE) / 2 on each side."""
    tail = (1 - COVERAGE) / 2
    if 1 / math.comb(len(base) + len(head), len(head)) > tail:
        return None, None
    gaps = np.sort((head[:, None] - base[None]).ravel())
    width = float(gaps[-1] - gaps[0]) + 1e-300

    def bound(sign: float) -> float:
        inside, outside = float(np.mean(gaps)), float(np.mean(gaps)) - 9 * sign * width
        for _ in range(45):
            middle = (inside + outside) / 2
            rejected = p_value(sign * base, sign * (head - middle)) <= tail
            inside, outside = (inside, middle) if rejected else (middle, outside)
        return outside

    return bound(1.0), bound(-1.0)


@dataclass(frozen=True)
class _Option:
    """A way to test: its runs, the standard errors of an effect of σ, degrees of freedom, and the
    level that so few choices reach.
    """

    plan: Plan
    precision: float
    freedom: int
    reached: float


@lru_cache(maxsize=256)
def _options(level: float, shared: float, repeats: bool) -> tuple[_Option, ...]:
    found = []
    # Draws that come twice are told apart pair by pair
    for runs in range(LEAST_RUNS, 0 if repeats else MOST_RUNS + 1):
        base = runs // 2
        choices = math.comb(runs, base)
        if reached := math.floor(level * choices) / choices:
            error = math.sqrt(1 / base + 1 / (runs - base))
            found.append(_Option(Plan(base=base, head=runs - base), 1 / error, runs - 2, reached))
    few = first_look(level) - 1
    for pairs in (few, few + 1 + MORE_PAIRS):
        error = max(math.sqrt(2 * (1 - shared) / pairs), 0.05)
        reached = math.floor(level * 2**pairs) / 2**pairs
        found.append(_Option(Plan(pairs=pairs), 1 / error, pairs - 1, reached))
    return tuple(found)


def plan(
    noise: Noise,
    mean: float,
    deviation: float,
    level: float,
    trials: float,
    most: float = math.inf,
) -> Plan | None:
    """The test that is worth most, of `most` runs (None: too few for any), for a gain believed to
    be `mean` ± `deviation` (metric's unit) that took `trials` to find: its power less what its runs
    would have found.
    """
    from scipy.special import nctdtr

    if noise.exact or noise.blind:
        return Plan(pairs=1) if most >= 2 else None
    few = first_look(level) - 1
    if noise.sigma <= 0:
        # No spread was seen that a plan could rest on
        pairs = min(few + 1 + MORE_PAIRS, int(min(most, 100)) // 2)
        return Plan(pairs=pairs) if pairs >= few else None
    options = _options(level, noise.shared, noise.repeats or noise.coarse)
    able = [option for option in options if option.plan.runs <= most]
    if not able:
        return None
    effects = np.array([max(0.0, mean + step * deviation) / noise.spread for step in (-1, 0, 1)])
    freedom = np.array([option.freedom for option in able])
    bars = np.array([t_quantile(1 - option.reached, option.freedom) for option in able])
    precision = np.array([option.precision for option in able])
    centres = np.minimum(precision * effects[:, None], 35.0)
    powers = 1 - np.array([0.25, 0.5, 0.25]) @ nctdtr(freedom, centres, bars)
    runs = np.array([option.plan.runs for option in able])
    return able[int((powers - runs / trials).argmax())].plan
