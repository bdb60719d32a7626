"""Keep: which run is worth most next, and whether a candidate is kept for now.

The value of information (Howard 1966; Frazier, Powell & Dayanik 2008): a first look at a waiting
idea, another run of a candidate or of the incumbent goes ahead where it is expected to gain most
for a trial. A candidate is kept when its posterior mean exceeds the price of a change, let go when
no run of it is worth a fresh idea's first look. Cheap and one-sided, because confirmation bounds
every claim. Pure: derived from the evidence and the seed, so that it goes on after a kill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoresearch_action.acceptance import Decision, NeedRuns, RunRequest
from autoresearch_action.acceptance.belief import GRID, Effect, Floats, Posterior, Prior
from autoresearch_action.acceptance.limits import judge_limits
from autoresearch_action.acceptance.lineage import Lineage
from autoresearch_action.acceptance.noise import Noise, derive, good, pairs
from autoresearch_action.brief import Brief
from autoresearch_action.records import Measurement, Status

# Least gain that a kept change is worth to a reviewer, in σ
PRICE = 0.3
# Runs of one candidate
MOST = 8
# Of the incumbent beside one candidate
MOST_BESIDE = 4
# More runs that are looked ahead to: the first alone may change no decision
AHEAD = (1, 2, 4)
# In σ: what a run must be expected to gain where nothing else waits
IDLE = 0.02
# Seeds that are weighed for the next run, and by how much more variance one serves as well
SEEDS = 8
ALIKE = 1.05
# Trials after which the incumbent is seen again where the machine drifts
STALE = 6
# Shared seeds with equal values that tell an edit without effect: one may be chance where values
# are coarse
TWINS = 2
# Chances that it is a gain between which a verdict is inconclusive
DOUBT = (0.05, 0.95)
# … and between which it is looked at again where nothing else waits
AGAIN = (0.15, 0.9)
_STEPS = np.linspace(-7, 9, 65)


@dataclass(frozen=True)
class Situation:
    """What stands beside one candidate."""

    number: int
    lineage: Lineage
    prior: Prior
    # What was seen of the same edit on an earlier incumbent, or before it was let go
    before: tuple[Effect, ...] = ()
    # Whether another idea waits, or will
    waiting: bool = True
    # First looks at ideas until the incumbent is expected to change
    horizon: float = 10.0
    # Time of the next run, in lengths of a trial
    now: float = 0.0


class WorthOfRuns:
    """Provisional keeps against one incumbent. A new one for every question; holds no evidence."""

    def __init__(self, brief: Brief, noise: Noise, seed: int, situation: Situation) -> None:
        self.brief, self.noise, self.seed, self.here = brief, noise, seed, situation
        self.price = price_of(brief, noise)

    def decide(
        self, candidate: Sequence[Measurement], incumbent: Sequence[Measurement]
    ) -> NeedRuns | Decision:
        """Ask for runs, or decide. A candidate's crash, refusal or early stop decides at once."""
        for run in candidate:
            if run.outcome != "ok":
                failed = run.outcome in ("crash", "lost")
                return Decision("crash" if failed else "discard", run.reason or run.outcome)
        runs = [run for run in incumbent if run.outcome == "ok"]
        if self.noise.exact or self.noise.sigma == 0:
            return self._exact(candidate, runs)
        if not candidate:
            return self._first(incumbent)
        guard, sentence = judge_limits(self.brief, candidate, runs)
        if guard == "broken":
            return Decision("discard", sentence)
        twins = pairs(candidate, runs)
        if twins and all(mine == theirs for mine, theirs in twins):
            shared = [run.trial.seed for run in runs if run.trial.reseed == self.noise.reseed]
            done = {run.trial.seed for run in candidate}
            if len(twins) < TWINS and (left := [seed for seed in shared if seed not in done]):
                return NeedRuns((RunRequest("head", left[0]),))
            told = f"no effect: the incumbent's very value on {len(twins)} shared seed"
            return Decision("discard", told + "s" * (len(twins) != 1), 0.0, 0.0)
        return self._weigh(candidate, incumbent, guard, sentence)

    # What to run

    def _first(self, incumbent: Sequence[Measurement]) -> NeedRuns:
        """The first look at an idea; a run of the incumbent before it where that makes this and
        all looks to come worth more.
        """
        here = self.here
        seeds = self._seeds(())
        found = here.lineage.after_head((), seeds, here.now)
        # Ideas take turns on seeds that serve as well: what seeds explain shows only over several
        alike = np.flatnonzero(found <= ALIKE * found.min())
        place = int(alike[here.number % len(alike)])
        if not self._beside(incumbent):
            base = self._base_seed(incumbent)
            if self.noise.drift and here.now - here.lineage.times.max(initial=0.0) > STALE:
                return NeedRuns((RunRequest("base", base),))
        if here.waiting and not self._beside(incumbent):
            before = self.first_look(float(found[place]))
            after = here.lineage.after_base((), [*seeds, base], base, here.now)
            if here.horizon * (self.first_look(float(after.min())) - before) > before:
                return NeedRuns((RunRequest("base", base),))
        return NeedRuns((RunRequest("head", seeds[place]),))

    def first_look(self, variance: float) -> float:
        """What a first look at an idea gains, on average."""
        return worth(self.here.prior.given(), variance, self.price)

    def _weigh(
        self,
        candidate: Sequence[Measurement],
        incumbent: Sequence[Measurement],
        guard: str,
        sentence: str,
    ) -> NeedRuns | Decision:
        here = self.here
        effect = here.lineage.fit(candidate).effect
        belief = here.prior.given(*here.before, effect)
        seeds = self._seeds(candidate)
        found = here.lineage.after_head(candidate, seeds, here.now)
        options = [(float(found.min()), RunRequest("head", seeds[int(found.argmin())]))]
        if self._beside(incumbent) < MOST_BESIDE and not self._failed(incumbent):
            base = self._base_seed(incumbent, candidate)
            after = here.lineage.after_base(candidate, (), base, here.now)
            options.append((float(after[0]), RunRequest("base", base)))
        variance, request = min(options, key=lambda option: option[0])
        gain = self._gain(belief, effect.variance, variance)
        least = IDLE * self.noise.spread
        if here.waiting:
            fresh = here.lineage.after_head((), self._seeds(()), here.now)
            least = max(least, self.first_look(float(fresh.min())))
        doubtful = guard == "doubtful" and belief.mean > self.price
        if len(candidate) < MOST and (gain > least or doubtful):
            return NeedRuns((request if not doubtful else options[0][1],))
        if belief.mean > self.price:
            if doubtful:
                return self._told("discard", sentence, effect)
            return self._decision(True, belief, effect, len(candidate))
        return self._decision(False, belief, effect, len(candidate))

    def _gain(self, belief: Posterior, variance: float, after: float) -> float:
        """What one more run is expected to gain, or each of a few more."""
        more, now = 1 / after - 1 / variance, max(0.0, belief.mean - self.price)
        if more <= 1e-9 / variance:
            return 0.0
        return max((worth(belief, 1 / (k * more), self.price) - now) / k for k in AHEAD)

    def _seeds(self, candidate: Sequence[Measurement]) -> list[int]:
        """For the next run of a candidate: seeds that the lineage has run, or a new one."""
        done = {run.trial.seed for run in candidate}
        known = [seed for seed in self.here.lineage.known if seed not in done][:SEEDS]
        return known or [derive(self.seed, "fresh", len(candidate))]

    def _base_seed(
        self, incumbent: Sequence[Measurement], candidate: Sequence[Measurement] = ()
    ) -> int:
        """For a run of the incumbent: one of the candidate's that it lacks, or a new one."""
        done = {run.trial.seed for run in incumbent}
        lacks = [run.trial.seed for run in candidate if run.trial.seed not in done]
        return lacks[0] if lacks else derive(self.seed, "reference", len(incumbent))

    def _beside(self, incumbent: Sequence[Measurement]) -> int:
        return sum(run.trial.asked_by == self.here.number for run in incumbent)

    def _failed(self, incumbent: Sequence[Measurement]) -> bool:
        asked = (run for run in incumbent if run.trial.asked_by == self.here.number)
        return any(run.outcome != "ok" for run in asked)

    # What is said

    def _decision(self, kept: bool, belief: Posterior, effect: Effect, runs: int) -> Decision:
        low, high = belief.interval()
        over = f"over {runs} run{'s' * (runs != 1)}"
        told = f"{self._signed(belief.mean)} ({self._signed(low)} to {self._signed(high)}) {over}"
        chance = f"{100 * belief.chance:.0f} % that it is a gain"
        if kept:
            reason = f"{chance}: {told}, kept for now"
        elif belief.chance < DOUBT[0]:
            reason = f"worse: {chance}, {told}"
        else:
            reason = f"inconclusive: {chance}, {told}, not worth another run"
        return self._told("keep" if kept else "discard", reason, effect)

    def _told(self, status: Status, reason: str, effect: Effect) -> Decision:
        estimate, spread = effect.estimate, math.sqrt(effect.variance)
        if not self.noise.ratios:
            return Decision(status, reason, estimate, spread)
        value, sign = self.here.lineage.value, self.brief.sign
        gain = self.noise.gain(estimate, value, sign)
        around = value * math.exp(sign * estimate) * spread
        return Decision(status, reason, gain, around, (estimate, spread))

    def _signed(self, gain: float) -> str:
        """A gain is positive."""
        told = f"{100 * self.noise.gain(gain, 1.0, self.brief.sign):+.2g} %"
        return (told if self.noise.ratios else f"{gain:+.2g}").replace("-", "−")

    def _exact(
        self, candidate: Sequence[Measurement], references: Sequence[Measurement]
    ) -> NeedRuns | Decision:
        if not candidate:
            seed = references[0].trial.seed if references else self.seed
            return NeedRuns((RunRequest("head", seed),))
        guard, sentence = judge_limits(self.brief, candidate, references)
        if guard != "ok":
            return Decision("discard", sentence)
        gain = self.brief.sign * (good(candidate)[0] - good(references)[0])
        how = "seeds have no effect" if self.noise.blind else "exact"
        if gain > (self.brief.price or 0):
            told = f"{self.brief.sign * gain:+.6g} ({how}), kept for now".replace("-", "−")
            return Decision("keep", told, gain, 0.0)
        if gain > 0:
            told = f"better by {gain:.6g} ({how}), less than the price of a change"
        else:
            told = f"worse by {-gain:.6g} ({how})" if gain else f"no change ({how})"
        return Decision("discard", told, gain, 0.0)


