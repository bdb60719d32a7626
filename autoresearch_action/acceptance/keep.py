"""The screen: is a candidate worth keeping for now? Cheap and one-sided, because confirmation
bounds every claim.

A sequential test on the standardised gain over the incumbent: hopeless candidates go after one run,
doubtful ones get replicates only while these can change the decision. Pure: what to run next is
derived from the evidence so far and the seed, so that an interrupted screen goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from autoresearch_action.acceptance import Decision, NeedRuns, RunRequest
from autoresearch_action.acceptance.drift import level
from autoresearch_action.acceptance.limits import judge_limits
from autoresearch_action.acceptance.noise import (
    Evidence,
    Noise,
    derive,
    good,
    pairs,
    pool,
    sample_variance,
    t_quantile,
)
from autoresearch_action.brief import Brief
from autoresearch_action.records import Measurement

# Standardised gain (normal units) at or below which a candidate goes, and from which it is kept, by
# runs of it: close to the bounds that minimise runs plus the costs of wrong decisions (Wald 1950;
# found by backward induction). By simulation (benchmark/acceptance.py) a change that does nothing
# is kept with probability 0.16, where time is measured 0.22 to 0.33.
DISCARD = (-0.2, 0.26, 0.47, 0.63, 0.73, 0.8, 0.87)
KEEP = (1.42, 1.1, 1.05, 1.0, 1.0, 1.0, 1.0, 0.95)
# Runs of one candidate
MOST = len(KEEP)
# Runs of the incumbent up to which every doubtful candidate adds one: one lucky mean would bar all
# others
SETTLED = 5
# Pairs from which a candidate's own paired spread counts
OWN_SPREAD = 4
# Shared seeds with equal values that tell an edit without effect: one may be chance where values
# are coarse
TWINS = 2
# Runs of the incumbent that may fail beside one candidate
SPARE = 2
# Runs of a new incumbent that its own screen did not select
FRESH = 4

# Where the machine drifts. Standardised gain over the incumbent's level at or below which a
# candidate goes (the first: before any run beside its own), and over the runs beside its own from
# which it is kept, by runs of it. Found by simulation of three kinds of drift, on other seeds than
# the published one; low after two, since a third and fourth run cost four.
LEVEL_DISCARD = (-0.06, -0.3, 0.0, 0.6, 0.3, 0.5)
BESIDE_KEEP = (1.3, 0.0, 1.4, 1.5, 1.4, 1.4)
# Share of the runs beside, beyond what they say of the level, in whether a candidate goes
BESIDE = 0.35
# Gain over today's level above which what was rejected unseen is measured again: the machine was
# another then
AGAIN = 0.25


class SequentialScreen:
    """Provisional keeps against one incumbent. A new one for every candidate; holds no evidence
    itself.
    """

    def __init__(
        self, brief: Brief, noise: Noise, seed: int, siblings: Sequence[Measurement] = ()
    ) -> None:
        """`siblings`: first runs of the other candidates on this incumbent; where the machine
        drifts they tell of steps.
        """
        self.brief, self.noise, self.seed, self.siblings = brief, noise, seed, siblings
        # Seeds on which the incumbent failed beside this candidate
        self._failed: set[int] = set()

    def decide(
        self, candidate: Sequence[Measurement], incumbent: Sequence[Measurement]
    ) -> NeedRuns | Decision:
        """Ask for runs, or decide. A candidate's crash, refusal or early stop decides at once."""
        answer = self._answer(candidate, incumbent)
        if isinstance(answer, NeedRuns) or not self.noise.drift:
            return answer
        return replace(answer, misjudged=tuple(self.misjudged(candidate, incumbent)))

    def _answer(
        self, candidate: Sequence[Measurement], incumbent: Sequence[Measurement]
    ) -> NeedRuns | Decision:
        for run in candidate:
            if run.outcome != "ok":
                return Decision(
                    "crash" if run.outcome in ("crash", "lost") else "discard",
                    run.reason or run.outcome,
                )
        references = self._references(incumbent)
        failed = [
            run
            for run in incumbent
            if run.outcome != "ok" and candidate and run.trial.asked_by == candidate[0].trial.number
        ]
        if len(failed) > SPARE:
            often = f"the incumbent failed beside it {len(failed)} times ({failed[-1].reason})"
            return Decision("discard", f"Cannot be judged: {often}")
        self._failed = {run.trial.seed for run in failed}
        if self.noise.exact or (self.noise.blind and self.noise.sigma == 0):
            return self._exact(candidate, references or list(incumbent))
        missing = 0 if not incumbent or incumbent[0].trial.number == 0 else FRESH - len(references)
        if not candidate or missing > 0:
            return self._ask(candidate, references, 0 if candidate else 1, missing)
        guard, sentence = judge_limits(self.brief, candidate, references)
        if guard == "broken":
            return Decision("discard", sentence)
        if self.noise.drift:
            return self._drifting(candidate, references, guard, sentence)
        twins = pairs(candidate, references)
        # The edit does nothing, whatever the other runs' luck
        if twins and all(mine == theirs for mine, theirs in twins):
            if len(twins) < TWINS:
                return self._ask(candidate, references, 1, 0)
            return Decision(
                "discard",
                f"no effect: the same value as the incumbent's on {len(twins)} shared seeds",
                0.0,
                0.0,
            )
        evidence = self.weigh(candidate, references)
        return self._verdict(evidence, guard, sentence) or self._ask(
            candidate, references, 1, len(references) < SETTLED
        )

    def _drifting(
        self,
        candidate: Sequence[Measurement],
        references: Sequence[Measurement],
        guard: str,
        sentence: str,
    ) -> NeedRuns | Decision:
        """Where the machine drifts: what is stored of the incumbent may reject; only runs beside
        the candidate's keep.

        Order: a run of the candidate, one of the incumbent, a second of the candidate, then pairs
        in random order.
        """
        heads, number = len(candidate), candidate[0].trial.number
        others = [run for run in self.siblings if run.trial.number != number]
        now = level(self.noise, references, others, self.brief.sign)
        stored = now.against(candidate, self.brief.sign)
        seeds = [run.trial.seed for run in candidate]
        beside = [
            run for run in references if run.trial.asked_by == number and run.trial.seed in seeds
        ]
        done = {run.trial.seed for run in beside}
        alone = [RunRequest("base", seed) for seed in seeds if seed not in done | self._failed]
        if not beside:
            if stored.z <= min(LEVEL_DISCARD[0], now.bar(others, self.brief.sign)):
                return self._decision("discard", stored)
            return NeedRuns(tuple(alone) or (self._fresh_head(heads),))
        # One side of a pair was lost when the run was interrupted, here and below
        if len(alone) > 1:
            return NeedRuns(tuple(alone[:-1]))
        if heads > 1 and not alone:
            return NeedRuns((self._fresh_head(heads),))
        fresh = self.weigh(candidate, beside, (now.variance, now.dof))
        last = heads >= len(BESIDE_KEEP)
        if fresh.gain > 0 and fresh.z >= BESIDE_KEEP[heads - 1]:
            if guard == "ok" or last:
                return (
                    self._decision("keep", fresh)
                    if guard == "ok"
                    else Decision("discard", sentence, fresh.gain, fresh.spread)
                )
        elif last or (1 - BESIDE) * stored.z + BESIDE * fresh.z <= LEVEL_DISCARD[heads]:
            return self._decision("discard", stored)
        wants = (*alone, self._fresh_head(heads))
        return NeedRuns(wants if derive(self.seed, "order", heads) % 2 else wants[::-1])

    def misjudged(
        self, candidate: Sequence[Measurement], incumbent: Sequence[Measurement]
    ) -> list[int]:
        """Numbers of `siblings` that were rejected unseen, by what was then known of the machine,
        and would not be now that runs of the incumbent were made beside `candidate`.
        """
        references = self._references(incumbent)
        seen = {run.trial.asked_by for run in references}
        if not self.noise.drift or not candidate or candidate[0].trial.number not in seen:
            return []
        now = level(self.noise, references, self.siblings, self.brief.sign)
        unseen = [run for run in self.siblings if run.trial.number not in seen and good([run])]
        better = [run for run in unseen if now.against([run], self.brief.sign).z > AGAIN]
        return [
            run.trial.number
            for run in better
            if judge_limits(self.brief, [run], references)[0] != "broken"
        ]

    def _fresh_head(self, heads: int) -> RunRequest:
        return RunRequest("head", derive(self.seed, "pair", heads))

    def _references(self, incumbent: Sequence[Measurement]) -> list[Measurement]:
        """Runs of the incumbent that count: none that made it the incumbent, none from before
        reseeding.
        """
        return [
            run
            for run in incumbent
            if run.outcome == "ok"
            and run.trial.reseed == self.noise.reseed
            and (run.trial.number == 0 or run.trial.asked_by != run.trial.number)
        ]

    def weigh(
        self,
        candidate: Sequence[Measurement],
        references: Sequence[Measurement],
        known: tuple[float, int] | None = None,
    ) -> Evidence:
        """Means of all runs at √(1/n + 1/m)·σ; from four pairs on the pairs alone, where they say
        more.

        `known`: variance and degrees of freedom of σ² that hold the references' own spread already.
        """
        head, base = good(candidate), good(references)
        n, m, sign = len(head), len(base), self.brief.sign
        # The others are in the noise already
        later = good(run for run in references if run.trial.asked_by)
        known = known or pool((self.noise.sigma**2, self.noise.dof), sample_variance(later))
        variance, dof = pool(known, sample_variance(head))
        gain = sign * (math.fsum(head) / n - math.fsum(base) / m)
        whole = Evidence(gain, math.sqrt(variance * (1 / n + 1 / m)), dof, n, False)
        differences = [sign * (mine - theirs) for mine, theirs in pairs(candidate, references)]
        if len(differences) < OWN_SPREAD:
            return whole
        variance, dof = sample_variance(differences)
        own = Evidence(
            math.fsum(differences) / (dof + 1), math.sqrt(variance / (dof + 1)), dof, n, True
        )
        sharper = t_quantile(0.9, own.dof) * own.spread < t_quantile(0.9, whole.dof) * whole.spread
        return own if sharper else whole

    def _verdict(self, evidence: Evidence, guard: str, sentence: str) -> Decision | None:
        n, z = evidence.runs, evidence.z
        last = n >= MOST
        if z >= KEEP[min(n, MOST) - 1]:
            if guard == "ok":
                return self._decision("keep", evidence)
            return Decision("discard", sentence, evidence.gain, evidence.spread) if last else None
        if last or z <= DISCARD[n - 1]:
            return self._decision("discard", evidence)
        return None

    def _decision(self, status: Literal["keep", "discard"], evidence: Evidence) -> Decision:
        change = f"{self.brief.sign * evidence.gain:+.3g} ± {evidence.spread:.2g}".replace("-", "−")
        count = (
            f"{evidence.runs} {'pair' if evidence.paired else 'run'}{'s' * (evidence.runs != 1)}"
        )
        if status == "keep":
            reason = f"{change} against the incumbent over {count}, kept for now"
        elif evidence.gain < 0:
            worse = -evidence.gain / self.noise.sigma if self.noise.sigma else math.inf
            far = f"{worse:.1f}σ" if worse < 100 else "more than 100σ"
            told = (
                f"worse than the incumbent by {far}"
                if worse >= 0.05
                else "no better than the incumbent"
            )
            reason = f"{told} after {count}, stopped"
        else:
            reason = f"{change} against the incumbent over {count}, too little to keep"
        return Decision(status, reason, evidence.gain, evidence.spread)

    def _ask(
        self,
        candidate: Sequence[Measurement],
        references: Sequence[Measurement],
        heads: int,
        bases: int,
    ) -> NeedRuns:
        """`heads` more runs of the candidate on the incumbent's seeds, and of the incumbent where
        it has too few.
        """
        done = {run.trial.seed for run in candidate}
        theirs = [run.trial.seed for run in references]
        # A seed on which the incumbent fails is not asked for again
        place = len(theirs) + len(self._failed)
        wants = [
            RunRequest("base", derive(self.seed, "reference", place + index))
            for index in range(bases)
        ]
        shared = [seed for seed in theirs + [want.seed for want in wants] if seed not in done]
        for _ in range(heads):
            if not shared:
                shared = [derive(self.seed, "reference", place + len(wants))]
                wants.append(RunRequest("base", shared[0]))
            wants.append(RunRequest("head", shared.pop(0)))
        return NeedRuns(tuple(wants))

    def _exact(
        self, candidate: Sequence[Measurement], references: Sequence[Measurement]
    ) -> NeedRuns | Decision:
        if not candidate:
            return NeedRuns(
                (RunRequest("head", references[0].trial.seed if references else self.seed),)
            )
        guard, sentence = judge_limits(self.brief, candidate, references)
        if guard != "ok":
            return Decision("discard", sentence)
        gain = self.brief.sign * (good(candidate)[0] - good(references)[0])
        how = "seeds have no effect" if self.noise.blind else "exact"
        if gain > 0:
            return Decision(
                "keep",
                f"{self.brief.sign * gain:+.6g} ({how}), kept for now".replace("-", "−"),
                gain,
                0.0,
            )
        return Decision(
            "discard", f"worse by {-gain:.6g} ({how})" if gain else f"no change ({how})", gain, 0.0
        )
