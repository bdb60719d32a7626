"""The search: from the baseline to a stack of provisional keeps.

Which trial runs next, and what a decision changes. One thread decides; trials run on the slots and
proposals are made meanwhile, so that neither waits for the other. Whether a candidate is kept is
acceptance/keep.py's, what is claimed at the end confirmation.py's.
"""

from __future__ import annotations

from autoresearch_action.acceptance import Decision, NeedRuns, RunRequest
from autoresearch_action.acceptance.noise import Noise, calibrate
from autoresearch_action.errors import InputError
from autoresearch_action.ledger import parse
from autoresearch_action.records import Experiment, Measurement, Trial
from autoresearch_action.research.beliefs import Beliefs
from autoresearch_action.research.context import ResearchContext
from autoresearch_action.research.evidence import (
    Candidate,
    audit_first_look,
    first_look_rule,
    inconclusive_ones,
    references,
    situation,
)
from autoresearch_action.research.proposals import NotCarried, Proposals
from autoresearch_action.research.stack import inherit
from autoresearch_action.research.verdict import settle
from autoresearch_action.trials import FLAKY


def search(context: ResearchContext) -> str:
    """Search until a cap, the target or the agents' end: why. Raises Interrupted, InputError."""
    steps = Search(context)
    try:
        return steps.run()
    finally:
        steps.proposals.cancel()


