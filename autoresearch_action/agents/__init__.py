"""Who proposes: the one interface that every agent implements.

An agent is given a private work tree of the incumbent and edits it; what it may edit is checked,
and the diff taken, by research/proposals.py. Adding an agent is one new file here and one line in
`registry.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autoresearch_action.brief import Brief
from autoresearch_action.records import Experiment, Record, Usage, Verdict


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
    cancelled: threading.Event = field(default_factory=threading.Event)
    # Whether no further experiment may begin: nothing is worth waiting for any more
    late: Callable[[], bool] = lambda: False


class Draft(Record):
    """What an agent says of the edit it just made in the tree (fields as in records.Proposal)."""

    description: str
    hypothesis: str = ""
    expected: str = ""
    # None: not said, so that it is read off the patch
    comparable: bool | None = None
    usage: Usage = Usage()
    details: dict[str, str] = {}


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
    # Most that one call can cost; None: unknown
    worst_usd: float | None

    def propose(self, context: Context) -> Draft:
        """Edit `context.tree` and describe the edit. Raises Exhausted or AgentFailure."""
        ...

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        """Mend a candidate that crashed on something trivial (`context.tree` holds it); None: let
        it rest.
        """
        ...
