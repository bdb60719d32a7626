"""Confirmation: from the stack of provisional keeps to what may be claimed. Base against head,
fresh seeds, held-out data.

First changes that no longer contribute are dropped, then the head is confirmed, or else one
fallback that was chosen before; then the transfer. Every run is journalled under its attempt, so
that a killed confirmation goes on where it was. The test itself is acceptance/confirm.py's.
"""

from __future__ import annotations

import os
import statistics
from typing import Any, Literal

from autoresearch_action.acceptance import NeedRuns, RunRequest
from autoresearch_action.acceptance.claims import CAP
from autoresearch_action.acceptance.noise import derive, good
from autoresearch_action.acceptance.two_sample import Plan
from autoresearch_action.budget import PUBLISH_SECONDS
from autoresearch_action.records import INHERITED, Confirmation, Measurement, Trial
from autoresearch_action.research.claim_record import ClaimRecord, write
from autoresearch_action.research.context import ResearchContext
from autoresearch_action.research.stack import Stack, fallback, prune, stack_of
from autoresearch_action.workspace.trees import PatchRefused

FALLBACK_LEVEL = 0.01
# Of the base's clock: a head that trained longer by more has the base train longer too
LONGER = 0.005
BLIND = "seeds have no effect here, so luck cannot be told from a gain"


def confirm(context: ResearchContext, reason: str) -> Confirmation:
    """Confirm what the search kept, and journal the outcome. `reason` is why the search ended.
    Raises Interrupted.
    """
    confirmation = _confirmed(context, reason)
    context.ledger.append("confirmation", confirmation)
    context.say(confirmation.reason)
    return confirmation


def _confirmed(context: ResearchContext, reason: str) -> Confirmation:
    run_state, tried = context.run_state, context.run_state.tried
    if not tried or run_state.blank:
        why = (run_state.blank or reason).rstrip(".")
        return _unclaimed(f"Nothing but the baseline was measured: {why}.")
    if not run_state.kept:
        return _unclaimed(f"Nothing held: none of {tried} experiments was worth confirming.")
    if context.noise and context.noise.blind:
        return _unclaimed(f"Nothing is claimed: {BLIND}.")
    for number in run_state.kept:
        if odd := [run.reason for run in context.runs(number) if run.suspicious]:
            return _unclaimed(f"Nothing is claimed: of what was kept, #{number} failed. {odd[0]}")
    try:
        stack = stack_of(context, run_state.kept)
    except PatchRefused:
        return _unclaimed("Nothing is claimed: the kept changes do not apply one on the other.")
    if "proving" not in run_state.facts:
        context.ledger.append("fact", name="proving", value=reason)
    stack, notes = prune(context, stack)
    second = fallback(context, stack)
    confirmation = _Attempt(context, stack, CAP, notes).confirm()
    if second and not confirmation.held:
        context.ledger.append("confirmation", confirmation)
        stack = second
        confirmation = _Attempt(context, stack, FALLBACK_LEVEL, notes).confirm()
    if confirmation.held and context.brief.transfer:
        confirmation = _transferred(context, stack, confirmation)
    if confirmation.held:
        _write_series(context, stack)
    return confirmation


def _unclaimed(reason: str) -> Confirmation:
    return Confirmation(held=False, reason=reason)


