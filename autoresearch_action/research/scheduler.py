"""Trials in flight: handed to the executor slot by slot, and what comes back is journalled.

A trial whose worker was lost (a dead machine, a killed process) is asked again. What is run next is
decided in search.py and confirmation.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from autoresearch_action.errors import Interrupted
from autoresearch_action.ledger import Ledger
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.trials import Executor

# Of one trial whose worker is lost
ATTEMPTS = 3


class Scheduler:
    """Trials in flight on the executor's slots. `interrupted` is asked at least twice a second."""

    def __init__(
        self,
        executor: Executor,
        ledger: Ledger,
        interrupted: Callable[[], str],
        tick: Callable[[], None],
    ) -> None:
        self.executor, self.ledger = executor, ledger
        self._interrupted, self._tick = interrupted, tick
        self.running: dict[Future[Measurement], tuple[str, Trial, float]] = {}
        self._index = ledger.run_state.trials
        self._lost: dict[int, int] = {}
        self._open: set[str] = set()

    @property
    def free(self) -> list[str]:
        busy = Counter(slot for slot, _, _ in self.running.values())
        return [
            slot
            for slot in self.executor.slots
            if not busy[slot] or (busy[slot] == 1 and self.executor.takes_another(slot))
        ]

    def seconds(self, usual: float) -> float:
        """What the trials in flight take: each as long as `usual`, or what it has taken where that
        is more.
        """
        now = time.time()
        return sum(max(usual, now - since) for _, _, since in self.running.values())

    def start(self, trial: Trial, slot: str) -> None:
        self._index += 1
        trial = trial.model_copy(update={"index": self._index})
        self.running[self.executor.submit(trial, slot)] = (slot, trial, time.time())

    def wait(self, others: Iterable[Future[Any]] = ()) -> list[Measurement]:
        """Block until a trial or one of `others` is done or a slot takes another; the finished
        trials, journalled.

        Raises Interrupted.
        """
        futures: set[Future[Any]] = {*self.running, *others}
        while True:
            self._tick()
            reason = self._interrupted()
            if reason:
                raise Interrupted(reason)
            done, _ = wait(futures, timeout=0.25, return_when=FIRST_COMPLETED)
            if done or not futures or self._opened():
                return self._collect()

    def _opened(self) -> bool:
        """Whether a slot takes another trial since this was last asked, its own not done."""
        now = {
            slot for slot in self.free if any(slot == name for name, _, _ in self.running.values())
        }
        news, self._open = now - self._open, now
        return bool(news)

    def _collect(self) -> list[Measurement]:
        finished = []
        for future in [future for future in self.running if future.done()]:
            slot, trial, since = self.running.pop(future)
            measurement = future.result()
            if measurement.spoilt:
                self.ledger.append("cut", seconds=round(measurement.spoilt, 3))
            if measurement.outcome == "lost":
                self._lost[trial.index] = self._lost.get(trial.index, 0) + 1
                interrupted = self._interrupted()
                if interrupted or self._lost[trial.index] < ATTEMPTS:
                    self.ledger.append("cut", seconds=round(time.time() - since, 3))
                    # Else it is asked again when the run resumes
                    if not interrupted:
                        self.running[self.executor.submit(trial, slot)] = (slot, trial, time.time())
                    continue
                reason = f"Lost {ATTEMPTS} times: {measurement.reason}"
                measurement = measurement.model_copy(update={"outcome": "crash", "reason": reason})
            self.ledger.measured(measurement)
            # A profile measures nothing: nobody waits for it
            if trial.stage != "profile":
                finished.append(measurement)
        return finished

    def gather(self, groups: list[list[Trial]]) -> None:
        """Run all of them: the trials of one group after each other on one slot, groups side by
        side.
        """
        queue = [list(group) for group in groups if group]
        current: dict[str, list[Trial]] = {}
        while queue or self.running or any(current.values()):
            for slot in self.free:
                if not current.get(slot) and queue:
                    current[slot] = queue.pop(0)
                if current.get(slot):
                    self.start(current[slot].pop(0), slot)
            self.wait()