class Search:
    """The candidates of one run, and the loop that measures and settles them."""

    def __init__(self, context: ResearchContext) -> None:
        self.context, self.brief, self.budget = context, context.brief, context.budget
        self.ledger, self.run_state = context.ledger, context.run_state
        self.proposals = Proposals(context)
        self.baseline = Candidate(0)
        self.candidates: dict[int, Candidate] = {}
        self.reason = ""
        self._said = len(self.run_state.messages)

    def run(self) -> str:
        """Why it ended."""
        self._resume()
        self._advance(self.baseline)
        while True:
            self.reason = self._stop_reason()
            while self.proposals.wants_more() and not self._stop_reason():
                self.proposals.request([*self.candidates])
            if self.proposals.exhausted and not (self.candidates or self.proposals.waiting):
                self._look_again()
            self.proposals.late = late = self._launch()
            open_ones = bool(self.candidates or self.proposals.waiting)
            # That alone is why they go undecided
            if late and open_ones and not self.context.target_reached():
                self.reason = self._spent_reason(0, 1) or self.reason
            self.reason = self.reason or (self._stop_reason() if late else "")
            busy = self.context.scheduler.running or self.proposals.thinking
            if not busy and (late or (self.reason and not open_ones)):
                break
            for measurement in self.context.scheduler.wait(self.proposals.futures):
                self._measured(measurement)
            for verdict in self.proposals.collect():
                self.context.tell(verdict)
            self.proposals.follow(self.context.incumbent_commit)
            self._pass_on()
        self._leave_undecided()
        return self.reason

    def _resume(self) -> None:
        """Go on with what has no verdict in the ledger, or begin with an earlier run's stack."""
        experiments, commit = self.run_state.experiments, self.context.incumbent_commit
        for number in self.run_state.unsettled:
            experiment = experiments[number]
            if not experiment.commit:
                self._settle(experiment, Decision("discard", "Refused before it was measured."))
            elif experiment.parent != commit:
                self.proposals.carry(experiment, commit, "the incumbent had moved")
            elif experiment.runs:
                self.candidates[number] = Candidate(number, self.run_state.incumbent)
            else:
                self.proposals.waiting.append(experiment)
        if experiments.last == 0 and (first := inherit(self.context)):
            self.proposals.waiting.append(experiments[first])

    # Stopping. A reason is a text for people, "" while there is none.

    def _stop_reason(self, again: bool = False) -> str:
        """`again`: but for the agent's end."""
        # A resumed confirmation goes on: what it has left out is no head to search from
        if confirming := self.run_state.facts.get("proving"):
            return str(confirming)
        if self.context.target_reached():
            return f"the target {self.brief.target:g} is reached"
        requested = sum(len(c.requests) for c in (self.baseline, *self.candidates.values()))
        thinking = self.proposals.thinking
        ahead = 1 + len(self.proposals.waiting) + thinking + requested
        worst = self.context.parts.agent.worst_usd or 0.0
        spent = self._spent_reason(self.run_state.begun + thinking, ahead, worst)
        # Proposals are made meanwhile, within the same caps
        if self.context.noise is None:
            return "waiting for the baseline" if spent else ""
        return spent or ("" if again else self.proposals.exhausted)

    def _spent_reason(self, experiments: int, trials: int, worst_usd: float = 0.0) -> str:
        keep = self.context.confirm_runs
        return self.budget.spent_reason(experiments, self.context.spent, trials, keep, worst_usd)

    def _leave_undecided(self) -> None:
        for candidate in list(self.candidates.values()):
            experiment = self.run_state.experiments[candidate.number]
            runs = f"{len(experiment.runs)} run{'s' * (len(experiment.runs) != 1)}"
            reason = f"Undecided after {runs} when the run ended: {self.reason}."
            self._settle(experiment, Decision("discard", reason))
        for experiment in self.proposals.waiting:
            reason = f"Never measured: {self.reason}."
            self.context.tell(self.proposals.unmeasured(experiment, reason))
        self.proposals.waiting.clear()

    # Trials

    def _launch(self) -> bool:
        """Fill the free slots: the baseline first, then candidates that need more runs, then new
        ones. Whether it is too late to.
        """
        for slot in self.context.scheduler.free:
            if self.context.late:
                return True
            owner = self._next_owner(slot)
            if owner is None:
                continue
            if self.context.noise is None and not self.context.affords(1):
                usd = f"--max-usd {self.budget.max_usd:g}"
                raise InputError(f"{usd} is too small: the baseline's runs alone would pass it.")
            request = owner.requests.popleft()
            owner.in_flight += 1
            if owner.number and not self.context.on_processor:
                owner.slot = owner.slot or slot
            self.context.scheduler.start(self._trial(owner, request), slot)
        return False

    def _next_owner(self, slot: str) -> Candidate | None:
        for candidate in (self.baseline, *self.candidates.values()):
            if candidate.requests and candidate.slot in ("", slot):
                return candidate
        if self.context.noise is None or not self.proposals.waiting:
            return None
        candidate = Candidate(self.proposals.waiting.pop(0).number, self.run_state.incumbent)
        self.candidates[candidate.number] = candidate
        self._advance(candidate)
        return candidate if candidate.requests else None

    def _trial(self, owner: Candidate, request: RunRequest) -> Trial:
        if not owner.number:
            return self.context.trial(0, self.context.base, request.seed)
        experiment = self.run_state.experiments[owner.number]
        if request.side == "head":
            stop = first_look_rule(self.context, experiment, owner.rival, request.seed)
            return self.context.trial(owner.number, experiment.commit, request.seed, stop=stop)
        beside, commit = owner.number, experiment.parent
        return self.context.trial(owner.rival, commit, request.seed, beside=beside)

    def _measured(self, measurement: Measurement) -> None:
        asked_by = measurement.trial.asked_by
        owner = self.candidates.get(asked_by) if asked_by else self.baseline
        if owner is None:
            return
        owner.in_flight -= 1
        # A machine that gets slower needs more time kept for the confirmation
        if measurement.outcome == "ok":
            usual = 0.9 * self.budget.trial_seconds + 0.1 * measurement.seconds
            self.budget.trial_seconds = (
                usual if self.context.noise else self.context.baseline_seconds()
            )
        elif asked_by == 0:
            told = f"The baseline does not run: {measurement.reason} Log: {measurement.log}"
            raise InputError(f"{told}\n{measurement.tail}".strip())
        for note in (note for note in measurement.notes if note.startswith(FLAKY)):
            self.context.say(f"#{asked_by}: {note}")
        if measurement.trial.beside and measurement.outcome == "ok" and self.context.beliefs:
            self.context.beliefs.learn_again(owner.rival, measurement)
        if owner.in_flight == 0 and not owner.requests:
            self._advance(owner)

    # Decisions

    def _advance(self, candidate: Candidate) -> None:
        """Ask the rule what it wants next on the evidence so far, and do it."""
        if candidate is self.baseline:
            self._calibrate()
            return
        experiment = self.run_state.experiments[candidate.number]
        here = situation(self.context, candidate, experiment.runs, bool(self.proposals.waiting))
        seed = self.context.seed + candidate.number
        rule = self.context.parts.keep_rule(
            self.brief, self.context.noise, seed=seed, situation=here
        )
        answer = rule.decide(experiment.runs, references(self.context, candidate.rival))
        if isinstance(answer, NeedRuns):
            candidate.requests.extend(answer.runs)
        else:
            self._decide(candidate, answer)

    def _calibrate(self) -> None:
        runs, known = self.context.runs(0), self.context.parts.inherited.noise
        answer = calibrate(runs, self.brief, self.context.seed, known)
        if isinstance(answer, NeedRuns):
            self.context.reseed = self.context.reseed or answer.reseed
            self.baseline.requests.extend(answer.runs)
            return
        told = self.run_state.facts.get("noise") or {}
        if told.get("evidence"):
            answer = parse(Noise, told)
        self.context.beliefs = Beliefs(
            answer, self.run_state, self.brief.sign, self.context.parts.inherited.verdicts
        )
        self.budget.trial_seconds = self.context.baseline_seconds()
        self.budget.check_size(self.brief.time_budget, 1 + self.context.confirm_runs)
        self.ledger.append("fact", name="noise", value=answer.model_dump(mode="json"))
        self.context.say(f"baseline {answer.mean:.6g}, {answer.describe()}")
        for note in answer.notes:
            self.context.say(f"{note[0].upper()}{note[1:]}.")
        if 0 not in self.run_state.statuses:
            decision = Decision("keep", f"baseline, {answer.describe()}")
            self.ledger.append("verdict", settle(self.run_state.experiments[0], decision))
        for candidate in list(self.candidates.values()):
            self._advance(candidate)

    def _decide(self, candidate: Candidate, decision: Decision) -> None:
        experiment, commit = (
            self.run_state.experiments[candidate.number],
            self.context.incumbent_commit,
        )
        del self.candidates[candidate.number]
        if decision.status == "keep" and experiment.parent != commit:
            # Judged against an incumbent that has since been beaten
            reason = f"{decision.reason}, but the incumbent moved meanwhile"
            self.proposals.carry(experiment, commit, reason)
            return
        kept = decision.status == "keep"
        audit_first_look(self.context, experiment, candidate.rival, kept)
        self._settle(experiment, decision)
        if self.context.beliefs:
            self.context.beliefs.learn(candidate.rival, experiment.number)
            noise = self.context.beliefs.noise
            self.ledger.append("fact", name="noise", value=noise.model_dump(mode="json"))
        if decision.status == "crash" and self._may_repair(experiment):
            self.proposals.request([*self.candidates], repair=experiment)

    def _may_repair(self, experiment: Experiment) -> bool:
        proposal = experiment.proposal
        fresh = proposal is not None and "repairs" not in proposal.details
        odd = any(run.suspicious for run in experiment.runs)
        current = fresh and not odd and experiment.parent == self.context.incumbent_commit
        return current and not self._stop_reason() and self.proposals.wants_more()

    def _look_again(self) -> None:
        """Where nothing else waits trials cost nothing: at the most promising idea that was left
        inconclusive, each once.
        """
        if self.proposals.thinking or self._stop_reason(again=True):
            return
        for experiment in inconclusive_ones(self.context):
            try:
                again = self.proposals.again(experiment, self.context.incumbent_commit, first=True)
            except NotCarried:
                continue
            told = "nothing else waits, and it was inconclusive"
            self.context.say(f"#{experiment.number} is looked at again as #{again.number}: {told}")
            return

    def _settle(self, experiment: Experiment, decision: Decision) -> None:
        verdict = settle(experiment, decision)
        self.ledger.append("verdict", verdict)
        self.context.tell(verdict)

    def _pass_on(self) -> None:
        """Say what has been noted of the proposals: of one that could not be used there is nothing
        else to see.
        """
        for text in self.run_state.messages[self._said :]:
            self.context.say(text)
        self._said = len(self.run_state.messages)
