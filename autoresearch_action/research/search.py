"""The loop: the order in which ideas, trials and decisions follow each other. It alone knows it.

One thread decides; trials run on the crew's slots and ideas are made at the proposals meanwhile, so
neither waits for the other. Everything that happened is in the ledger before the next thing starts:
killed anywhere, the next start goes on from there. What is claimed at the end is confirmation.py's.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from autoresearch_action.acceptance import Decision, NeedRuns, RunRequest
from autoresearch_action.acceptance.early_stop import audit, stop_rule
from autoresearch_action.acceptance.keep import SequentialScreen
from autoresearch_action.acceptance.noise import Noise, calibrate
from autoresearch_action.agents import Agent, Context
from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.errors import InputError, Interrupted, UserError
from autoresearch_action.ledger import Ledger, RunState
from autoresearch_action.records import (
    INHERITED,
    Confirmation,
    Experiment,
    Measurement,
    Proposal,
    StopRule,
    Trial,
    Usage,
    Verdict,
)
from autoresearch_action.research.proposals import Proposals, settle
from autoresearch_action.research.scheduler import Scheduler
from autoresearch_action.trials import Executor
from autoresearch_action.workspace.trees import PatchRefused, Workspace

# How the description of several changes that were inherited as one begins
TOGETHER = "Together: "
TRANSFER_PAIRS = 3
# Seconds that the start of a process may differ by
JITTER = 0.25


class View(Protocol):
    """What people watch while it runs."""

    def update(self, run_state: RunState, running: list[tuple[str, Trial, float]]) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass
class Candidate:
    """An experiment that is being screened; the incumbent and the baseline are ones that have been."""

    number: int
    commit: str
    runs: list[Measurement] = field(default_factory=list)
    wants: deque[RunRequest] = field(default_factory=deque)
    flying: int = 0
    # The incumbent it is judged against; evidence never moves to another
    rival: Candidate | None = None
    # All its runs, and the references asked for with them, on one device
    slot: str = ""


@dataclass
class Parts:
    """What a run is put together from; each is replaceable behind its interface."""

    brief: Brief
    workspace: Workspace
    agent: Agent
    executor: Executor
    ledger: Ledger
    budget: Budget
    view: View
    seed: int
    interrupted: Callable[[], str]
    earlier: tuple[Verdict, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    # An earlier run's stack: measured first, as one candidate
    inherited: tuple[Proposal, ...] = ()
    # Trees that later runs have measured on this base: not inherited once more
    settled: frozenset[str] = frozenset()
    # False: a shard of a fleet, which searches and leaves the claim to the merge
    claims: bool = True
    # That a claim of this run will be tested at: the lower, the more pairs it takes
    level: float = 0.025
    # Of an earlier run with equal device, base and data
    noise: Noise | None = None
    # Of early stops, over all earlier runs
    audit: Mapping[str, object] | None = None


class Loop:
    """The search: from the baseline to a stack of provisional keeps."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.brief, self.ledger, self.budget = (
            parts,
            parts.brief,
            parts.ledger,
            parts.budget,
        )
        self.run_state = parts.ledger.run_state
        self.scheduler = Scheduler(parts.executor, parts.ledger, parts.interrupted, self._tick)
        depth = len(parts.executor.slots) + 1
        self.proposals = Proposals(
            parts.agent, parts.workspace, parts.ledger, parts.ledger.path.parent / "slots", depth
        )
        self.proposals.known = dict(parts.known)
        self.noise: Noise | None = None
        self.reseed = False
        self.baseline = Candidate(0, parts.workspace.base)
        self.incumbent = self.baseline
        self.candidates: dict[int, Candidate] = {}
        self.reason = ""
        self._said = len(self.run_state.messages)

    # -- the order of things
    # -------------------------------------------------------------------------------------

    def search(self) -> None:
        """Run until a cap, the target or the agent's end. Raises Interrupted, InputError (no
        baseline).
        """
        self._resume()
        self._advance(self.baseline)
        while True:
            self.reason = self._why_stop()
            if not self.reason:
                self._ask()
            late = self._launch()
            # That alone is why they go undecided
            if late and not self._target_reached() and (self.candidates or self.proposals.waiting):
                self.reason = (
                    self.budget.why_not(0, self.spent, 1, self.confirm_runs) or self.reason
                )
            self.reason = self.reason or (self._why_stop() if late else "")
            busy = self.scheduler.running or self.proposals.thinking
            if not busy and (
                late or (self.reason and not self.candidates and not self.proposals.waiting)
            ):
                break
            for measurement in self.scheduler.wait(self.proposals.futures):
                self._measured(measurement)
            for experiment, refused in self.proposals.collect():
                if refused:
                    self._settle(experiment, Decision("discard", refused))
            self.proposals.follow(self.incumbent.commit)
            self._pass_on()
        self._leave_undecided()

    def _resume(self) -> None:
        """Bring back where the ledger stands: the baseline's runs, the incumbent, candidates
        without a verdict.
        """
        experiments = self.run_state.experiments
        if 0 in experiments:
            self.baseline.runs = list(experiments[0].runs)
            self.reseed = any(run.trial.reseed for run in self.baseline.runs)
        if self.run_state.kept:
            last = experiments[self.run_state.kept[-1]]
            self.incumbent = Candidate(last.number, last.commit, list(last.runs))
        for number in self.run_state.unsettled:
            experiment = experiments[number]
            if not experiment.commit:
                self._settle(experiment, Decision("discard", "Refused before it was measured."))
            elif experiment.runs and experiment.parent == self.incumbent.commit:
                self.candidates[number] = Candidate(
                    number, experiment.commit, list(experiment.runs), rival=self.incumbent
                )
            elif experiment.parent == self.incumbent.commit:
                self.proposals.waiting.append(experiment)
            else:
                self.proposals.carry(experiment, self.incumbent.commit, "the incumbent had moved")
        if not experiments or list(experiments) == [0]:
            self._inherit()

    def _inherit(self) -> None:
        """The earlier run's stack, or what of it still applies in order, comes first: one
        candidate, measured like any other.
        """
        workspace, base, tip = self.parts.workspace, self.baseline.commit, self.baseline.commit
        applied = []
        for proposal in self.parts.inherited:
            if step := self._applied(tip, proposal):
                tip = step
                applied.append(proposal)
        tree, patch = workspace.tree(tip), workspace.patch(base, tip)
        if not patch.strip() or tree in self.parts.settled:
            return
        whole = together(applied, base, patch, entire=len(applied) == len(self.parts.inherited))
        if commit := self._applied(base, whole):
            self.ledger.propose(number := self.run_state.next_number, whole, commit, tree)
            self.proposals.waiting.append(self.run_state.experiments[number])

    def _applied(self, parent: str, proposal: Proposal) -> str:
        try:
            return self.parts.workspace.commit(
                parent, proposal.patch, proposal.description, three_way=True
            )
        except PatchRefused as error:
            self.ledger.append(
                "message",
                text=f"An earlier run's change is left out ({proposal.description}): {error}",
            )
            return ""

    # -- stopping
    # ------------------------------------------------------------------------------------------------

    @property
    def confirm_runs(self) -> int:
        return (
            2 * (self.noise.reserve_pairs(self.parts.level) + self.transfer_pairs)
            if self.noise
            else 12
        )

    @property
    def transfer_pairs(self) -> int:
        return (
            (1 if self.noise and self.noise.exact else TRANSFER_PAIRS) if self.brief.transfer else 0
        )

    def _why_stop(self) -> str:
        # A resumed proof goes on: what it has left out is no head to search from
        if proving := self.run_state.facts.get("proving"):
            return str(proving)
        if self._target_reached():
            return f"the target {self.brief.target:g} is reached"
        started = self.run_state.counted(self.run_state.experiments) + self.proposals.thinking
        ahead = (
            1
            + len(self.proposals.waiting)
            + self.proposals.thinking
            + sum(len(c.wants) for c in (self.baseline, *self.candidates.values()))
        )
        full = self.budget.why_not(
            started, self.spent, ahead, self.confirm_runs, self.parts.agent.worst_usd or 0.0
        )
        # Ideas are made meanwhile, within the same caps
        if self.noise is None:
            return "waiting for the baseline" if full else ""
        return full or self.proposals.exhausted

    @property
    def spent(self) -> float:
        """Dollars that are gone or bound: calls and trials in flight count, the former at their
        worst price.
        """
        flying = self.scheduler.seconds(self.budget.trial_seconds)
        return self.run_state.usd + self.budget.device_usd(self.run_state.device_seconds + flying)

    def _late(self) -> bool:
        """Whether no trial may be started any more: the target is reached, or the proof needs what
        is left of time and dollars.
        """
        return bool(self.noise) and (
            self._target_reached() or not self.budget.room(1, self.confirm_runs, self.spent)
        )

    def _target_reached(self) -> bool:
        values = [run.value for run in self.incumbent.runs if run.value is not None]
        if self.brief.target is None or len(values) < 2:
            return False
        return self.brief.sign * (statistics.fmean(values) - self.brief.target) >= 0

    def _leave_undecided(self) -> None:
        for candidate in list(self.candidates.values()):
            experiment = self.run_state.experiments[candidate.number]
            runs = f"after {len(candidate.runs)} run{'s' * (len(candidate.runs) != 1)}"
            self._settle(
                experiment,
                Decision("discard", f"Undecided {runs} when the run ended: {self.reason}."),
            )
        for experiment in self.proposals.waiting:
            self._tell(self.proposals.unmeasured(experiment, f"Never measured: {self.reason}."))
        self.proposals.waiting.clear()

    # -- ideas
    # ---------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        while self.proposals.wants_more() and not self._why_stop():
            self.proposals.ask(self._context())

    def _context(self) -> Context:
        pending = [
            self.run_state.experiments[number] for number in self.candidates
        ] + self.proposals.waiting
        number = self.run_state.next_number + self.proposals.thinking
        return Context(
            brief=self.brief,
            tree=self.ledger.path.parent,
            directory=self.ledger.path.parent,
            parent=self.incumbent.commit,
            number=number,
            seed=self.parts.seed + number,
            history=self.run_state.recent(),
            earlier=self.parts.earlier,
            pending=pending,
            noise=self.noise.sigma if self.noise else None,
            usd_left=self.budget.max_usd - self.spent,
        )

    # -- trials
    # --------------------------------------------------------------------------------------------------

    def _launch(self) -> bool:
        """Fill the free slots: the baseline first, then candidates that need more runs, then new
        ones. Whether it is too late to.
        """
        for slot in self.scheduler.free:
            if self._late():
                return True
            owner = self._next_owner(slot)
            if owner is None:
                continue
            if self.noise is None and self.budget.trials_left(self.spent) < 1:
                raise InputError(
                    f"--max-usd {self.budget.max_usd:g} is too small: the baseline's runs alone would pass it."
                )
            want = owner.wants.popleft()
            owner.flying += 1
            if owner.number and not self._interchangeable:
                owner.slot = owner.slot or slot
            self.scheduler.start(self._trial(owner, want), slot)
        return False

    def _next_owner(self, slot: str) -> Candidate | None:
        ready = [
            c
            for c in (self.baseline, *self.candidates.values())
            if c.wants and c.slot in ("", slot)
        ]
        if ready:
            return ready[0]
        if self.noise is None or not self.proposals.waiting:
            return None
        experiment = self.proposals.waiting.pop(0)
        candidate = Candidate(experiment.number, experiment.commit, rival=self.incumbent)
        self.candidates[candidate.number] = candidate
        self._advance(candidate)
        return candidate if candidate.wants else None

    @property
    def _interchangeable(self) -> bool:
        """Whether the slots are shares of one processor. Of cards a candidate stays on one, and the
        baseline is run on all.
        """
        return all(slot.startswith("cpu") for slot in self.parts.executor.slots)

    def _trial(self, owner: Candidate, want: RunRequest) -> Trial:
        measured = owner if want.side == "head" else owner.rival or self.baseline
        purpose: Literal["baseline", "screen", "reference"]
        purpose = (
            "baseline"
            if owner.number == 0 and self.noise is None
            else "screen"
            if want.side == "head"
            else "reference"
        )
        return Trial(
            number=measured.number,
            commit=measured.commit,
            seed=want.seed,
            side=want.side,
            purpose=purpose,
            reseed=self.reseed,
            stop=self._stop_rule(owner, want),
            asked_by=owner.number,
            **self.limits(owner.number),  # type: ignore[arg-type]
        )

    def limits(self, number: int) -> dict[str, object]:
        """Hard limits by phase and, where training time is fixed, the clock that equal time allows;
        the baseline (0) sets that one.
        """
        runs = [run for run in self.baseline.runs if run.outcome == "ok"]
        if not runs:
            return {}
        took = {
            phase: max(run.phases.get(phase, 0.0) for run in runs)
            for phase in ("check", "compile", "run", "evaluate")
        }
        limits = {
            phase: 3 * seconds + 30
            for phase, seconds in took.items()
            if seconds or phase != "compile"
        }
        facts: dict[str, object] = {"limits": limits}
        if self.brief.fixed_time:
            limits["run"] = max(limits["run"], self.brief.time_budget + 30)
            if any(not slot.startswith("cpu") for slot in self.parts.executor.slots):
                limits["run"] = min(limits["run"], 2 * self.brief.time_budget + 30)
            # On processor cores the window is processor time: a busy machine needs more of the wall
            # clock for the same.
            clocks = [run.clock for run in runs]
            spread = statistics.stdev(clocks) if len(clocks) > 1 else 0.0
            # The window is the cap: the base's own clock binds where it fills the window
            allowed = max(1.1 * max(clocks) + 3 * spread + JITTER, self.brief.time_budget)
            facts |= {"clock_limit": allowed} if number else {}
        if self.brief.timeout:
            limits["run"] = self.brief.timeout
        return facts

    def _stop_rule(self, owner: Candidate, want: RunRequest) -> StopRule | None:
        """Only a first look may be stopped early, and only where training losses can be compared."""
        if owner.number == 0 or owner.runs or want.side != "head" or self.noise is None:
            return None
        proposal = self.run_state.experiments[owner.number].proposal
        if proposal is None or not proposal.comparable:
            return None
        rng = np.random.default_rng((self.parts.seed, owner.number))
        return stop_rule(owner.rival.runs, want.seed, self._audited, rng) if owner.rival else None

    @property
    def _audited(self) -> object:
        return self.run_state.facts.get("audit") or self.parts.audit

    def _audit(self, candidate: Candidate, decision: Decision) -> None:
        """A first look that was run to the end without a stop rule tells what the rule would have
        done to it.
        """
        proposal = self.run_state.experiments[candidate.number].proposal
        if (
            not candidate.runs
            or candidate.runs[0].trial.stop
            or proposal is None
            or not proposal.comparable
        ):
            return
        past = self._audited
        assert candidate.rival is not None
        now = audit(past, candidate.runs[0], candidate.rival.runs, decision.status == "keep")
        if now["looks"] != (past or {}).get("looks", 0):  # type: ignore[attr-defined]
            self.ledger.append("fact", name="audit", value=now)

    def _measured(self, measurement: Measurement) -> None:
        trial = measurement.trial
        owner = self.baseline if trial.asked_by == 0 else self.candidates.get(trial.asked_by)
        holders = (owner, owner.rival if owner else None, self.incumbent, self.baseline)
        holder = next((c for c in holders if c and c.number == trial.number), None)
        if holder:
            holder.runs.append(measurement)
        if owner is None:
            return
        owner.flying -= 1
        # A machine that gets slower needs more time kept for the proof
        if measurement.outcome == "ok":
            known = 0.9 * self.budget.trial_seconds + 0.1 * measurement.seconds
            self.budget.trial_seconds = (
                known if self.noise else statistics.fmean(run.seconds for run in self.baseline.runs)
            )
        if trial.asked_by == 0 and measurement.outcome != "ok":
            raise InputError(
                f"The baseline does not run: {measurement.reason} Log: {measurement.log}\n{measurement.tail}".strip()
            )
        if owner.flying == 0 and not owner.wants:
            self._advance(owner)

    # -- decisions
    # -----------------------------------------------------------------------------------------------

    def _advance(self, candidate: Candidate) -> None:
        """Ask the rule what it wants next on the evidence so far."""
        if candidate is self.baseline:
            self._calibrate()
            return
        assert self.noise is not None
        assert candidate.rival is not None
        siblings = [
            e.runs[0]
            for e in self.run_state.experiments.values()
            if e.number and e.parent == candidate.rival.commit and e.runs
        ]
        screen = SequentialScreen(
            self.brief, self.noise, seed=self.parts.seed + candidate.number, siblings=siblings
        )
        answer = screen.decide(candidate.runs, candidate.rival.runs)
        if isinstance(answer, NeedRuns):
            candidate.wants.extend(answer.runs)
            return
        self._decide(candidate, answer)
        for number in sorted(
            {*screen.misjudged(candidate.runs, candidate.rival.runs)}
            - self.run_state.carried
            - self.candidates.keys()
        ):
            wronged = self.run_state.experiments[number]
            # Once
            second = (
                self.proposals.again(wronged, self.incumbent.commit, first=True)
                if wronged.origin is None
                else ""
            )
            if not isinstance(second, str):
                self.parts.view.note(
                    f"#{number} is measured again as #{second.number}: the machine had changed its speed meanwhile"
                )

    def _calibrate(self) -> None:
        answer = calibrate(self.baseline.runs, self.brief, self.parts.seed, self.parts.noise)
        if isinstance(answer, NeedRuns):
            self.reseed = self.reseed or answer.reseed
            self.baseline.wants.extend(answer.runs)
            return
        self.noise = answer
        self.budget.trial_seconds = statistics.fmean(run.seconds for run in self.baseline.runs)
        self.budget.check_size(self.brief.time_budget, 1 + self.confirm_runs)
        self.ledger.append("fact", name="noise", value=answer.model_dump(mode="json"))
        self.parts.view.note(f"baseline {answer.mean:.6g}, {answer.describe()}")
        for note in answer.notes:
            self.parts.view.note(f"{note[0].upper()}{note[1:]}.")
        if 0 not in self.run_state.statuses:
            reason = f"baseline, {answer.describe()}"
            self.ledger.append("verdict", settle(self.run_state.experiments[0], "keep", reason))
        for candidate in list(self.candidates.values()):
            self._advance(candidate)

    def _decide(self, candidate: Candidate, decision: Decision) -> None:
        experiment = self.run_state.experiments[candidate.number]
        if decision.status == "keep" and experiment.parent != self.incumbent.commit:
            # Judged against an incumbent that has since been beaten: its edit is a new candidate on
            # the new one.
            del self.candidates[candidate.number]
            self.proposals.carry(
                experiment,
                self.incumbent.commit,
                f"{decision.reason}, but the incumbent moved meanwhile",
            )
            return
        self._audit(candidate, decision)
        assert self.noise is not None and candidate.rival is not None
        self.noise = self.noise.learn(candidate.runs, candidate.rival.runs)
        self._settle(experiment, decision)
        self.candidates.pop(candidate.number, None)
        if decision.status == "keep":
            self.incumbent = candidate
        elif decision.status == "crash" and self._may_repair(experiment):
            self.proposals.ask(self._context(), repair=experiment)

    def _may_repair(self, experiment: Experiment) -> bool:
        proposal = experiment.proposal
        fresh = (
            proposal is not None
            and "repairs" not in proposal.details
            and experiment.parent == self.incumbent.commit
        )
        return fresh and not self._why_stop() and self.proposals.wants_more()

    def _settle(self, experiment: Experiment, decision: Decision) -> None:
        verdict = settle(
            experiment,
            decision.status,
            decision.reason,
            estimate=decision.estimate,
            spread=decision.spread,
        )
        self.ledger.append("verdict", verdict)
        self._tell(verdict)

    def _pass_on(self) -> None:
        """Say what the proposals has to say: of an idea that could not be used there is nothing
        else to see.
        """
        for text in self.run_state.messages[self._said :]:
            self.parts.view.note(text)
        self._said = len(self.run_state.messages)

    def _tell(self, verdict: Verdict) -> None:
        self.parts.view.note(
            f"#{verdict.number} {verdict.status}: {verdict.description} ({verdict.reason})"
        )

    def _tick(self) -> None:
        self.parts.view.update(self.run_state, list(self.scheduler.running.values()))


