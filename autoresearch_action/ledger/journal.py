"""The journal: the one file that a run writes, an event a line, safe on disk before the next step.

One process has it open at a time. A line is complete or it is not there: a torn last line (kill -9,
full disk) is cut off at the next start.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.ledger.run_state import RunState
from autoresearch_action.records import Measurement, Proposal, Record, Usage

# What a line begins with, in this order
HEADER = ("number", "status", "seconds", "usd", "tree", "origin")


class Ledger:
    """The journal of one state folder, open for appending, and the RunState that follows it.

    Raises EnvironmentFault when another process has it open or it cannot be written.
    """

    def __init__(
        self, state: Path, read_only: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = state / "ledger.jsonl"
        self.run_state = RunState(self.path)
        self._clock = clock
        self._file = None
        if not read_only:
            try:
                state.mkdir(parents=True, exist_ok=True)
                ignore = state / ".gitignore"
                if not ignore.exists():
                    ignore.write_text("*\n")
                self._file = self.path.open("ab")
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EnvironmentFault(
                    f"Another run is using {state}: wait for it, or give this one its own --state."
                ) from None
            except OSError as error:
                raise EnvironmentFault(f"{state} cannot be written: {error.strerror}.") from None
        self._end = 0
        if self.path.exists():
            self._read()
        if self._file and self._end < self._file.tell():
            self._file.truncate(self._end)

    def _read(self) -> None:
        self._end = self.run_state.fold()
        if self._end:
            with self.path.open("rb") as file:
                self.run_state.first = _at(file.readline())
                file.seek(max(0, self._end - 65_536))
                self.run_state.last = _at(
                    file.read(self._end - file.tell()).rstrip(b"\n").rsplit(b"\n", 1)[-1]
                )

    def append(self, event: str, record: Record | None = None, **fields: Any) -> None:
        """Write one event, safe on disk when this returns, and fold it into the run state."""
        assert self._file is not None
        data = (record.model_dump(mode="json") if record else {}) | fields
        head = {key: data.pop(key) for key in HEADER if data.get(key) is not None}
        now = self._clock()
        line = (
            json.dumps(
                {"event": event, **head, "at": round(now, 3), **data}, separators=(",", ":")
            ).encode()
            + b"\n"
        )
        try:
            self._file.write(line)
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise EnvironmentFault(
                f"The ledger cannot be written ({error.strerror}): make room at {self.path.parent}."
            ) from None
        self.run_state.take(line, self._end)
        self._end += len(line)
        self.run_state.first = self.run_state.first or round(now, 3)
        self.run_state.last = round(now, 3)

    def propose(
        self, number: int, proposal: Proposal, commit: str, tree: str, origin: int | None = None
    ) -> None:
        """Journal a candidate; its patch goes to trials/NNNN/patch.diff first."""
        folder = self.path.parent / "trials" / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "patch.diff").open("wb") as file:
            file.write(proposal.patch.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        shown = proposal.model_dump(mode="json", exclude={"patch"})
        self.append("proposal", number=number, tree=tree, commit=commit, origin=origin, **shown)

    def measured(self, measurement: Measurement) -> None:
        """Journal a trial. Runs of another stage than the search are no experiment's."""
        trial = measurement.trial
        number = trial.number if trial.stage == "search" else None
        self.append("trial", measurement, number=number)

    def spent(self, agent: str, usage: Usage, ask: int) -> None:
        self.append("spend", agent=agent, ask=ask, **usage.model_dump(exclude_defaults=True))

    def restart(self, name: str) -> None:
        """Put this ledger aside (history/NAME.jsonl) and begin an empty one; patches and logs go
        with it.
        """
        assert self._file is not None
        history = self.path.parent / "history"
        history.mkdir(exist_ok=True)
        fresh = self.path.with_suffix(".new")
        file = fresh.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path.rename(history / f"{name}.jsonl")
        trials = self.path.parent / "trials"
        if trials.exists():
            trials.rename(history / f"{name}-trials")
        fresh.rename(self.path)
        self._file.close()
        self._file, self._end, self.run_state = file, 0, RunState(self.path)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def _at(line: bytes) -> float:
    try:
        return float(json.loads(line)["at"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def read(state: Path) -> RunState:
    """The run_state in a state folder, without a lock."""
    return Ledger(state, read_only=True).run_state
