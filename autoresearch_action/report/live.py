"""What people watch while it runs: a live panel on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.ledger import RunState
from autoresearch_action.records import Trial
from autoresearch_action.text import clip, duration, number, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

# Seconds between signs of life in a log
HEARTBEAT = 300.0
# Seconds between frames on a terminal
FRAME = 0.5
# Verdicts on a terminal
LAST = 8


class View:
    """`note` for events, `update` as often as the caller likes, `close` at the end."""

    def __init__(self, brief: Brief, budget: Budget) -> None:
        self.brief, self.budget = brief, budget
        self._started = self._drawn = time.monotonic()
        self._notes: deque[str] = deque(maxlen=LAST)
        self._live: Any = None
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=True)
            self._live.start()

    def note(self, text: str) -> None:
        """One line. Whatever is in it, it is no workflow command: it begins with the time and holds
        no newline.
        """
        line = clip(" ".join(visible(text).split()), 400).replace("##[", "## [")
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        line = f"[{minutes:3d}:{seconds:02d}] {line}"
        self._notes.append(line)
        if self._live:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def update(self, run_state: RunState, running: list[tuple[str, Trial, float]]) -> None:
        now = time.monotonic()
        if now - self._drawn < (FRAME if self._live else HEARTBEAT):
            return
        self._drawn = now
        if self._live:
            self._live.update(self._panel(run_state, running), refresh=True)
        else:
            self.note(
                f"{self._progress(run_state)}; running:"
                f" {', '.join(_shown(r) for r in running) or 'nothing'}"
            )

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _progress(self, run_state: RunState) -> str:
        tried, kept = run_state.tried, len(run_state.kept)
        elapsed = time.monotonic() - self.budget.started if self.budget.started else 0.0
        reserved = sum(run_state.reserved_usd.values())
        spent = run_state.usd - reserved + self.budget.device_usd(run_state.device_seconds)
        more = f" and {reserved:.2f} reserved" if reserved >= 0.005 else ""
        return (
            f"{tried} of {self.budget.max_experiments} experiments, {kept} kept, {elapsed / 60:.0f}"
            f" of {self.budget.max_minutes:g} minutes,"
            f" {spent:.2f}{more} of {self.budget.max_usd:g} dollars"
        )

    def _panel(
        self, run_state: RunState, running: list[tuple[str, Trial, float]]
    ) -> RenderableType:
        from rich.panel import Panel
        from rich.text import Text

        noise = run_state.facts.get("noise") or {}
        head = run_state.experiments[run_state.kept[-1]] if run_state.kept else None
        value = (
            head.verdict.metrics.get(self.brief.metric)
            if head and head.verdict
            else noise.get("mean")
        )
        name = f"{head.number}, {clip(head.description, 60)}" if head else "the baseline"
        lines = [
            self._progress(run_state),
            f"incumbent: {number(value)} ({name})",
            *(f"▶ {_shown(r)}" for r in running),
        ]
        return Panel(
            Text("\n".join(lines)), title=f"autoresearch · {self.brief.metric}", title_align="left"
        )


def _shown(running: tuple[str, Trial, float]) -> str:
    slot, trial, since = running
    what = {
        "baseline": "the baseline",
        "confirm": f"confirming, {trial.side}",
        "transfer": f"transfer, {trial.side}",
    }
    return (
        f"{what.get(trial.purpose, f'experiment {trial.number}')} on {slot} for"
        f" {duration(max(0.0, time.time() - since))}"
    )
