"""The desk: ideas are made while trials run, against the incumbent at that moment, and wait here
for a slot.

Owns the threads that agents think in, the work trees they edit, and what becomes of a waiting idea
when the incumbent moves. The ledger is written by the loop's thread alone: `collect` and `take` are
called from there.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

from autoresearch_action.agents import Agent, AgentFailure, Context, Exhausted
from autoresearch_action.agents.edits import comparable
from autoresearch_action.ledger import Ledger
from autoresearch_action.records import Experiment, Measurement, Proposal, Usage, Verdict
from autoresearch_action.workspace.trees import PatchRefused, Workspace

# Agent calls in a row without a usable edit before the run stops asking
MAX_FAILURES = 6


@dataclass(frozen=True)
class Idea:
    """What came of one call: an edit as a commit, or the reason why there is none."""

    proposal: Proposal
    # "" when the patch was refused
    commit: str = ""
    refused: str = ""


class Proposals:
    """Keeps up to `depth` ideas thought of or waiting. `prices` of calls in flight are reserved in
    the ledger.
    """

    def __init__(
        self, agent: Agent, workspace: Workspace, ledger: Ledger, trees: Path, depth: int
    ) -> None:
        self.agent, self.workspace, self.ledger, self.depth = agent, workspace, ledger, depth
        self.cancelled = threading.Event()
        # Journalled, not yet measured
        self.waiting: list[Experiment] = []
        self.exhausted = ""
        self.failures = 0
        # Git trees tried in earlier runs on this base → what they were
        self.known: dict[str, str] = {}
        self._thinking: dict[Future[Idea], int] = {}
        self._pool = ThreadPoolExecutor(depth, thread_name_prefix="agent")
        self._trees: SimpleQueue[Path] = SimpleQueue()
        self._ask = max(ledger.run_state.reserved_usd, default=0)
        for index in range(depth):
            self._trees.put(trees / f"agent-{index}")

    @property
    def thinking(self) -> int:
        return len(self._thinking)

    @property
    def futures(self) -> list[Future[Idea]]:
        return list(self._thinking)

    def wants_more(self) -> bool:
        return not self.exhausted and len(self.waiting) + self.thinking < self.depth

    def ask(self, context: Context, repair: Experiment | None = None) -> None:
        """Start one call. `context.tree` and `.directory` are filled in here."""
        self._ask += 1
        self.ledger.append("ask", ask=self._ask, worst=self.agent.worst_usd or 0.0)
        context = replace(context, cancelled=self.cancelled)
        self._thinking[self._pool.submit(self._think, context, repair)] = self._ask

    def _think(self, context: Context, repair: Experiment | None) -> Idea:
        tree = self._trees.get()
        try:
            self.workspace.checkout(tree, repair.commit if repair else context.parent)
            context = replace(context, tree=tree, directory=tree / self.workspace.prefix)
            draft = self.agent.repair(context, repair) if repair else self.agent.propose(context)
            if draft is None:
                raise AgentFailure("")
            details = draft.details | ({"repairs": str(repair.number)} if repair else {})
            facts = draft.model_dump() | {"details": details, "parent": context.parent}
            facts["agent"] = details.get("agent", self.agent.name)
            try:
                patch = self.workspace.diff(tree, context.parent)
                facts["comparable"] = (
                    comparable(patch) if draft.comparable is None else draft.comparable
                )
                proposal = Proposal(**facts, patch=patch)
                if not patch.strip():
                    raise AgentFailure(f"{self.agent.name} changed nothing.", draft.usage)
                return Idea(
                    proposal, self.workspace.commit(context.parent, patch, draft.description)
                )
            except PatchRefused as error:
                return Idea(Proposal(**facts | {"comparable": False}, patch=""), refused=str(error))
        finally:
            self._trees.put(tree)

    def collect(self) -> list[tuple[Experiment, str]]:
        """Journal the ideas that have come in: (experiment, reason it was refused or "")."""
        settled = []
        for future in [future for future in self._thinking if future.done()]:
            ask = self._thinking.pop(future)
            usage, agent = Usage(), self.agent.name
            try:
                idea = future.result()
                usage, agent = idea.proposal.usage, idea.proposal.agent
                self.ledger.spent(agent, usage, ask)
                settled += self._arrived(idea)
            except Exhausted as error:
                self.ledger.spent(agent, usage, ask)
                self.exhausted = str(error)
            except AgentFailure as error:
                self.ledger.spent(agent, error.usage, ask)
                self._failed(str(error), error.fatal)
        return settled

    def _arrived(self, idea: Idea) -> list[tuple[Experiment, str]]:
        run_state, tree = self.ledger.run_state, ""
        if idea.commit:
            tree = self.workspace.tree(idea.commit)
            same = (
                f"#{run_state.trees[tree]}" if tree in run_state.trees else self.known.get(tree, "")
            )
            if same or tree == self.workspace.tree(idea.proposal.parent):
                self._failed(
                    f"{idea.proposal.agent} proposed the same code as {same or 'the incumbent'} again."
                )
                return []
        self.failures = 0
        number = run_state.next_number
        self.ledger.propose(number, idea.proposal, idea.commit, tree)
        experiment = run_state.experiments[number]
        if idea.commit:
            self.waiting.append(experiment)
        return [(experiment, idea.refused)]

    def _failed(self, reason: str, fatal: bool = False) -> None:
        if not reason or self.cancelled.is_set():
            return
        self.ledger.append("message", text=reason)
        self.failures += 1
        if fatal or self.failures >= MAX_FAILURES:
            self.exhausted = (
                reason
                if fatal
                else f"{self.failures} calls in a row gave no usable edit, the last: {reason}"
            )

    def again(self, experiment: Experiment, onto: str, first: bool = False) -> Experiment | str:
        """The same edit as a new candidate on `onto`, before all others if `first`; else what is in
        its way.
        """
        run_state, proposal = self.ledger.run_state, experiment.proposal
        assert proposal is not None
        commit = (
            experiment.commit
            if experiment.parent == onto
            else self.workspace.carry(experiment.commit, onto)
        )
        if not commit:
            return "by a change of the same lines"
        tree = self.workspace.tree(commit)
        if (same := run_state.trees.get(tree, experiment.number)) != experiment.number:
            return f"and on it this is the code of #{same}"
        number = run_state.next_number
        moved = proposal.model_copy(
            update={"parent": onto, "patch": self.workspace.patch(onto, commit), "usage": Usage()}
        )
        self.ledger.propose(number, moved, commit, tree, origin=experiment.number)
        self.waiting.insert(0 if first else len(self.waiting), run_state.experiments[number])
        return run_state.experiments[number]

    def carry(self, experiment: Experiment, onto: str, reason: str) -> None:
        """Re-apply an edit on a new incumbent as a new candidate; the old number is settled as
        never measured there.
        """
        run_state = self.ledger.run_state
        # Killed before this was told
        begun = run_state.unsettled if experiment.number in run_state.carried else ()
        there = next(
            (
                one
                for number in begun
                if (one := run_state.experiments[number]).origin == experiment.number
            ),
            None,
        )
        carried = there or self.again(experiment, onto)
        if isinstance(carried, str):
            self.unmeasured(experiment, f"{reason}, {carried}")
        else:
            self.ledger.append(
                "verdict",
                settle(experiment, "discard", f"{reason}; carried on as #{carried.number}"),
            )

    def unmeasured(self, experiment: Experiment, reason: str) -> Verdict:
        """Settle what no decision rests on. Where it has no runs either, it counts as no
        experiment.
        """
        if not experiment.runs:
            self.ledger.append("unmeasured", number=experiment.number)
        self.ledger.append("verdict", verdict := settle(experiment, "discard", reason))
        return verdict

    def follow(self, onto: str) -> None:
        """Ideas for another incumbent than this, also those that were still being thought of when
        it moved: what applies waits on as a new candidate, the rest is made anew.
        """
        stale = [experiment for experiment in self.waiting if experiment.parent != onto]
        self.waiting = [experiment for experiment in self.waiting if experiment.parent == onto]
        for experiment in stale:
            self.carry(experiment, onto, "the incumbent moved before this was measured")

    def cancel(self) -> None:
        self.cancelled.set()
        for future in self._thinking:
            future.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)


def settle(experiment: Experiment, status: str, reason: str, **more: object) -> Verdict:
    """The verdict on an experiment, with the facts that its runs and its proposal give."""
    proposal, runs = experiment.proposal, experiment.runs
    good = [run.metrics for run in runs if run.outcome == "ok"]
    names = {name for metrics in good for name in metrics}
    means = {
        name: sum(m[name] for m in good if name in m) / sum(name in m for m in good)
        for name in sorted(names)
    }
    facts = {
        "number": experiment.number,
        "status": status,
        "reason": reason,
        "description": experiment.description,
        "agent": proposal.agent if proposal else "",
        "metrics": means,
        "patch": f"trials/{experiment.number:04d}/patch.diff" if proposal else "",
        "started": experiment.started,
        "seconds": sum(run.seconds for run in runs),
        "usd": proposal.usage.usd if proposal else 0.0,
        "commit": experiment.commit,
        "parent": experiment.parent,
        "runs": len(runs),
        "origin": experiment.origin,
        "hashes": _hashes(runs, proposal.patch if proposal else ""),
    }
    return Verdict.model_validate(facts | more)


def _hashes(runs: Sequence[Measurement], patch: str) -> dict[str, str]:
    """What the verdict rests on. Several values (two machines) stand side by side."""
    found: dict[str, set[str]] = (
        {"patch": {hashlib.sha256(patch.encode("utf-8", "surrogateescape")).hexdigest()}}
        if patch
        else {}
    )
    for run in runs:
        for name, value in (*run.hashes.items(), ("sandbox", run.sandbox)):
            found.setdefault(name, set()).add(value)
    return {
        name: "+".join(sorted(value[:16] for value in values if value))
        for name, values in found.items()
    }
