"""What a run believes of its ideas and its incumbents: the noise, the prior, and lines of versions.

Put together from verdicts and runs in the ledger, so that a run that was killed believes the same
again. Decides nothing (acceptance/keep.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from autoresearch_action.acceptance.belief import Effect, Posterior, Prior
from autoresearch_action.acceptance.learning import learnt
from autoresearch_action.acceptance.lineage import SIBLINGS, Code, Lineage, child
from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.acceptance.two_sample import Plan, plan
from autoresearch_action.ledger import RunState
from autoresearch_action.records import Measurement, Verdict

# Verdicts that the prior begins with, and versions that the incumbent's value rests on: the latest
VERDICTS, VERSIONS = 200, 12
# Of σ²: no kept effect is known better than that
FLOOR = 0.02
# Trials that a night has at least, where the price of a proof is weighed
LEAST_TRIALS = 30


class Beliefs:
    """From the calibration on. `noise` is the present one: it is learnt from every idea."""

    def __init__(
        self, noise: Noise, run_state: RunState, sign: int, earlier: Iterable[Verdict]
    ) -> None:
        self.noise, self.run_state, self.sign = noise, run_state, sign
        own = [experiment.verdict for experiment in run_state.recent(VERDICTS)]
        told = [*earlier, *(verdict for verdict in own if verdict and verdict.number)]
        effects = [effect for verdict in told if (effect := self._effect(verdict))]
        unit = noise.model_copy(update={"sigma": noise.unit or noise.sigma}).spread
        self.prior = Prior(unit or 1.0, effects[-VERDICTS:])

    def lineage(self, incumbent: int) -> Lineage:
        """The line of versions to an incumbent."""
        codes, rejected = self._codes(incumbent), self._rejected(incumbent)
        return Lineage(self.noise, codes, self.sign, rejected, self.prior)

    def _rejected(self, incumbent: int) -> list[list[Measurement]]:
        """Runs of each idea that was let go beside an incumbent, the latest last."""
        commit = self.run_state.experiments[incumbent].commit if incumbent else ""
        beside = [
            self._runs(experiment.number)
            for experiment in self.run_state.recent(SIBLINGS)
            if experiment.verdict and experiment.verdict.status == "discard"
            if not incumbent or experiment.parent == commit
        ]
        return [runs for runs in beside if runs]

    def _codes(self, incumbent: int, without: Measurement | None = None) -> list[Code]:
        """The versions on the line, with all their runs but for one."""
        kept = self.run_state.kept
        line = [0, *kept[: kept.index(incumbent) + 1 if incumbent else 0]][-VERSIONS:]
        codes = [Code(self._runs(line[0], without))]
        for number in line[1:]:
            verdict = self.run_state.experiments[number].verdict
            effect, runs = self._effect(verdict), self._runs(number, without)
            if verdict and effect:
                floor = FLOOR * self.noise.spread**2
                codes.append(child(runs, verdict.runs, effect, self.prior, floor))
            else:
                codes.append(Code(runs))
        return codes

    def _runs(self, number: int, without: Measurement | None = None) -> list[Measurement]:
        return [
            run
            for run in self.run_state.experiments.runs(number)
            if run.outcome == "ok" and run.trial.reseed == self.noise.reseed and run is not without
        ]

    def value(self, incumbent: int) -> float | None:
        """An incumbent's mean, in the metric's unit; None where it is exact."""
        return self.lineage(incumbent).value if self.noise.sigma else None

    def learn(self, incumbent: int, number: int) -> None:
        """From an idea that was decided on against that incumbent."""
        experiment = self.run_state.experiments[number]
        effect, runs = self._effect(experiment.verdict), experiment.runs
        if effect and self.noise.sigma and not self.noise.exact:
            self.noise = learnt(self.noise, self._codes(incumbent), self.sign, runs, self.prior)
            self.prior.add(effect)

    def learn_again(self, incumbent: int, run: Measurement) -> None:
        """From one more run of an incumbent."""
        if self.noise.sigma and not self.noise.exact:
            codes = self._codes(incumbent, run)
            self.noise = learnt(self.noise, codes, self.sign, [run])

    def of(self, number: int) -> Posterior | None:
        """What is believed of an experiment's effect; None where nothing was seen of it."""
        effect = self._effect(self.run_state.experiments[number].verdict)
        return self.prior.given(*self.before(number), effect) if effect else None

    def before(self, number: int) -> tuple[Effect, ...]:
        """What was seen of the same edit under another number."""
        origin = self.run_state.experiments[number].origin
        effect = self._effect(self.run_state.experiments[origin].verdict) if origin else None
        return (effect,) if effect else ()

    def gain(self, number: int) -> float:
        """What the search believes of it, a gain positive."""
        belief = self.of(number)
        return belief.mean if belief else 0.0

    def plan(self, numbers: Sequence[int], level: float, most: float = math.inf) -> Plan | None:
        """How to test the changes together, with `most` runs; None: these are too few."""
        found = [belief for number in numbers if (belief := self.of(number))]
        mean = math.fsum(belief.mean for belief in found)
        deviation = math.sqrt(math.fsum(belief.variance for belief in found))
        trials = max(LEAST_TRIALS, self.run_state.trials)
        return plan(self.noise, mean, deviation, level, trials, most)

    def _effect(self, verdict: Verdict | None) -> Effect | None:
        if verdict is None:
            return None
        ends = verdict.effect if self.noise.ratios else (verdict.estimate, verdict.spread)
        if ends is None or ends[0] is None or ends[1] is None:
            return None
        return Effect(ends[0], ends[1] ** 2)