def price_of(brief: Brief, noise: Noise) -> float:
    """The least gain that a change is kept for, in the unit of effects."""
    if brief.price is None:
        return PRICE * noise.spread
    return brief.price / noise.mean if noise.ratios else brief.price


def inconclusive(belief: Posterior, noise: Noise, price: float) -> bool:
    """Whether a second look may be worth it where trials cost nothing."""
    if noise.exact or not noise.sigma or not AGAIN[0] < belief.chance < AGAIN[1]:
        return False
    gain = worth(belief, 2 * noise.spread**2, price) - max(0.0, belief.mean - price)
    return gain > IDLE * noise.spread


def worth(belief: Posterior, variance: float, price: float) -> float:
    """Expected gain beyond `price` of keeping or not after one more look with that variance.

    The posterior mean rises with what is seen, so that there is one value from which it exceeds
    the price.
    """
    from scipy.special import ndtr

    effects: Floats = GRID * belief.scale
    spread = math.sqrt(variance)
    seen = price + spread * _STEPS
    joint = np.exp(-0.5 * (seen[:, None] - effects[None]) ** 2 / variance) * belief.weights
    means = joint @ effects / np.maximum(joint.sum(axis=1), 1e-300)
    bar = float(np.interp(price, means, seen))
    if means[0] >= price:
        bar = -math.inf
    elif means[-1] <= price:
        bar = math.inf
    return float(belief.weights @ ((effects - price) * ndtr((effects - bar) / spread)))
