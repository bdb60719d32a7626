"""Where a candidate is measured: the one interface that every executor implements."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from autoresearch_action.records import Measurement, Trial


class Executor(Protocol):
    """Runs trials, one per slot at a time. A trial never raises: what went wrong is in the Measurement."""

    @property
    def slots(self) -> Sequence[str]:
        """Names: "cpu:0", "cuda:1", …"""
        ...

    def submit(self, trial: Trial, slot: str | None = None) -> Future[Measurement]:
        """Queue one trial, on the named slot if one is given."""
        ...

    def cancel(self) -> None:
        """End every running trial's process tree now; their futures resolve with outcome "lost"."""
        ...

    def close(self) -> None:
        """Cancel and give everything back: processes, scratch folders, device locks."""
        ...
