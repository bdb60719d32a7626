"""What a trial is measured with: a lane of a slot, and the folders that are its alone.

A slot has one lane, or two where a trial may start while the one before it is scored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_action.brief import Brief
from autoresearch_action.isolation import Isolation
from autoresearch_action.isolation.device import Slot
from autoresearch_action.isolation.process import Process
from autoresearch_action.trials.compiled import Compiled
from autoresearch_action.trials.overlap import Turns
from autoresearch_action.workspace.trees import Workspace


@dataclass
class SlotContext:
    """Shared by all trials of a lane, one at a time."""

    brief: Brief
    workspace: Workspace
    isolation: Isolation
    slot: Slot
    state: Path
    checkpoint: Path | None = None
    scrub: Callable[[str], str] = str
    # Its slot's
    turns: Turns = field(default_factory=Turns)
    # A slot has two where a trial may start while another is scored
    lane: str = ""
    # Its card is throttled whenever it is used
    slow: bool = False
    running: Process | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()
        # Another thread's
        if running := self.running:
            running.kill("cancelled")

    @property
    def tree(self) -> Path:
        return self.state / "slots" / (self.slot.name.replace(":", "-") + self.lane)

    @property
    def caches(self) -> Compiled:
        """Of the slot, whose lanes compile by turns."""
        whole = self.tree.name.removesuffix(self.lane)
        return Compiled(
            self.tree.with_name(f"{whole}.compiled"),
            self.tree.with_name(f"{self.tree.name}.caches"),
        )

    @property
    def scoring(self) -> Path:
        return self.tree.with_name(f"{self.tree.name}.score")
