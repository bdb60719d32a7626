"""A plain effect confirmed with few runs: of base and head in random order, on seeds of their own.

Covers the runs of one such attempt; the test and its interval are two_sample.py's, what bars a
claim and what is said of it are confirm.py's. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from autoresearch_action.acceptance import NeedRuns, RunRequest, two_sample
from autoresearch_action.acceptance.confirm import (
    REPEATS,
    SPARE,
    PairedConfirmation,
    measured,
    value_of,
    widened,
)
from autoresearch_action.acceptance.noise import Noise, derive
from autoresearch_action.acceptance.sign_flip import conditional
from autoresearch_action.acceptance.two_sample import Plan
from autoresearch_action.brief import Brief
from autoresearch_action.records import Confirmation, Measurement

LABELS = "two-sample randomisation and Welch's test"


class LabelledConfirmation(PairedConfirmation):
    """One attempt at a plain claim: as many runs of base and head as `plan` says, on fresh seeds,
    which of them are the head's drawn at random.
    """

    def __init__(self, brief: Brief, noise: Noise, *, plan: Plan, **facts: Any) -> None:
        super().__init__(brief, noise, **facts)
        self.plan, self.looks = plan, (min(plan.base, plan.head),)

    def decide(self, runs: Sequence[Measurement]) -> NeedRuns | Confirmation:
        """The runs wanted next, or the outcome. A head that fails on any seed is not claimed."""
        done = {run.trial.seed: run for run in runs}
        found: dict[str, list[Measurement]] = {"base": [], "head": []}
        needed, failed, repeats = [], list[Measurement](), list[Measurement]()
        dice = np.random.default_rng(derive(self.seed, "labels"))
        sides = dice.permutation(["base"] * self.plan.base + ["head"] * self.plan.head).tolist()
        for place, side in enumerate(sides):
            seed = derive(self.seed, "label", place)
            run = done.get(seed)
            if run is None:
                needed.append(RunRequest(side, seed, self.slice))
            elif measured(run):
                again = self.draws.again(side, run, found[side])
                (repeats if again else found[side]).append(run)
                sides += [side] * again
            elif side == "head" and run.outcome != "lost":
                why = run.reason or run.outcome
                return self.lost(f"Does not hold: the head fails on a fresh seed ({why}).")
            else:
                failed.append(run)
                # Another in its place
                sides.append(side)
            if len(failed) > SPARE:
                what = f"{len(failed)} runs could not be measured: {run.reason if run else ''}"
                return self.lost(f"Nothing can be claimed: {what}")
            if len(repeats) > REPEATS:
                base, head = (
                    found[one] + [run for run in repeats if run.trial.side == one]
                    for one in ("base", "head")
                )
                new = len(base) + len(head) - len(repeats)
                return self.seen_before(base, head, new, new + len(repeats))
        return NeedRuns(tuple(needed)) if needed else self._compare(found["base"], found["head"])

    def _compare(self, base: list[Measurement], head: list[Measurement]) -> Confirmation:
        pairs = list(zip(base, head, strict=False))
        facts = self.estimates(base, head)
        if (barred := self.barred(pairs, facts)) is not None:
            return barred
        mine, theirs = (
            self.brief.sign * np.array([value_of(run) for run in side]) for side in (head, base)
        )
        p_value = float(two_sample.p_value(theirs, mine))
        low, high = self.interval(base, head, two_sample.interval)
        facts |= widened(facts["estimate"], low, high, pairs)
        facts |= {"p_value": p_value, "level": self.level, "test": LABELS}
        freedom = len(base) + len(head) - 2
        squares = sum(float(side.var(ddof=1)) * (len(side) - 1) for side in (mine, theirs))
        spread = math.sqrt(squares / freedom * (1 / len(base) + 1 / len(head)))
        facts["adjusted"] = conditional(facts["estimate"], spread, freedom, self.level)
        over = f"{len(base)} and {len(head)} runs on fresh seeds"
        return self.said(p_value <= self.level, over, facts)


def confirmation(
    brief: Brief, noise: Noise, *, plan: Plan | None = None, **facts: Any
) -> PairedConfirmation:
    """The rule of an attempt that was planned; without a plan (of the release before) in pairs."""
    if plan is not None and plan.base:
        return LabelledConfirmation(brief, noise, plan=plan, **facts)
    return PairedConfirmation(brief, noise, **facts)
