"""Where a candidate is measured: the one interface that every executor implements.

pool.py is this machine, cluster.py a Ray cluster; both measure by pool.measure, on a slot each.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from autoresearch_action.records import Measurement, Trial

# How a measurement's note begins of a check that gave two answers for one tree
FLAKY = "the check failed, and passed when it was run again"


def lost(trial: Trial, slot: str, reason: str = "cancelled") -> Measurement:
    """What is said of a trial of which nothing is known; it will be asked again."""
    return Measurement(trial=trial, outcome="lost", reason=reason, slot=slot)


class Executor(Protocol):
    """Runs trials, one per slot at a time but for what `takes_another` allows. A trial never
    raises: its Measurement says what went wrong.
    """

    @property
    def slots(self) -> Sequence[str]:
        """Names: "cpu:0", "cuda:1", …"""
        ...

    def submit(self, trial: Trial, slot: str | None = None) -> Future[Measurement]:
        """Queue one trial, on the named slot if one is given."""
        ...

    def takes_another(self, slot: str) -> bool:
        """Whether a second trial may start on the slot while the first is being scored."""
        ...

    def cancel(self) -> None:
        """End every running trial's process tree now; their futures resolve with outcome "lost"."""
        ...

    def close(self) -> None:
        """Cancel and give everything back: processes, scratch folders, device locks."""
        ...
