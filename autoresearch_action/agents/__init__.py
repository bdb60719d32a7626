"""Who proposes: the one interface that every agent implements.

An agent is given a private work tree of the incumbent and edits it; what it may edit is checked, and the
diff taken, by the loop. Adding an agent is one new file here and one line in `registry.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autoresearch_action.brief import Brief
from autoresearch_action.records import Experiment, Record, Usage, Verdict


@dataclass(frozen=True)
class Context:
    """What an agent sees. Hold-out values are never in it."""

    brief: Brief
    tree: Path  # work tree at `parent`, the agent's own, to edit in place
    directory: Path  # the working directory inside `tree`
    parent: str  # commit of the incumbent
    number: int  # number that the experiment will have
    seed: int  # for the agent's own dice
    history: Sequence[Experiment] = ()  # this run, in order of number; number 0 is the baseline
    earlier: Sequence[Verdict] = ()  # what earlier runs tried
    pending: Sequence[Experiment] = ()  # proposed, no verdict yet
    noise: float | None = None  # standard deviation of the metric over seeds
    usd_left: float = float("inf")
    cancelled: threading.Event = field(default_factory=threading.Event)


class Draft(Record):
    """What an agent says of the edit it just made in the tree (fields as in records.Proposal)."""

    description: str
    hypothesis: str = ""
    expected: str = ""
    comparable: bool | None = None  # None: not said, so that it is read off the patch
    usage: Usage = Usage()
    details: dict[str, str] = {}


class Exhausted(Exception):
    """The agent has nothing more to propose in this run; the text says why, in one sentence."""


class AgentFailure(Exception):
    """This call gave no usable edit; the text says why, in one sentence. `usage` was spent all the same."""

    def __init__(self, reason: str, usage: Usage | None = None, fatal: bool = False) -> None:
        super().__init__(reason)
        self.usage = usage or Usage()
        self.fatal = fatal  # asking again cannot help: no key, no such model


class Agent(Protocol):
    """Proposes edits. `propose` may be called from several threads, each with a tree of its own."""

    name: str
    worst_usd: float | None  # most that one call can cost; None: unknown

    def propose(self, context: Context) -> Draft:
        """Edit `context.tree` and describe the edit. Raises Exhausted or AgentFailure."""
        ...

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        """Mend a candidate that crashed on something trivial (`context.tree` holds it); None: let it rest."""
        ...
