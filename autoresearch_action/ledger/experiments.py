"""Experiments, folded from their lines of the ledger when asked for; and how a line is read.

Lines of the release before are understood here, and here alone. Which lines there are is
`run_state`'s to find.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.records import (
    Experiment,
    Measurement,
    Proposal,
    Record,
    Trial,
    Verdict,
)

T = TypeVar("T", bound=Record)
# What a line that no version wrote ends in
WRONG = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
# Folded experiments kept in memory
CACHE = 2_000


class DamagedLedger(EnvironmentFault, ValueError):
    """A whole line that this tool cannot have written. Nothing is cut off or overwritten for it."""

    def __init__(self, path: Path, offset: int, error: Exception) -> None:
        where = f"{path}, byte {offset}: this line is damaged ({type(error).__name__})"
        what = "put the file elsewhere or mend the line, then run again. Nothing was changed."
        super().__init__(f"{where}; {what}")


class Experiments(Mapping[int, Experiment]):
    """Experiments by number, folded from their lines when asked for; the most recent ones stay in
    memory and take in what is appended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[int, list[int]] = {}
        self._cache: OrderedDict[int, Experiment] = OrderedDict()
        # The highest number
        self.last = 0

    def index(self, number: int, offset: int, block: bytes, begin: int, end: int) -> None:
        """Note a line on an experiment: block[begin:end], which is read only where that is in
        memory.
        """
        self._offsets.setdefault(number, []).append(offset)
        if number > self.last:
            self.last = number
        if self._cache and number in self._cache:
            self._cache[number] = self._folded(self._cache[number], [(offset, block[begin:end])])

    def runs(self, number: int) -> list[Measurement]:
        """Of an experiment, which need not have begun."""
        return self[number].runs if number in self._offsets else []

    def __getitem__(self, number: int) -> Experiment:
        if number not in self._cache:
            lines = self._lines(self._offsets[number])
            self._cache[number] = self._folded(Experiment(number=number), lines)
            while len(self._cache) > CACHE:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._offsets))

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, number: object) -> bool:
        return number in self._offsets

    def _lines(self, offsets: list[int]) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                yield offset, file.readline()

    def _folded(self, experiment: Experiment, lines: Iterable[tuple[int, bytes]]) -> Experiment:
        facts: dict[str, Any] = {"runs": list(experiment.runs)}
        for offset, line in lines:
            try:
                self._add(facts, experiment.number, json.loads(line))
            except WRONG as error:
                raise DamagedLedger(self._path, offset, error) from None
        if experiment.number == 0 and facts["runs"]:
            first = facts["runs"][0]
            facts |= {"commit": first.trial.commit, "started": first.started}
        return experiment.model_copy(update=facts)

    def _add(self, facts: dict[str, Any], number: int, event: dict[str, Any]) -> None:
        if event["event"] == "proposal":
            facts |= {"commit": event["commit"], "parent": event["parent"]}
            facts |= {"origin": event.get("origin"), "started": event["at"]}
            facts["proposal"] = parse(Proposal, event | {"patch": self._patch(number)})
        elif event["event"] == "trial":
            facts["runs"].append(measurement(event))
        elif event["event"] == "verdict":
            facts["verdict"] = parse(Verdict, event)

    def _patch(self, number: int) -> str:
        # Put aside by `restart`
        folder = "trials" if self._path.stem == "ledger" else f"{self._path.stem}-trials"
        try:
            path = self._path.parent / folder / f"{number:04d}" / "patch.diff"
            return path.read_bytes().decode("utf-8", "surrogateescape")
        except OSError:
            return ""


def parse(kind: type[T], event: Mapping[str, Any]) -> T:
    """A record from an event, whose other keys it does not know: of the event, or of a release that
    wrote more.
    """
    known = {key: value for key, value in event.items() if key in kind.model_fields}
    return kind.model_validate(known)


def measurement(event: dict[str, Any]) -> Measurement:
    """A trial's line. The release before told whose run it is by `group` and `asked_by`."""
    trial: dict[str, Any] = event["trial"]
    if "group" in trial:
        stage, _, attempt = trial["group"].partition(":")
        beside = trial["asked_by"] if trial["asked_by"] != trial["number"] else 0
        trial = trial | {"stage": stage or "search", "attempt": attempt, "beside": beside}
    return parse(Measurement, event | {"trial": parse(Trial, trial)})