class _Pairs:
    """Runs of base and head for one attempt. `base_budget`: training seconds of the base, where
    they are not the brief's.
    """

    def __init__(
        self,
        context: ResearchContext,
        stack: Stack,
        stage: Literal["confirm", "transfer"],
        base_budget: float | None = None,
    ) -> None:
        self.context, self.stack, self.stage, self.base_budget = context, stack, stage, base_budget
        self.tree = context.workspace.tree(stack.head)

    @property
    def runs(self) -> list[Measurement]:
        """Those of a confirmation that was killed, too."""
        return self.context.run_state.confirm_runs[self.stage, self.tree]

    def measure(self, needed: NeedRuns) -> bool:
        """Run what is missing, the runs of one seed next to each other on one slot, in the order
        given. False: the dollars left are too few, and nothing was run.
        """
        done = {(run.trial.side, run.trial.seed) for run in self.runs}
        missing = [one for one in needed.runs if (one.side, one.seed) not in done]
        if not self.context.affords(len(missing)):
            return False
        pairs: dict[int, list[Trial]] = {}
        for request in missing:
            pairs.setdefault(request.seed, []).append(self._trial(request))
        self.context.scheduler.gather(list(pairs.values()))
        return True

    def _trial(self, request: RunRequest) -> Trial:
        facts: dict[str, Any] = {"stage": self.stage, "attempt": self.tree, "slice": request.slice}
        if request.side == "base":
            facts["time_budget"] = self.base_budget
            return self.context.trial(0, self.context.base, request.seed, **facts)
        return self.context.trial(self.stack.last, self.stack.head, request.seed, **facts)


class _Attempt:
    """One claim on one head, on a hold-out slice of its own."""

    def __init__(
        self, context: ResearchContext, stack: Stack, cap: float, notes: list[str]
    ) -> None:
        self.context, self.stack, self.cap, self.notes = context, stack, cap, notes
        self.pairs = _Pairs(context, stack, "confirm", self._base_budget())
        self.record = ClaimRecord(context.run_state.state)

    def confirm(self) -> Confirmation:
        plan, context, pairs = self._plan(), self.context, self.pairs
        # Of the release before: none, in pairs
        how = Plan.model_validate(plan["test"]) if plan.get("test") else None
        most = len(pairs.runs) // 2 + self._most_runs() // 2
        if how and how.pairs and context.noise and not context.noise.repeats:
            most = min(most, how.pairs)
        rule = context.parts.claim_rule(
            context.brief,
            context.noise,
            plan=how,
            level=plan["level"],
            seed=plan["seed"],
            slice=plan["slice"],
            max_pairs=most,
            seen=(context.runs(0), self._searched()),
        )
        names = ", ".join(f"#{number}" for number in self.stack.numbers)
        least = f"base against head on fresh seeds, {rule.looks[0]} runs each or more"
        context.say(f"confirming {names}: {least}")
        answer = rule.decide(pairs.runs)
        while isinstance(answer, NeedRuns):
            if pairs.measure(answer):
                answer = rule.decide(pairs.runs)
            else:
                few = "the dollars left are too few for the runs that it takes"
                answer = _unclaimed(f"Nothing can be claimed: {few}.")
        self._account(answer, plan)
        notes = [*self.notes, *answer.notes, plan["note"]]
        if pairs.base_budget:
            notes.append(f"equal time: the base got {pairs.base_budget:.4g} s")
        facts = {
            "head": self.stack.head,
            "tree": pairs.tree,
            "numbers": list(self.stack.numbers),
            "notes": [note for note in notes if note],
        }
        return answer.model_copy(update=facts)

    def _plan(self) -> dict[str, Any]:
        """Level, slice and dice of an attempt: drawn once and journalled, so that a resumed
        confirmation keeps them. The slice is retired before it is looked at.
        """
        plans = dict(self.context.run_state.facts.get("plans") or {})
        if self.pairs.tree not in plans:
            chosen, note, level = self.record.next(self.context.brief.id, self.cap)
            dice = int.from_bytes(os.urandom(4), "big")
            how = self._test(level)
            plans[self.pairs.tree] = {
                "slice": chosen,
                "note": note,
                "level": level,
                "seed": dice,
                "test": how.model_dump() if how else None,
            }
            self.record.retire(chosen)
            self.context.ledger.append("fact", name="plans", value=plans)
        plan: dict[str, Any] = plans[self.pairs.tree]
        return plan

    def _test(self, level: float) -> Plan | None:
        """The test that is worth most, from what the search believes."""
        beliefs = self.context.beliefs
        return beliefs.plan(self.stack.numbers, level, self._most_runs()) if beliefs else None

    def _searched(self) -> list[Measurement]:
        """What was run of the head before its confirmation."""
        run_state, last = self.context.run_state, self.stack.last
        same = run_state.experiments[last].commit == self.stack.head
        pruned = run_state.confirm_runs["prune", self.pairs.tree]
        return [*(self.context.runs(last) if same else ()), *pruned]

    def _most_runs(self) -> int:
        """Trials that the minutes and the dollars left allow."""
        budget = self.context.budget
        rounds = (budget.seconds_left - PUBLISH_SECONDS) / max(1.1 * budget.trial_seconds, 1e-3)
        trials = min(rounds * budget.slots, budget.trials_left(self.context.spent))
        return max(0, int(trials))

    def _account(self, confirmation: Confirmation, plan: dict[str, Any]) -> None:
        """Count the claim (online control of false discoveries). An earlier run's stack and nothing
        else, proven again, is no new finding.
        """
        if confirmation.p_value is None:
            return
        experiments = self.context.run_state.experiments
        proposals = [experiments[number].proposal for number in self.stack.numbers]
        earns = not all(proposal and INHERITED in proposal.details for proposal in proposals)
        self.record.account(confirmation.p_value, plan["level"], plan["seed"], earns)
        self.context.ledger.append("fact", name="claims", value=self.record.claims.describe())

    def _base_budget(self) -> float | None:
        """Training seconds for the base where the head's trials used more of the clock than the
        baseline's did.
        """
        if not self.context.brief.fixed_time:
            return None
        mine = [run for run in self.context.runs(self.stack.last) if run.outcome == "ok"]
        theirs = [run.clock for run in self.context.runs(0) if run.outcome == "ok"]
        if not mine or not theirs:
            return None
        usual = statistics.fmean(theirs)
        longer = statistics.fmean(run.clock for run in mine) - usual
        if longer <= LONGER * usual:
            return None
        return self.context.brief.time_budget + longer / mine[0].pace


