"""Confirmation: does the head beat the base on fresh seeds and held-out data? The only place where
a claim is made.

Covers one attempt in pairs and what is said of any attempt; the test and its interval are
sign_flip.py's, an attempt with few runs of either side is labelled.py's. Which head is confirmed,
the level (claims.py) and the single fallback are the caller's. Pure: runs are derived from the
seed, so that a killed confirmation goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autoresearch_action.acceptance import NeedRuns, RunRequest
from autoresearch_action.acceptance.limits import judge_limits
from autoresearch_action.acceptance.noise import MORE_PAIRS, Noise, derive, first_look, t_quantile
from autoresearch_action.acceptance.repeats import Draws
from autoresearch_action.acceptance.sign_flip import (
    COVERAGE,
    Floats,
    adjusted,
    interval,
    stagewise,
)
from autoresearch_action.brief import Brief
from autoresearch_action.records import Confirmation, Measurement

# Pairs replaced where the base side crashed
SPARE = 2
# Pairs beyond twice those that count that may repeat a draw before it is given up
REPEATS = 3
# Of the base's clock: a head that trained longer by more is not compared
LONGER = 0.01
PAIRS = "sign-flip randomisation test"
Pair = tuple[Measurement, Measurement]
Seen = tuple[Sequence[Measurement], Sequence[Measurement]]
Interval = Callable[[Floats, Floats], tuple[float | None, float | None]]


class PairedConfirmation:
    """One attempt at a claim. `level`: one-sided, of all of it; `slice`: of the hold-out."""

    def __init__(
        self,
        brief: Brief,
        noise: Noise,
        *,
        level: float = 0.025,
        seed: int,
        slice: int = 0,
        max_pairs: int | None = None,
        seen: Seen = ((), ()),
    ) -> None:
        """`seen`: what the search ran of base and of head: its draws are no proof."""
        self.brief, self.noise, self.level, self.seed, self.slice = brief, noise, level, seed, slice
        self.draws = Draws(noise.sigma, *seen)
        first, most = first_look(level), first_look(level) + MORE_PAIRS
        self.enough = True
        if max_pairs is not None:
            most, self.enough = min(most, max_pairs), noise.exact or 2.0**-max_pairs <= level
        self.most = max_pairs
        self.looks = (1,) if noise.exact else (first, most) if most > first else (most,)

    def decide(self, runs: Sequence[Measurement]) -> NeedRuns | Confirmation:
        """The pairs wanted next, or the outcome. A head that fails on any seed is not claimed."""
        if self.noise.blind:
            return self.lost(
                "Nothing can be claimed: seeds have no effect, so luck cannot be told from a gain."
            )
        if not self.enough:
            few = f"{self.looks[-1]} pairs, too few for level {self.level:.2g}"
            return self.lost(f"Nothing can be claimed: the budget left is for {few}.")
        sides: dict[tuple[int, str], Measurement] = {}
        for run in runs:
            sides.setdefault((run.trial.seed, run.trial.side), run)
        for run in sides.values():
            if run.trial.side == "head" and not measured(run) and run.outcome != "lost":
                return self.lost(
                    f"Does not hold: the head fails on a fresh seed ({run.reason or run.outcome})."
                )
        pairs: list[Pair] = []
        repeats: list[Pair] = []
        needed: list[list[RunRequest]] = []
        failed, place, looks, why = 0, 0, list(self.looks), ""
        while True:
            while len(pairs) + len(needed) < looks[0] and failed <= SPARE:
                seed = derive(self.seed, "confirm", place)
                base, head = (sides.get((seed, side)) for side in ("base", "head"))
                place += 1
                if broken := [run for run in (base, head) if run and not measured(run)]:
                    failed += 1
                    why = broken[0].reason or broken[0].outcome
                elif base and head:
                    new = self.noise.exact or self.draws.new((base, head), pairs)
                    (pairs if new else repeats).append((base, head))
                else:
                    done = {run.trial.side for run in (base, head) if run}
                    needed.append([one for one in self._pair(place, seed) if one.side not in done])
            if failed > SPARE:
                what = f"{failed} pairs could not be measured, the base failed: {why}"
                return self.lost(f"Nothing can be claimed: {what}")
            if self._exhausted(looks[0], pairs, repeats):
                return self._repeating(pairs, repeats)
            if needed:
                return NeedRuns(tuple(request for pair in needed for request in pair))
            answer = self._judge(pairs, looks)
            if answer is not None:
                return answer
            looks.pop(0)

    def _pair(self, place: int, seed: int) -> list[RunRequest]:
        pair = [RunRequest("base", seed, self.slice), RunRequest("head", seed, self.slice)]
        return pair[::-1] if derive(self.seed, "order", place) % 2 else pair

    def _exhausted(self, goal: int, pairs: Sequence[Pair], repeats: Sequence[Pair]) -> bool:
        """Whether too few new draws are left, or too few runs, to have as many as are needed."""
        short = self.most is not None and goal + len(repeats) > self.most
        return bool(repeats) and (short or len(repeats) > REPEATS + 2 * len(pairs))

    def _repeating(self, pairs: Sequence[Pair], repeats: Sequence[Pair]) -> Confirmation:
        base, head = ([pair[side] for pair in (*pairs, *repeats)] for side in (0, 1))
        return self.seen_before(base, head, len(pairs), len(pairs) + len(repeats))

    def seen_before(
        self, base: Sequence[Measurement], head: Sequence[Measurement], new: int, seeds: int
    ) -> Confirmation:
        facts = self.estimates(base, head) if base and head else {"estimate": 0.0}
        return self.lost(
            "Nothing can be claimed beyond the draws that were seen, over which the head differs by"
            f" {_signed(self.brief.sign * facts['estimate'])}: values repeat over seeds, and of"
            f" {seeds} fresh seeds {new} gave a draw that neither the search nor"
            " another seed had. Have the seed draw more than a few folds, or score on held-out"
            " data.",
            **facts,
        )

    def barred(self, pairs: Sequence[Pair], facts: dict[str, Any]) -> Confirmation | None:
        """Where a limit or equal time forbids the claim; else `facts` are noted of it."""
        base, head = [b for b, _ in pairs], [h for _, h in pairs]
        guard, sentence = judge_limits(self.brief, head, base)
        if guard == "broken":
            return self.lost(f"Does not hold: {sentence}", **facts)
        if self.brief.fixed_time and (longer := trained_longer(pairs, self.brief.time_budget)):
            return self.lost(f"Does not hold: {longer}", **facts)
        doubtful = [f"within the noise over its limit: {sentence}"]
        facts["notes"] = doubtful if guard == "doubtful" else []
        return None

    def _judge(self, pairs: Sequence[Pair], looks: Sequence[int]) -> Confirmation | None:
        base, head = [b for b, _ in pairs], [h for _, h in pairs]
        facts = self.estimates(base, head)
        if (barred := self.barred(pairs, facts)) is not None:
            return barred
        differences = [self.brief.sign * (value_of(h) - value_of(b)) for b, h in pairs]
        if self.noise.exact:
            return self._exact(differences[0], facts)
        place = self.looks.index(looks[0])
        outcome = stagewise(differences, self.looks[: place + 1], self.level, last=len(looks) == 1)
        if not (outcome.rejected or outcome.hopeless or len(looks) == 1):
            return None
        low, high = self.interval(base, head, lambda base, head: interval((head - base).tolist()))
        facts |= widened(float(facts["estimate"]), low, high, pairs)
        facts |= {"p_value": outcome.p_value, "level": self.level, "test": PAIRS}
        facts["adjusted"] = adjusted(differences, self.level)
        return self.said(outcome.rejected, f"{len(pairs)} pairs of fresh seeds", facts)

    def said(self, rejected: bool, over: str, facts: dict[str, Any]) -> Confirmation:
        told = f"{_signed(self.brief.sign * facts['estimate'])} over {over}"
        chance = f"p = {facts['p_value']:.2g}, level {self.level:.2g}"
        if rejected:
            reason = f"Holds: {told}, {facts['test']}, {chance}."
            return Confirmation(held=True, reason=reason, **facts)
        facts["adjusted"] = facts["estimate"]
        if facts["estimate"] <= 0:
            return self.lost(f"Does not hold: the head was no better, {told}.", **facts)
        return self.lost(f"Does not hold: {told} may be chance ({chance}).", **facts)

    def interval(
        self, base: Sequence[Measurement], head: Sequence[Measurement], of: Interval
    ) -> tuple[float | None, float | None]:
        """Bounds of the gain by a test that `of` inverts; where the metric is a time or a rate,
        which vary by their size, of the ratio of head to base, at the base's mean.
        """
        sign = self.brief.sign
        theirs, mine = (np.array([value_of(run) for run in side]) for side in (base, head))
        if not self.brief.measures_time or min(theirs.min(), mine.min()) <= 0:
            return of(sign * theirs, sign * mine)
        ends = of(sign * np.log(theirs), sign * np.log(mine))
        mean = float(theirs.mean())
        low, high = (None if end is None else sign * mean * math.expm1(sign * end) for end in ends)
        return low, high

    def _exact(self, gain: float, facts: dict[str, Any]) -> Confirmation:
        facts |= {"low": gain, "high": gain, "test": "exact", "over": "this instance"}
        if gain > 0:
            told = _signed(self.brief.sign * gain)
            return Confirmation(
                held=True, reason=f"Holds on this instance: {told}, exactly.", **facts
            )
        return self.lost("Does not hold: no better on this instance.", **facts)

    def estimates(self, base: Sequence[Measurement], head: Sequence[Measurement]) -> dict[str, Any]:
        mine, theirs = (math.fsum(map(value_of, side)) / len(side) for side in (head, base))
        gain = self.brief.sign * (mine - theirs)
        return {
            "baseline": theirs,
            "best": mine,
            "estimate": gain,
            "adjusted": gain,
            "pairs": min(len(base), len(head)),
        }

    def lost(self, reason: str, **facts: Any) -> Confirmation:
        return Confirmation(held=False, reason=reason, **facts)


def trained_longer(pairs: Sequence[Pair], window: float = 0.0) -> str:
    """The sentence where the head's clock exceeds the window, and the base's by more than LONGER
    and than chance explains; or "".

    Three standard errors: over seven pairs chance alone reaches that once in eighty confirmations.
    """
    excess = np.array([head.clock - base.clock for base, head in pairs])
    mine, theirs = (
        math.fsum(side) / len(pairs)
        for side in ([h.clock for _, h in pairs], [b.clock for b, _ in pairs])
    )
    error = float(excess.std(ddof=1)) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
    if mine <= window or mine - theirs <= max(LONGER * theirs, 3 * error):
        return ""
    took = f"{mine:.4g} s on average where the base took {theirs:.4g} s"
    return f"the head trained longer, {took}: equal time for all."


def widened(
    estimate: float,
    low: float | None,
    high: float | None,
    pairs: Sequence[Pair],
) -> dict[str, Any]:
    """The interval, and over what: where the scorer gives document blocks, their spread is added in
    quadrature.
    """
    count = min(min(len(b.blocks), len(h.blocks)) for b, h in pairs)
    over = "seeds"
    if count > 1 and low is not None and high is not None:
        gaps = np.array([np.subtract(h.blocks[:count], b.blocks[:count]) for b, h in pairs]).mean(
            axis=0
        )
        half = (
            t_quantile((1 + COVERAGE) / 2, count - 1) * float(gaps.std(ddof=1)) / math.sqrt(count)
        )
        low = estimate - math.hypot(estimate - low, half)
        high = estimate + math.hypot(high - estimate, half)
        over = "seeds and document blocks"
    return {"low": low, "high": high, "over": over}


def measured(run: Measurement) -> bool:
    return run.outcome == "ok" and run.value is not None and math.isfinite(run.value)


def value_of(run: Measurement) -> float:
    assert run.value is not None
    return run.value


def _signed(value: float) -> str:
    return f"{value:+.4g}".replace("-", "−")
