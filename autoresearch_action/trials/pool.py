"""The local executor: one trial at a time on each slot; on a card the next may start while the last
is being scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from queue import Queue

from autoresearch_action.brief import Brief
from autoresearch_action.errors import UserError
from autoresearch_action.isolation import Isolation, device
from autoresearch_action.isolation.device import Slot
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.trials import lost
from autoresearch_action.trials.overlap import Turns
from autoresearch_action.trials.slot import SlotContext
from autoresearch_action.trials.trial import TrialRun
from autoresearch_action.workspace.trees import Workspace

# Times that a trial is measured again because something disturbed it
AGAIN = 2
# Of a slot on which a start may overlap a scoring
LANES = ("", ".next")


class LocalPool:
    """Trials on this machine's slots."""

    def __init__(
        self,
        brief: Brief,
        workspace: Workspace,
        isolation: Isolation,
        slots: Sequence[Slot],
        state: Path,
        checkpoint: Path | None = None,
        scrub: Callable[[str], str] = str,
    ) -> None:
        self.slots = [slot.name for slot in slots]
        overlap = bool(brief.run and brief.evaluate) and not brief.measures_time
        turns = {
            slot.name: Turns(overlap and bool(slot.gpu) and not device.one_process(slot))
            for slot in slots
        }
        self._turns = turns
        self._benches: list[SlotContext] = []
        self._idle = {slot.name: Queue[SlotContext]() for slot in slots}
        for slot in slots:
            for lane in LANES if turns[slot.name].overlap else LANES[:1]:
                bench = SlotContext(
                    brief,
                    workspace,
                    isolation,
                    slot,
                    state,
                    checkpoint,
                    scrub,
                    turns[slot.name],
                    lane,
                )
                self._benches.append(bench)
                self._idle[slot.name].put(bench)
        self._threads = {
            name: ThreadPoolExecutor(idle.qsize(), thread_name_prefix=name)
            for name, idle in self._idle.items()
        }
        self._next = cycle(self.slots)

    def submit(self, trial: Trial, slot: str | None = None) -> Future[Measurement]:
        name = slot or next(self._next)
        return self._threads[name].submit(self._measure, name, trial)

    def _measure(self, slot: str, trial: Trial) -> Measurement:
        bench = self._idle[slot].get()
        try:
            return measure(bench, trial)
        finally:
            self._idle[slot].put(bench)

    def takes_another(self, slot: str) -> bool:
        return self._turns[slot].takes_another()

    def cancel(self) -> None:
        for bench in self._benches:
            bench.cancel()

    def close(self) -> None:
        self.cancel()
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)


def measure(bench: SlotContext, trial: Trial) -> Measurement:
    """Measure on this bench; again where the card was shared or throttled meanwhile, or the trial
    before it still scored.

    Raises EnvironmentFault when a stranger stays on the card.
    """
    notes: list[str] = []
    spoilt = 0.0
    for attempt in range(AGAIN + 1):
        try:
            with device.Watch(bench.slot) as card:
                run = TrialRun(bench, trial)
                run.measure()
        except UserError:
            raise
        except Exception as error:
            # A bug or a broken disk must not take the other slots' work with it
            return lost(trial, bench.slot.name, f"{type(error).__name__}: {error}")
        why = "" if bench.cancelled.is_set() else _disturbance(card, run)
        if why and (attempt == AGAIN or (card.slow and bench.slow)):
            # Always: to measure every trial three times would mend nothing
            bench.slow = bench.slow or card.slow
            notes.append(why)
            break
        if not why:
            break
        notes.append(f"measured again: {why}")
        spoilt += run.seconds
    return run.result(notes, spoilt)


def _disturbance(card: device.Watch, run: TrialRun) -> str:
    """What was not as it should be while the trial ran; "" where nothing."""
    if card.shared:
        return "the card was shared with another process"
    if card.slow:
        return "the card was throttled"
    return "the card was still scoring another trial" if run.disturbed else ""
