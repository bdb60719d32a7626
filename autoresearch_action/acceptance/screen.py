"""The screen: is a candidate worth keeping for now? Cheap and one-sided, because confirmation bounds every claim.

A sequential test on the standardised gain over the incumbent: hopeless candidates go after one run, doubtful ones
get replicates only while these can change the decision. Also the guardrails on other metrics. Pure: what to run
next is derived from the evidence so far and the seed, so that an interrupted screen goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoresearch_action.acceptance import Ask, Decision, Want
from autoresearch_action.acceptance.noise import Noise, derive, good, pairs, pool, spread_of, t_quantile
from autoresearch_action.brief import Brief
from autoresearch_action.records import Measurement

# Standardised gain (normal units) at or below which a candidate goes, and from which it is kept, by runs of it: close to
# the bounds that minimise runs plus the costs of wrong decisions (Wald 1950; found by backward induction). By simulation
# (benchmark/acceptance.py) a change that does nothing is kept with probability 0.14, where time is measured 0.18.
DISCARD = (-0.18, 0.26, 0.47, 0.63, 0.73, 0.8, 0.87)
KEEP = (1.55, 1.25, 1.17, 1.12, 1.1, 1.1, 1.05, 1.0)
MOST = len(KEEP)  # runs of one candidate
SETTLED = 5  # runs of the incumbent up to which every doubtful candidate adds one: one lucky mean would bar all others
OWN_SPREAD = 4  # pairs from which a candidate's own paired spread counts
RECENT = 8  # lengths of a trial for which a stored run of a drifting machine still says something
STALE_DISCARD = -0.3  # standardised gain over such runs at or below which a candidate goes
FRESH = 4  # runs of a new incumbent that its own screen did not select


@dataclass(frozen=True)
class Evidence:
    """The gain over the incumbent (metric's unit, > 0 better), its standard error and what they rest on."""

    gain: float
    spread: float
    dof: int
    runs: int
    paired: bool

    @property
    def z(self) -> float:
        """Standardised gain, as a normal deviate of the same tail probability as Student's t (Wallace 1959)."""
        if self.spread == 0:
            return math.copysign(math.inf, self.gain) if self.gain else 0.0
        t, nu = self.gain / self.spread, self.dof
        return math.copysign((8 * nu + 1) / (8 * nu + 3) * math.sqrt(nu * math.log1p(t * t / nu)), t)


class SequentialScreen:
    """Provisional keeps against one incumbent. A new one for every candidate; holds no evidence itself."""

    def __init__(self, brief: Brief, noise: Noise, seed: int) -> None:
        self.brief, self.noise, self.seed = brief, noise, seed

    def decide(self, candidate: Sequence[Measurement], incumbent: Sequence[Measurement]) -> Ask | Decision:
        """Ask for runs, or decide. A candidate's crash, refusal or early stop decides at once."""
        for run in candidate:
            if run.outcome != "ok":
                return Decision("crash" if run.outcome in ("crash", "lost") else "discard", run.reason or run.outcome)
        references = self._references(incumbent)
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
        evidence = self.weigh(candidate, references)
        return self._verdict(evidence, guard, sentence) or self._ask(candidate, references, 1, len(references) < SETTLED)

    def _drifting(self, candidate: Sequence[Measurement], references: Sequence[Measurement], guard: str, sentence: str) -> Ask | Decision:
        """Where the machine drifts: stored runs of the incumbent, if recent, may reject; only runs beside ours keep."""
        own = [run for run in references if run.trial.asked_by == candidate[0].trial.number]
        latest = candidate[-1]
        recent = [run for run in references if latest.started - run.started <= RECENT * max(latest.seconds, run.seconds)]
        if recent:
            stored = self.weigh(candidate, recent)
            if stored.z <= STALE_DISCARD:
                return self._decision("discard", stored)
        done = {run.trial.seed for run in own}
        alone = [run.trial.seed for run in candidate if run.trial.seed not in done]
        if alone:  # the pair of the first look
            return Ask(tuple(Want("base", seed) for seed in alone))
        beside = [run for run in own if run.trial.seed in {mine.trial.seed for mine in candidate}]
        return self._verdict(self.weigh(candidate, beside), guard, sentence) or self._fresh_pair(candidate)

    def _fresh_pair(self, candidate: Sequence[Measurement]) -> Ask:
        seed = derive(self.seed, "pair", len(candidate))
        wants = (Want("base", seed), Want("head", seed))
        return Ask(wants if derive(self.seed, "order", len(candidate)) % 2 else wants[::-1])

    def _references(self, incumbent: Sequence[Measurement]) -> list[Measurement]:
        """Runs of the incumbent that count: none that made it the incumbent, none from before reseeding."""
        return [
            run
            for run in incumbent
            if run.outcome == "ok"
            and run.trial.reseed == self.noise.reseed
            and (run.trial.number == 0 or run.trial.asked_by != run.trial.number)
        ]

    def weigh(self, candidate: Sequence[Measurement], references: Sequence[Measurement]) -> Evidence:
        """Means of all runs at √(1/n + 1/m)·σ; from four pairs on the pairs alone, where they say more."""
        head, base = good(candidate), good(references)
        n, m, sign = len(head), len(base), self.brief.sign
        later = good(run for run in references if run.trial.asked_by)  # the others are in the noise already
        variance, dof = pool((self.noise.sigma**2, self.noise.dof), spread_of(later), spread_of(head))
        gain = sign * (math.fsum(head) / n - math.fsum(base) / m)
        whole = Evidence(gain, math.sqrt(variance * (1 / n + 1 / m)), dof, n, False)
        differences = [sign * (mine - theirs) for mine, theirs in pairs(candidate, references)]
        if len(differences) < OWN_SPREAD:
            return whole
        variance, dof = spread_of(differences)
        own = Evidence(math.fsum(differences) / (dof + 1), math.sqrt(variance / (dof + 1)), dof, n, True)
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
        count = f"{evidence.runs} {'pair' if evidence.paired else 'run'}{'s' * (evidence.runs != 1)}"
        if status == "keep":
            reason = f"{change} over {count}, kept for now"
        elif evidence.gain < 0:
            worse = -evidence.gain / self.noise.sigma if self.noise.sigma else math.inf
            far = f"{worse:.1f}σ" if worse < 100 else "more than 100σ"
            reason = f"worse than the incumbent by {far} after {count}, stopped"
        else:
            reason = f"{change} over {count}, too little to keep"
        return Decision(status, reason, evidence.gain, evidence.spread)

    def _ask(self, candidate: Sequence[Measurement], references: Sequence[Measurement], heads: int, bases: int) -> Ask:
        """`heads` more runs of the candidate on the incumbent's seeds, and of the incumbent where it has too few."""
        done = {run.trial.seed for run in candidate}
        theirs = [run.trial.seed for run in references]
        wants = [Want("base", derive(self.seed, "reference", len(theirs) + index)) for index in range(bases)]
        shared = [seed for seed in theirs + [want.seed for want in wants] if seed not in done]
        for _ in range(heads):
            if not shared:
                shared = [derive(self.seed, "reference", len(theirs) + len(wants))]
                wants.append(Want("base", shared[0]))
            wants.append(Want("head", shared.pop(0)))
        return Ask(tuple(wants))

    def _exact(self, candidate: Sequence[Measurement], references: Sequence[Measurement]) -> Ask | Decision:
        if not candidate:
            return Ask((Want("head", references[0].trial.seed if references else self.seed),))
        guard, sentence = judge_limits(self.brief, candidate, references)
        if guard != "ok":
            return Decision("discard", sentence)
        gain = self.brief.sign * (good(candidate)[0] - good(references)[0])
        how = "seeds have no effect" if self.noise.blind else "exact"
        if gain > 0:
            return Decision("keep", f"{self.brief.sign * gain:+.6g} ({how}), kept for now".replace("-", "−"), gain, 0.0)
        return Decision("discard", f"worse by {-gain:.6g} ({how})" if gain else f"no change ({how})", gain, 0.0)


def judge_limits(
    brief: Brief, head: Sequence[Measurement], base: Sequence[Measurement], level: float = 0.1
) -> tuple[Literal["ok", "doubtful", "broken"], str]:
    """Guardrails: "broken" only beyond the noise (one-sided t test at `level`), "doubtful" over the limit within it."""
    doubtful = ""
    for name, limit in brief.limits.items():
        mine = [run.metrics[name] for run in head if run.outcome == "ok" and name in run.metrics]
        theirs = [run.metrics[name] for run in base if run.outcome == "ok" and name in run.metrics]
        if not mine or not all(map(math.isfinite, mine)):
            return "broken", f"{name} has a limit ({limit.text}) and the candidate does not print it."
        mean = math.fsum(mine) / len(mine)
        low, high = limit.bounds(math.fsum(theirs) / len(theirs) if theirs else None)
        excess = max(mean - high, low - mean)
        if excess <= 0:
            continue
        sentence = f"{name} is {mean:.6g}, its limit {high if mean > high else low:.6g} ({limit.text})."
        variance, dof = pool(spread_of(mine), spread_of(theirs))
        share = (1 + limit.relative) ** 2 / len(theirs) if limit.relative is not None and theirs else 0.0
        if dof == 0 or excess > t_quantile(1 - level, dof) * math.sqrt(variance * (1 / len(mine) + share)):
            return "broken", sentence
        doubtful = doubtful or sentence
    return ("doubtful", doubtful) if doubtful else ("ok", "")