def _transferred(
    context: ResearchContext, stack: Stack, confirmation: Confirmation
) -> Confirmation:
    """Base and head at the larger scale: a line, and a condition where the brief requires it."""
    assert context.brief.transfer is not None
    holds, told = _transfer(context, stack)
    note = f"transfer: {told}"
    update: dict[str, object] = {"notes": [*confirmation.notes, note]}
    if context.brief.transfer.require and not holds:
        scale = "Held at the search's scale but not at the larger one, which the brief requires"
        update |= {"held": False, "reason": f"{scale}: {note}."}
    return confirmation.model_copy(update=update)


def _transfer(context: ResearchContext, stack: Stack) -> tuple[bool, str]:
    """Whether the head is better at the larger scale, and what to say of it."""
    pairs = _Pairs(context, stack, "transfer")
    seeds = [derive(context.seed, "transfer", index) for index in range(context.transfer_pairs)]
    sides: tuple[Literal["base", "head"], ...] = ("base", "head")
    needed = NeedRuns(tuple(RunRequest(side, seed) for seed in seeds for side in sides))
    if not pairs.measure(needed):
        return False, "not measured, the dollars left are too few"
    base, head = (good(run for run in pairs.runs if run.trial.side == side) for side in sides)
    if len(base) < len(seeds) or len(head) < len(seeds):
        failed = next(run for run in pairs.runs if run.outcome != "ok")
        return False, f"could not be measured ({failed.reason})"
    before, after = statistics.fmean(base), statistics.fmean(head)
    holds = context.brief.sign * (after - before) > 0
    change = f"{before:.6g} → {after:.6g} over {len(seeds)} pairs at the larger scale"
    better = "better there too" if holds else "not better there"
    return holds, f"{change}, {better} (an estimate, not a test)"


def _write_series(context: ResearchContext, stack: Stack) -> None:
    """The proven changes as patches, one on the other from the base: what `publish` applies."""
    folder = context.run_state.state / "proven"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.diff"):
        old.unlink()
    before = context.base
    for place, (number, commit) in enumerate(zip(stack.numbers, stack.commits, strict=True), 1):
        write(folder / f"{place:02d}-{number:04d}.diff", context.workspace.patch(before, commit))
        before = commit
