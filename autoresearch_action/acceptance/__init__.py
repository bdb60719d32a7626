"""Who decides: the two small interfaces that the rules stand behind. Pure: no clock, no file, no
process.

A rule is shown the evidence so far and answers with the runs it wants next, or with its decision.
Whoever asks needs no more than this module; which rules a run uses is said in its `Parts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoresearch_action.records import Confirmation, Measurement, Side, Status


@dataclass(frozen=True)
class RunRequest:
    """One run that a rule asks for. `side` base is the incumbent (screen) or the run's base
    (confirm).
    """

    side: Side
    seed: int
    # Of the hold-out, in a confirmation
    slice: int = 0


@dataclass(frozen=True)
class NeedRuns:
    """Runs wanted next, in this order; those of one NeedRuns may run side by side."""

    runs: tuple[RunRequest, ...]
    # From here on the trial's copy has its literal seeds replaced
    reseed: bool = False


@dataclass(frozen=True)
class Decision:
    """The end of a candidate's looks. `estimate`: what its runs alone say of the improvement over
    the incumbent, > 0 better, `spread` the standard error of that; `effect` is both as belief.py
    knows them, where that is in logarithms.
    """

    status: Status
    reason: str
    estimate: float | None = None
    spread: float | None = None
    effect: tuple[float, float] | None = None


class KeepRule(Protocol):
    """Provisional keeps. A new one for every candidate; it holds no evidence itself."""

    def decide(
        self, candidate: Sequence[Measurement], incumbent: Sequence[Measurement]
    ) -> NeedRuns | Decision: ...


class ClaimRule(Protocol):
    """Claims. A new one for every attempt."""

    @property
    def looks(self) -> Sequence[int]:
        """Pairs after which it may decide."""
        ...

    def decide(self, runs: Sequence[Measurement]) -> NeedRuns | Confirmation: ...
