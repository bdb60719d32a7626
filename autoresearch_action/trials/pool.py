"""The local executor: one thread per slot, one trial at a time on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

from autoresearch_action.brief import Brief
from autoresearch_action.errors import UserError
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.trials import device
from autoresearch_action.trials.device import Slot
from autoresearch_action.trials.sandbox import Sandbox
from autoresearch_action.trials.trial import Bench, Measuring
from autoresearch_action.trials.workspace import Workspace

AGAIN = 2  # times that a trial is measured again because the card was shared or throttled


class LocalPool:
    """Trials on this machine's slots."""

    def __init__(
        self,
        brief: Brief,
        workspace: Workspace,
        sandbox: Sandbox,
        slots: Sequence[Slot],
        state: Path,
        checkpoint: Path | None = None,
        scrub: Callable[[str], str] = str,
    ) -> None:
        self.slots = [slot.name for slot in slots]
        self._benches = {slot.name: Bench(brief, workspace, sandbox, slot, state, checkpoint, scrub) for slot in slots}
        self._threads = {name: ThreadPoolExecutor(1, thread_name_prefix=name) for name in self.slots}
        self._next = cycle(self.slots)

    def submit(self, trial: Trial, slot: str | None = None) -> Future[Measurement]:
        name = slot or next(self._next)
        return self._threads[name].submit(measure, self._benches[name], trial)

    def cancel(self) -> None:
        for bench in self._benches.values():
            bench.cancel()

    def close(self) -> None:
        self.cancel()
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)


def measure(bench: Bench, trial: Trial) -> Measurement:
    """Measure on this bench; again where the card was shared or throttled meanwhile.

    Raises EnvironmentFault when a stranger stays on the card.
    """
    notes: list[str] = []
    for attempt in range(AGAIN + 1):
        device.await_free(bench.slot, bench.cancelled.is_set)
        try:
            with device.Watch(bench.slot) as card:
                result = Measuring(bench, trial).measure()
        except UserError:
            raise
        except Exception as error:  # a bug or a broken disk must not take the other slots' work with it
            return Measurement(trial=trial, outcome="lost", reason=f"{type(error).__name__}: {error}", slot=bench.slot.name)
        if not (card.shared or card.slow) or bench.cancelled.is_set():
            break
        why = "the card was " + ("shared with another process" if card.shared else "throttled")
        if attempt == AGAIN or (card.slow and bench.slow):
            bench.slow = bench.slow or card.slow  # always: to measure every trial three times would mend nothing
            notes.append(why)
            break
        notes.append(f"measured again: {why}")
    return result.model_copy(update={"notes": [*result.notes, *notes]}) if notes else result
