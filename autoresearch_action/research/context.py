"""What search and confirmation both stand on: the parts, the noise, clocks, limits and money.

How a trial is made, what it may take, and what must be kept back for the confirmation. Which trial
comes next, and what is decided on it, is not known here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from autoresearch_action.acceptance import ClaimRule, KeepRule
from autoresearch_action.acceptance.keep import WorthOfRuns
from autoresearch_action.acceptance.labelled import confirmation
from autoresearch_action.acceptance.noise import Noise, good
from autoresearch_action.acceptance.two_sample import LEAST_RUNS
from autoresearch_action.agents import Agent
from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.ledger import Ledger, RunState
from autoresearch_action.records import Measurement, Trial, Verdict
from autoresearch_action.research.beliefs import Beliefs
from autoresearch_action.research.history import NOTHING, Inheritance
from autoresearch_action.research.scheduler import Scheduler
from autoresearch_action.trials import Executor
from autoresearch_action.workspace.trees import Workspace

TRANSFER_PAIRS = 3
# Runs that are kept back for the confirmation while the noise is not known
UNKNOWN_RUNS = 12
# Seconds that the start of a process may differ by
JITTER = 0.25


class View(Protocol):
    """What people watch while it runs."""

    def update(self, run_state: RunState, running: list[tuple[str, Trial, float]]) -> None: ...

    def note(self, text: str) -> None: ...


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
    # Why the run must end now, "" while it need not
    interrupted: Callable[[], str]
    inherited: Inheritance = NOTHING
    # False: a shard of a fleet, which searches and leaves the claim to the merge
    claims: bool = True
    # That a claim of this run will be tested at: the lower, the more pairs it takes
    level: float = 0.025
    keep_rule: Callable[..., KeepRule] = WorthOfRuns
    claim_rule: Callable[..., ClaimRule] = confirmation


class ResearchContext:
    """One run's parts, and what all of its steps need to know of them."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.brief, self.workspace = parts, parts.brief, parts.workspace
        self.ledger, self.run_state = parts.ledger, parts.ledger.run_state
        self.budget, self.seed = parts.budget, parts.seed
        self.scheduler = Scheduler(parts.executor, parts.ledger, parts.interrupted, self._show)
        # None until the baseline is calibrated
        self.beliefs: Beliefs | None = None
        # Literal seeds in trials' copies are replaced
        self.reseed = any(run.trial.reseed for run in self.runs(0))

    @property
    def noise(self) -> Noise | None:
        """Of the incumbent, as far as it is known."""
        return self.beliefs.noise if self.beliefs else None

    @property
    def base(self) -> str:
        """The commit that everything is measured against."""
        return self.workspace.base

    def runs(self, number: int) -> list[Measurement]:
        """What was measured of an experiment in the search; 0 is the baseline."""
        return self.run_state.experiments.runs(number)

    def say(self, text: str) -> None:
        self.parts.view.note(text)

    def tell(self, verdict: Verdict) -> None:
        what = f"#{verdict.number} {verdict.status}: {verdict.description}"
        self.say(f"{what} ({verdict.reason})")

    def _show(self) -> None:
        self.parts.view.update(self.run_state, list(self.scheduler.running.values()))

    @property
    def incumbent_commit(self) -> str:
        number = self.run_state.incumbent
        return self.run_state.experiments[number].commit if number else self.base

    def target_reached(self) -> bool:
        if self.brief.target is None:
            return False
        values = good(self.runs(self.run_state.incumbent))
        if not values or self.beliefs is None:
            return False
        # A single run may be luck: what the line of versions says of it counts
        value = self.beliefs.value(self.run_state.incumbent)
        value = statistics.fmean(values) if value is None else value
        return self.brief.sign * (value - self.brief.target) >= 0

    # Money and time

    def baseline_seconds(self) -> float:
        """What a trial of the baseline takes on average."""
        return statistics.fmean(run.seconds for run in self.runs(0))

    @property
    def spent(self) -> float:
        """Dollars that are gone or bound: calls and trials in flight count, the former at their
        worst price.
        """
        flying = self.scheduler.seconds(self.budget.trial_seconds)
        return self.run_state.usd + self.budget.device_usd(self.run_state.device_seconds + flying)

    @property
    def confirm_runs(self) -> int:
        """Trials that are kept back for the confirmation and the transfer."""
        if self.noise is None:
            return UNKNOWN_RUNS
        assert self.beliefs is not None
        # With nothing to prove yet, what a plain find takes
        kept = self.run_state.kept
        how = self.beliefs.plan(kept, self.parts.level) if kept else None
        least = 2 * self.noise.reserve_pairs() if self.noise.exact else LEAST_RUNS
        return (how.runs if how else least) + 2 * self.transfer_pairs

    @property
    def transfer_pairs(self) -> int:
        if not self.brief.transfer:
            return 0
        return 1 if self.noise and self.noise.exact else TRANSFER_PAIRS

    def room(self, trials: int) -> bool:
        """Whether so many trials leave time and dollars for the confirmation."""
        return self.budget.room(trials, self.confirm_runs, self.spent)

    @property
    def late(self) -> bool:
        """Whether no trial may begin: the target is reached, or the proof needs what is left."""
        return self.noise is not None and (self.target_reached() or not self.room(1))

    def affords(self, trials: int) -> bool:
        """Whether the dollars pay for so many trials."""
        return self.budget.trials_left(self.spent) >= trials

    # Trials

    def trial(self, number: int, commit: str, seed: int, **facts: Any) -> Trial:
        """One run of a commit, within the limits that the baseline's runs give."""
        facts = {"number": number, "commit": commit, "seed": seed, "reseed": self.reseed} | facts
        trial = Trial.model_validate(facts)
        update = {"checked": self._checked(trial), **self._limits(trial.asked_by)}
        return trial.model_copy(update=update)

    def _checked(self, trial: Trial) -> bool:
        """Whether the trial's tree has passed the check: that is a fact about a tree."""
        of_claim = self.run_state.confirm_runs.get((trial.stage, trial.attempt), [])
        before = (*self.runs(trial.number), *of_claim) if self.brief.check else ()
        return any(run.outcome == "ok" and run.trial.commit == trial.commit for run in before)

    def _limits(self, asked_by: int) -> dict[str, object]:
        """Hard limits by phase and, where training time is fixed, the clock that equal time allows;
        the baseline (0) sets that one.
        """
        runs = [run for run in self.runs(0) if run.outcome == "ok"]
        if not runs:
            return {}
        limits = {}
        for phase in ("check", "compile", "run", "evaluate"):
            seconds = max(run.phases.get(phase, 0.0) for run in runs)
            if seconds or phase != "compile":
                limits[phase] = 3 * seconds + 30
        facts: dict[str, object] = {"limits": limits}
        if self.brief.fixed_time:
            limits["run"] = max(limits["run"], self.brief.time_budget + 30)
            if not self.on_processor:
                limits["run"] = min(limits["run"], 2 * self.brief.time_budget + 30)
            # On processor cores the window is processor time: a busy machine needs more of the wall
            # clock for the same
            clocks = [run.clock for run in runs]
            deviation = statistics.stdev(clocks) if len(clocks) > 1 else 0.0
            if asked_by:
                # The window is the cap: the base's own clock binds where it fills the window
                allowed = 1.1 * max(clocks) + 3 * deviation + JITTER
                facts["clock_limit"] = max(allowed, self.brief.time_budget)
        if self.brief.timeout:
            limits["run"] = self.brief.timeout
        return facts

    @property
    def on_processor(self) -> bool:
        """Whether the slots are shares of one processor, and no cards."""
        return all(slot.startswith("cpu") for slot in self.parts.executor.slots)
