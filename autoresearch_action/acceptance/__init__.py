"""Who decides: the two small interfaces that every rule implements. Pure: no clock, no file, no
process.

A rule is shown the evidence so far and answers with the runs it wants next, or with its decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoresearch_action.records import Confirmation, Measurement, Side, Split, Status


@dataclass(frozen=True)
class RunRequest:
    """One run that a rule asks for. `side` base is the incumbent (screen) or the run's base
    (confirm).
    """

    side: Side
    seed: int
    split: Split = "val"
    slice: int = 0


@dataclass(frozen=True)
class NeedRuns:
    """Runs wanted next, in this order; those of one NeedRuns may run side by side."""

    runs: tuple[RunRequest, ...]
    # From here on the trial's copy has its literal seeds replaced
    reseed: bool = False


@dataclass(frozen=True)
class Decision:
    """The end of a screen. `estimate` is the improvement over the incumbent, > 0 better, `spread`
    its standard error.
    """

    status: Status
    reason: str
    estimate: float | None = None
    spread: float | None = None


class Screen(Protocol):
    """Provisional keeps."""

    def decide(
        self, candidate: Sequence[Measurement], incumbent: Sequence[Measurement]
    ) -> NeedRuns | Decision: ...


class Confirm(Protocol):
    """Claims."""

    def decide(self, runs: Sequence[Measurement]) -> NeedRuns | Confirmation: ...
