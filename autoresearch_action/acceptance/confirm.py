"""Confirmation: does the head beat the base on fresh seeds and held-out data? The only place where
a claim is made.

Covers the pairs to run and what is said of them; the test and the interval are sign_flip.py's.
Which head is confirmed, the level (claims.py) and the single fallback are the caller's. Pure: runs
are derived from the seed, so that a killed confirmation goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from autoresearch_action.acceptance import NeedRuns, RunRequest
from autoresearch_action.acceptance.limits import judge_limits
from autoresearch_action.acceptance.noise import MORE_PAIRS, Noise, derive, first_look, t_quantile
from autoresearch_action.acceptance.sign_flip import COVERAGE, adjusted, interval, stagewise
from autoresearch_action.brief import Brief
from autoresearch_action.records import Confirmation, Measurement

# Pairs replaced where the base side crashed
SPARE = 2
# Of the base's clock: a head that trained longer by more is not compared
LONGER = 0.01
TEST = "sign-flip randomisation test"


class PairedConfirmation:
    """One attempt at a claim. `level`: one-sided, of the whole attempt; `slice`: the hold-out's."""

    def __init__(
        self,
        brief: Brief,
        noise: Noise,
        *,
        level: float = 0.025,
        seed: int,
        slice: int = 0,
        max_pairs: int | None = None,
    ) -> None:
        self.brief, self.noise, self.level, self.seed, self.slice = brief, noise, level, seed, slice
        first, most = first_look(level), first_look(level) + MORE_PAIRS
        self.enough = True
        if max_pairs is not None:
            most, self.enough = min(most, max_pairs), noise.exact or 2.0**-max_pairs <= level
        self.looks = (1,) if noise.exact else (first, most) if most > first else (most,)

    def decide(self, runs: Sequence[Measurement]) -> NeedRuns | Confirmation:
        """The pairs wanted next, or the outcome. A head that fails on any seed is not claimed."""
        if self.noise.blind:
            return self._lost(
                "Nothing can be claimed: seeds have no effect, so luck cannot be told from a gain."
            )
        if not self.enough:
            return self._lost(
                f"Nothing can be claimed: the budget left is for {self.looks[-1]} pairs,"
                f" too few for level {self.level:.2g}."
            )
        sides: dict[tuple[int, str], Measurement] = {}
        for run in runs:
            sides.setdefault((run.trial.seed, run.trial.side), run)
        for run in sides.values():
            if run.trial.side == "head" and not _measured(run) and run.outcome != "lost":
                return self._lost(
                    f"Does not hold: the head fails on a fresh seed ({run.reason or run.outcome})."
                )
        pairs: list[tuple[Measurement, Measurement]] = []
        wants: list[tuple[int, int, dict[str, Measurement | None]]] = []
        failed, place, looks, why = 0, 0, list(self.looks), ""
        while True:
            goal = looks[0]
            while len(pairs) + len(wants) < goal and failed <= SPARE:
                seed = derive(self.seed, "confirm", place)
                found = {side: sides.get((seed, side)) for side in ("base", "head")}
                place += 1
                if any(run is not None and not _measured(run) for run in found.values()):
                    failed += 1
                    why = next(
                        (
                            r.reason or r.outcome
                            for r in found.values()
                            if r is not None and not _measured(r)
                        ),
                        why,
                    )
                elif found["base"] is not None and found["head"] is not None:
                    pairs.append((found["base"], found["head"]))
                else:
                    wants.append((place, seed, found))
            if failed > SPARE:
                return self._lost(
                    f"Nothing can be claimed: {failed} pairs could not be measured,"
                    f" the base failed: {why}"
                )
            if wants:
                return NeedRuns(tuple(want for pair in wants for want in self._pair(*pair)))
            answer = self._judge(pairs, looks)
            if answer is not None:
                return answer
            looks.pop(0)

    def _pair(
        self, place: int, seed: int, found: dict[str, Measurement | None]
    ) -> list[RunRequest]:
        pair = [
            RunRequest("base", seed, self.slice),
            RunRequest("head", seed, self.slice),
        ]
        if derive(self.seed, "order", place) % 2:
            pair.reverse()
        return [want for want in pair if found[want.side] is None]

    def _judge(
        self, pairs: Sequence[tuple[Measurement, Measurement]], looks: Sequence[int]
    ) -> Confirmation | None:
        base, head = [b for b, _ in pairs], [h for _, h in pairs]
        guard, sentence = judge_limits(self.brief, head, base)
        facts = self._estimates(base, head)
        if guard == "broken":
            return self._lost(f"Does not hold: {sentence}", **facts)
        if self.brief.fixed_time and (sentence := trained_longer(pairs)):
            return self._lost(f"Does not hold: {sentence}", **facts)
        facts["notes"] = (
            [f"within the noise over its limit: {sentence}"] if guard == "doubtful" else []
        )
        differences = [self.brief.sign * (_value(h) - _value(b)) for b, h in pairs]
        if self.noise.exact:
            return self._exact(differences[0], facts)
        place = self.looks.index(looks[0])
        outcome = stagewise(differences, self.looks[: place + 1], self.level, last=len(looks) == 1)
        if not (outcome.rejected or outcome.hopeless or len(looks) == 1):
            return None
        low, high = interval(differences)
        facts |= widened(float(facts["estimate"]), low, high, pairs)
        facts |= {"p_value": outcome.p_value, "level": self.level, "test": TEST}
        told = (
            f"{_signed(self.brief.sign * facts['estimate'])} over {len(pairs)} pairs of fresh seeds"
        )
        chance = f"p = {outcome.p_value:.2g}, level {self.level:.2g}"
        if not outcome.rejected:
            if facts["estimate"] <= 0:
                return self._lost(f"Does not hold: the head was no better, {told}.", **facts)
            return self._lost(f"Does not hold: {told} may be chance ({chance}).", **facts)
        facts["adjusted"] = adjusted(differences, self.level)
        return Confirmation(held=True, reason=f"Holds: {told}, {TEST}, {chance}.", **facts)

    def _exact(self, gain: float, facts: dict[str, Any]) -> Confirmation:
        facts |= {"low": gain, "high": gain, "test": "exact", "over": "this instance"}
        if gain > 0:
            told = _signed(self.brief.sign * gain)
            return Confirmation(
                held=True, reason=f"Holds on this instance: {told}, exactly.", **facts
            )
        return self._lost("Does not hold: no better on this instance.", **facts)

    def _estimates(
        self, base: Sequence[Measurement], head: Sequence[Measurement]
    ) -> dict[str, Any]:
        mine, theirs = (math.fsum(map(_value, side)) / len(side) for side in (head, base))
        gain = self.brief.sign * (mine - theirs)
        return {
            "baseline": theirs,
            "best": mine,
            "estimate": gain,
            "adjusted": gain,
            "pairs": len(base),
        }

    def _lost(self, reason: str, **facts: Any) -> Confirmation:
        return Confirmation(held=False, reason=reason, **facts)


def trained_longer(pairs: Sequence[tuple[Measurement, Measurement]]) -> str:
    """The sentence where the head's clock exceeds the base's by more than LONGER and than chance
    explains; or "".

    Three standard errors: over seven pairs chance alone reaches that once in eighty confirmations.
    """
    excess = np.array([head.clock - base.clock for base, head in pairs])
    mine, theirs = (
        math.fsum(side) / len(pairs)
        for side in ([h.clock for _, h in pairs], [b.clock for b, _ in pairs])
    )
    error = float(excess.std(ddof=1)) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
    if mine - theirs <= max(LONGER * theirs, 3 * error):
        return ""
    return (
        f"the head trained longer, {mine:.4g} s on average where the base took {theirs:.4g} s:"
        " equal time for all."
    )


def widened(
    estimate: float,
    low: float | None,
    high: float | None,
    pairs: Sequence[tuple[Measurement, Measurement]],
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


def _measured(run: Measurement) -> bool:
    return run.outcome == "ok" and run.value is not None and math.isfinite(run.value)


def _value(run: Measurement) -> float:
    assert run.value is not None
    return run.value


def _signed(value: float) -> str:
    return f"{value:+.4g}".replace("-", "−")
