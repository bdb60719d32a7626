"""Proposals: made while trials run, against the incumbent at that moment, and waiting here for a
slot.

Owns the threads that agents think in, the work trees they edit, and what becomes of a waiting
proposal when the incumbent moves. The ledger is written by the search's thread alone: `collect`,
`carry` and `follow` are called from there.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from autoresearch_action.acceptance import Decision
from autoresearch_action.agents import AgentFailure, Context, Exhausted
from autoresearch_action.agents.edits import comparable
from autoresearch_action.agents.lessons import Lessons
from autoresearch_action.agents.novelty import Ideas, Known
from autoresearch_action.records import Experiment, Proposal, Usage, Verdict
from autoresearch_action.research.context import ResearchContext
from autoresearch_action.research.told import profile_wanted, told
from autoresearch_action.research.verdict import settle
from autoresearch_action.workspace.trees import PatchRefused

# Agent calls in a row without a usable edit before the run stops asking
MAX_FAILURES = 6
# A proposal and its commit, or why its patch was refused
Made = tuple[Proposal, str | PatchRefused]


class NotCarried(Exception):
    """An edit cannot go on as another experiment; the text says what is in its way."""


class Proposals:
    """Keeps one proposal more than there are slots thought of or waiting. Prices of calls in flight
    are reserved in the ledger.
    """

    def __init__(self, context: ResearchContext) -> None:
        self.context, self.workspace = context, context.workspace
        self.agent = context.parts.agent
        self.ledger, self.run_state = context.ledger, context.run_state
        self.depth = len(context.parts.executor.slots) + 1
        # Git trees tried in earlier runs on this base, and as what
        self.known = context.parts.inherited.known
        self.cancelled = threading.Event()
        # Journalled, not yet measured
        self.waiting: list[Experiment] = []
        # Why no more is asked for, "" while it is; whether no trial may begin any more
        self.exhausted, self.late = "", False
        self.failures = 0
        self.ideas, self.lessons = Ideas(), Lessons(self.run_state)
        self._calls: dict[Future[Made], int] = {}
        self._pool = ThreadPoolExecutor(self.depth, thread_name_prefix="agent")
        self._trees: SimpleQueue[Path] = SimpleQueue()
        self._last_call = max(self.run_state.reserved_usd, default=0)
        for index in range(self.depth):
            self._trees.put(self.run_state.state / "slots" / f"agent-{index}")

    @property
    def thinking(self) -> int:
        return len(self._calls)

    @property
    def futures(self) -> list[Future[Made]]:
        return list(self._calls)

    def wants_more(self) -> bool:
        """Whether another call may begin; none before the baseline ran once."""
        known = bool(self.context.runs(0))
        return known and not self.exhausted and len(self.waiting) + self.thinking < self.depth

    def request(self, pending: list[int], repair: Experiment | None = None) -> None:
        """Start one call. `pending`: numbers that are being screened."""
        self._profile()
        self._last_call += 1
        worst = self.agent.worst_usd or 0.0
        context = told(
            self.context,
            self.ideas,
            self._last_call,
            worst,
            depth=self.depth,
            pending=[self.run_state.experiments[one] for one in pending] + self.waiting,
            cancelled=self.cancelled,
            late=lambda: self.late,
            lessons=self.lessons.read(),
        )
        self.ledger.append("ask", ask=self._last_call, worst=worst)
        known = Known.of(self.run_state, self.known)
        self._calls[self._pool.submit(self._think, context, repair, known)] = self._last_call

    def _profile(self) -> None:
        """Have the incumbent's profile made, once, where a slot is free."""
        scheduler = self.context.scheduler
        flying = any(trial.stage == "profile" for _, trial, _ in scheduler.running.values())
        trial = None if flying or not scheduler.free else profile_wanted(self.context)
        if trial:
            scheduler.start(trial, scheduler.free[0])

    def _think(self, context: Context, repair: Experiment | None, known: Known) -> Made:
        tree = self._trees.get()
        try:
            self.workspace.checkout(tree, repair.commit if repair else context.parent)
            context = replace(
                context,
                tree=tree,
                directory=tree / self.workspace.prefix,
                refusal=lambda: known.refusal(self.workspace, tree, context.parent),
            )
            draft = self.agent.repair(context, repair) if repair else self.agent.propose(context)
            if draft is None:
                raise AgentFailure("")
            details = draft.details | ({"repairs": str(repair.number)} if repair else {})
            facts = draft.model_dump(exclude={"lessons"})
            facts |= {"details": details, "parent": context.parent}
            self.lessons.take(draft.lessons)
            facts["agent"] = details.get("agent", self.agent.name)
            try:
                patch = self.workspace.diff(tree, context.parent)
                if draft.comparable is None:
                    facts["comparable"] = comparable(patch)
                proposal = Proposal(**facts, patch=patch)
                if not patch.strip():
                    raise AgentFailure(f"{self.agent.name} changed nothing.", draft.usage)
                commit = self.workspace.commit(context.parent, patch, draft.description)
                return proposal, commit
            except PatchRefused as error:
                return Proposal(**facts | {"comparable": False}, patch=""), error
        finally:
            self._trees.put(tree)

    def collect(self) -> list[Verdict]:
        """Journal the proposals that have come in; the verdicts on those that were refused."""
        verdicts = []
        for future in [future for future in self._calls if future.done()]:
            call = self._calls.pop(future)
            self.ideas.end(call)
            try:
                proposal, commit = future.result()
                self.ledger.spent(proposal.agent, proposal.usage, call)
                verdicts += self._arrived(proposal, commit)
            except Exhausted as error:
                self.ledger.spent(self.agent.name, Usage(), call)
                self.exhausted = str(error)
            except AgentFailure as error:
                self.ledger.spent(self.agent.name, error.usage, call)
                self._failed(str(error), error.fatal, error.transient)
        return verdicts

    def _arrived(self, proposal: Proposal, commit: str | PatchRefused) -> list[Verdict]:
        if isinstance(commit, PatchRefused):
            self.failures = 0
            experiment = self._propose(proposal, "", "")
            verdict = settle(experiment, Decision("discard", str(commit)))
            self.ledger.append("verdict", verdict)
            return [verdict]
        tree = self.workspace.tree(commit)
        what = Known.of(self.run_state, self.known).repeats(tree, proposal.patch)
        if tree == self.workspace.tree(proposal.parent):
            what = what or "it is the same code as the incumbent"
        if what:
            self._failed(f"{proposal.agent} proposed an edit again: {what}.")
        else:
            self.failures = 0
            self.waiting.append(self._propose(proposal, commit, tree))
        return []

    def _propose(
        self, proposal: Proposal, commit: str, tree: str, origin: int | None = None
    ) -> Experiment:
        number = self.run_state.next_number
        self.ledger.propose(number, proposal, commit, tree, origin)
        return self.run_state.experiments[number]

    def _failed(self, reason: str, fatal: bool = False, transient: bool = False) -> None:
        known = transient and reason in self.run_state.messages
        if not reason or known or self.cancelled.is_set():
            return
        self.ledger.append("message", text=reason)
        self.failures += not transient
        if fatal:
            self.exhausted = reason
        elif self.failures >= MAX_FAILURES:
            calls = f"{self.failures} calls in a row gave no usable edit"
            self.exhausted = f"{calls}, the last: {reason}"

    def again(self, experiment: Experiment, onto: str, first: bool = False) -> Experiment:
        """The same edit as a new candidate on `onto`, before all others if `first`. Raises
        NotCarried.
        """
        proposal, commit = experiment.proposal, experiment.commit
        assert proposal is not None
        if experiment.parent != onto:
            commit = self.workspace.carry(commit, onto) or ""
        if not commit:
            raise NotCarried("by a change of the same lines")
        tree = self.workspace.tree(commit)
        if (same := self.run_state.trees.get(tree, experiment.number)) != experiment.number:
            raise NotCarried(f"and on it this is the code of #{same}")
        facts = {"parent": onto, "patch": self.workspace.patch(onto, commit), "usage": Usage()}
        moved = proposal.model_copy(update=facts)
        carried = self._propose(moved, commit, tree, experiment.number)
        self.waiting.insert(0 if first else len(self.waiting), carried)
        return carried

    def carry(self, experiment: Experiment, onto: str, reason: str) -> None:
        """Re-apply an edit on a new incumbent as a new candidate; the old number is settled as
        never measured there.
        """
        try:
            carried = self._begun(experiment.number) or self.again(experiment, onto)
        except NotCarried as obstacle:
            self.unmeasured(experiment, f"{reason}, {obstacle}")
        else:
            decision = Decision("discard", f"{reason}; carried on as #{carried.number}")
            self.ledger.append("verdict", settle(experiment, decision))

    def _begun(self, number: int) -> Experiment | None:
        """What the edit goes on as already, where a process was killed before it could tell."""
        if number not in self.run_state.carried:
            return None
        begun = (self.run_state.experiments[other] for other in self.run_state.unsettled)
        return next((experiment for experiment in begun if experiment.origin == number), None)

    def unmeasured(self, experiment: Experiment, reason: str) -> Verdict:
        """Settle what no decision rests on. Where it has no runs either, it counts as no
        experiment.
        """
        if not experiment.runs:
            self.ledger.append("unmeasured", number=experiment.number)
        verdict = settle(experiment, Decision("discard", reason))
        self.ledger.append("verdict", verdict)
        return verdict

    def follow(self, onto: str) -> None:
        """Proposals for another incumbent than this, also those that were still being made when it
        moved: what applies waits on as a new candidate, the rest is made anew.
        """
        stale = [experiment for experiment in self.waiting if experiment.parent != onto]
        self.waiting = [experiment for experiment in self.waiting if experiment.parent == onto]
        for experiment in stale:
            self.carry(experiment, onto, "the incumbent moved before this was measured")

    def cancel(self) -> None:
        self.cancelled.set()
        for future in self._calls:
            future.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