def together(parts: Sequence[Proposal], parent: str, patch: str, entire: bool) -> Proposal:
    """Several changes as one, which names them; `entire`: all of an earlier run's stack."""
    first, told = parts[0], "; ".join(part.description.removeprefix(TOGETHER) for part in parts)
    # Files of patches.py are not tried again
    details = {"patch": "\n".join(part.details.get("patch", "") for part in parts)}
    details = (
        first.details | details
        if len(parts) == 1
        else details | {INHERITED: first.details.get(INHERITED, "")}
    )
    details = {
        name: text for name, text in details.items() if text and (entire or name != INHERITED)
    }
    facts: dict[str, object] = {
        "parent": parent,
        "patch": patch,
        "usage": Usage(),
        "details": details,
    }
    if len(parts) > 1:
        facts |= {
            "agent": ", ".join(dict.fromkeys(part.agent for part in parts)),
            "description": TOGETHER + told,
            "hypothesis": " ".join(filter(None, (part.hypothesis for part in parts))),
            "expected": " ".join(filter(None, (part.expected for part in parts))),
            "comparable": all(part.comparable for part in parts),
        }
    return first.model_copy(update=facts)


def run(parts: Parts) -> RunState:
    """Search, then prove. Ends with a `stop` event: finished, or interrupted and to be resumed."""
    # The search does not need it
    from autoresearch_action.research.confirmation import prove

    loop, run_state = Loop(parts), parts.ledger.run_state
    usual = (
        run_state.trial_seconds / run_state.trials
        if run_state.trials
        else parts.budget.trial_seconds
    )
    # The last session was killed: for how long its trials had run by then nobody knows
    lost = run_state.unended * usual
    parts.ledger.append(
        "session", started=time.time(), slots=len(parts.executor.slots), seconds=round(lost, 3)
    )
    try:
        loop.search()
        if parts.claims:
            prove(loop)
        else:
            parts.ledger.append(
                "confirmation",
                Confirmation(
                    held=False, reason="A shard claims nothing: its keeps go to the merge."
                ),
            )
        parts.ledger.append("stop", reason=loop.reason, finished=True)
    except (Interrupted, UserError) as why:
        parts.ledger.append("cut", seconds=round(loop.scheduler.seconds(0.0), 3))
        parts.executor.cancel()
        parts.ledger.append("stop", reason=str(why).split("\n")[0], finished=False)
        if not isinstance(why, Interrupted):
            raise
    finally:
        loop.proposals.cancel()
        parts.executor.close()
    return parts.ledger.run_state
