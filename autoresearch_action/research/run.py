"""The order of things, said once: search, then confirmation, then stop.

Everything that happened is in the ledger before the next thing starts: killed anywhere, the next
start goes on from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from autoresearch_action.errors import Interrupted, UserError
from autoresearch_action.ledger import RunState
from autoresearch_action.records import Confirmation
from autoresearch_action.research.confirmation import confirm
from autoresearch_action.research.context import Parts, ResearchContext
from autoresearch_action.research.search import search

UNCLAIMED = "A shard claims nothing: its keeps go to the merge."


def run(parts: Parts) -> RunState:
    """Search, then confirm what was kept, then stop. Raises UserError.

    Ends with a `stop` event: finished, or interrupted and to be resumed.
    """
    session = _Session(ResearchContext(parts))
    session.begin()
    try:
        reason = search(session.context)
        if parts.claims:
            confirm(session.context, reason)
        else:
            parts.ledger.append("confirmation", Confirmation(held=False, reason=UNCLAIMED))
        session.stop(reason)
    except (Interrupted, UserError) as why:
        session.cut(why)
        if not isinstance(why, Interrupted):
            raise
    finally:
        parts.executor.close()
    return parts.ledger.run_state


@dataclass(frozen=True)
class _Session:
    """From this process' start of the run to its end, as the ledger tells it."""

    context: ResearchContext

    def begin(self) -> None:
        run_state, parts = self.context.run_state, self.context.parts
        usual = parts.budget.trial_seconds
        if run_state.trials:
            usual = run_state.trial_seconds / run_state.trials
        # The last session was killed: for how long its trials had run by then nobody knows
        lost = round(run_state.unended * usual, 3)
        slots = len(parts.executor.slots)
        parts.ledger.append("session", started=time.time(), slots=slots, seconds=lost)

    def stop(self, reason: str) -> None:
        self.context.ledger.append("stop", reason=reason, finished=True)

    def cut(self, why: Exception) -> None:
        """End what is in flight; it has taken the device's time and gives no measurement."""
        seconds = round(self.context.scheduler.seconds(0.0), 3)
        self.context.ledger.append("cut", seconds=seconds)
        self.context.parts.executor.cancel()
        self.context.ledger.append("stop", reason=str(why).split("\n")[0], finished=False)
