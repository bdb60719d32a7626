"""Who proposes: the one interface that every agent implements.

An agent is given a private work tree of the incumbent and edits it; what it may edit is checked,
and the diff taken, by research/proposals.py. Adding an agent is one new file here and one line in
`registry.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.ledger import RunState
from autoresearch_action.records import Experiment, Measurement, Record, Usage, Verdict
from autoresearch_action.trials.profile import Hot, hottest


@dataclass(frozen=True)
class Standing:
    """Where the run stands: what is left of its budget. Seconds and US dollars; None: not known."""

    seconds_left: float | None = None
    # Kept back of these for the proof
    reserve_seconds: float = 0.0
    experiments_left: int | None = None
    usd_spent: float = 0.0
    # Calls in flight, at the most they may cost
    usd_reserved: float = 0.0
    usd_left: float | None = None
    # Of one trial
    trial_seconds: float = 0.0
    slots: int = 1

    @classmethod
    def of(cls, run_state: RunState, budget: Budget, spent: float, confirm_runs: int) -> Standing:
        """At this moment. `spent`: dollars, what is reserved among them."""
        reserved = sum(run_state.reserved_usd.values())
        return cls(
            seconds_left=budget.seconds_left,
            reserve_seconds=budget.reserve(confirm_runs),
            experiments_left=budget.max_experiments - run_state.begun,
            usd_spent=spent - reserved,
            usd_reserved=reserved,
            usd_left=budget.max_usd - spent,
            trial_seconds=budget.trial_seconds,
            slots=budget.slots,
        )

    def allowance(self, reserved: float, calls: int) -> float:
        """Dollars that a call may cost: what is reserved for it and, of what nobody has spoken for,
        so much that `calls` of them at once take half. What costs nothing is not capped.
        """
        free = max(0.0, (self.usd_left or 0.0) - reserved)
        return reserved + free / (2 * calls) if reserved else float("inf")

    def told(self) -> str:
        """In a sentence; "" where nothing is known."""
        if self.seconds_left is None:
            return ""
        minutes = max(0.0, self.seconds_left - self.reserve_seconds) / 60
        trial = f", a run takes {self.trial_seconds:.3g} s" if self.trial_seconds else ""
        slots = f" on each of {self.slots} slots" if self.slots > 1 else ""
        usd = f", {self.usd_left:.2f} dollars" if self.usd_left is not None else ""
        return (
            f"Left: {minutes:.3g} minutes for the search, {self.experiments_left} experiments{usd}"
            f" ({self.usd_spent:.2f} spent, {self.usd_reserved:.2f} reserved for calls in"
            f" flight){trial}{slots}."
        )


@dataclass(frozen=True)
class Context:
    """What an agent sees. Hold-out values are never in it."""

    brief: Brief
    # Work tree at `parent`, the agent's own, to edit in place
    tree: Path
    # The working directory inside `tree`
    directory: Path
    # Commit of the incumbent
    parent: str
    # Number that the experiment will have
    number: int
    # For the agent's own dice
    seed: int
    # This run, in order of number; number 0 is the baseline
    history: Sequence[Experiment] = ()
    # What earlier runs tried
    earlier: Sequence[Verdict] = ()
    # Proposed, no verdict yet
    pending: Sequence[Experiment] = ()
    # Standard deviation of the metric over seeds
    noise: float | None = None
    usd_left: float = float("inf")
    # Dollars that this call may cost
    allowance: float = float("inf")
    standing: Standing = field(default_factory=Standing)
    # Hardware, versions, slots
    machine: Mapping[str, str] = field(default_factory=dict)
    # Of the incumbent or, where that has none yet, of one before it
    profile: Measurement | None = None
    # What was learnt of an experiment, a line, by its number; what people wrote is 0's
    lessons: Mapping[int, str] = field(default_factory=dict)
    # Lines on what other calls are thinking of, as far as it is known at this moment
    others: Callable[[], Sequence[str]] = tuple
    # Tell the others in a line what this call is about to propose
    intend: Callable[[str], None] = lambda _: None
    # Why what the tree holds now would be refused before it is measured, in a sentence; "": it
    # would not
    refusal: Callable[[], str] = str
    cancelled: threading.Event = field(default_factory=threading.Event)
    # Whether no further experiment may begin: nothing is worth waiting for any more
    late: Callable[[], bool] = lambda: False

    @property
    def hot(self) -> list[Hot]:
        """The functions that the profile names, the hottest first."""
        found = hottest(self.profile.tail) if self.profile else []
        return [one.model_copy(update={"file": self._inside(one.file)}) for one in found]

    def _inside(self, file: str) -> str:
        """The name in the tree of a file that a profile may know by another folder."""
        parts = Path(file).parts
        names = (Path(*parts[place:]) for place in range(len(parts)) if parts[place] != "/")
        return next((n.as_posix() for n in names if (self.directory / n).is_file()), file)


class Draft(Record):
    """What an agent says of the edit it just made in the tree (fields as in records.Proposal)."""

    description: str
    hypothesis: str = ""
    expected: str = ""
    predicted: float | None = None
    # None: not said, so that it is read off the patch
    comparable: bool | None = None
    usage: Usage = Usage()
    details: dict[str, str] = {}
    # What was learnt of earlier experiments, a line each, by number
    lessons: dict[int, str] = {}


class Exhausted(Exception):
    """The agent has nothing more to propose in this run; the text says why, in one sentence."""


class AgentFailure(Exception):
    """This call gave no usable edit; the text says why, in one sentence. `usage` was spent all the
    same.
    """

    def __init__(
        self,
        reason: str,
        usage: Usage | None = None,
        fatal: bool = False,
        transient: bool = False,
    ) -> None:
        super().__init__(reason)
        self.usage = usage or Usage()
        # Asking again cannot help: no key, no such model
        self.fatal = fatal
        # Nobody was there to answer: no failed idea, and worth asking again later
        self.transient = transient


class Outage:
    """How long an agent that nobody answers is left in peace: as long as it has been out, within
    bounds.
    """

    # Seconds
    SHORTEST, LONGEST = 1.0, 300.0

    def __init__(self) -> None:
        self._since = self._until = 0.0

    def begin(self) -> None:
        """It did not answer, now or once more."""
        now = time.monotonic()
        self._since = self._since or now
        self._until = now + min(max(now - self._since, self.SHORTEST), self.LONGEST)

    def end(self) -> None:
        self._since = self._until = 0.0

    @property
    def lasts(self) -> bool:
        """Whether it is too early to ask again."""
        return time.monotonic() < self._until

    def over(self, context: Context) -> bool:
        """Wait until it may be asked again; False: the run was cancelled first, or it is too late
        for another idea.
        """
        while self.lasts:
            if context.late() or context.cancelled.wait(0.2):
                return False
        return True


class Agent(Protocol):
    """Proposes edits. `propose` may be called from several threads, each with a tree of its own."""

    name: str

    @property
    def reads_profiles(self) -> bool:
        """Whether a profile of the incumbent is of use to it."""
        ...

    @property
    def worst_usd(self) -> float | None:
        """Dollars reserved for one call; None: unknown."""
        ...

    def propose(self, context: Context) -> Draft:
        """Edit `context.tree` and describe the edit. Raises Exhausted or AgentFailure."""
        ...

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        """Mend a candidate that crashed on something trivial (`context.tree` holds it); None: let
        it rest.
        """
        ...
