"""The run's state: the fold over the ledger's events.

Every line begins with its small facts (event, number, status, …) in a fixed order, so that a ledger
of 100,000 experiments is indexed in about a second without parsing the rest. What a decision asks
for costs the same however long the ledger is. Writes nothing (`journal`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoresearch_action.ledger.experiments import (
    WRONG,
    DamagedLedger,
    Experiments,
    measurement,
    parse,
)
from autoresearch_action.records import Confirmation, Experiment, Measurement, Run, Usage, Verdict

# Bytes read at a time: what fits into a processor's cache
BLOCK = 1 << 18
_BEGINNING = b'{"event":"'
_FREQUENT = re.compile(
    rb'\{"event":"(?:(proposal|trial|verdict)","number":(\d+)(?:,"status":"(\w+)")?'
    rb'(?:,"seconds":([-\d.e+]+))?(?:,"usd":[-\d.e+]+)?(?:,"tree":"(\w*)")?(?:,"origin":(\d+))?'
    rb'|ask","at":\d+\.?\d*,"ask":(\d+),"worst":([-\d.e+]+)\}\Z)'
)
_USAGE = tuple(Usage.model_fields)


class RunState:
    """What the ledger says. Read by the search, the agents, the report and `publish`."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, path.parent
        self.run: Run | None = None
        self.experiments = Experiments(path)
        # Experiments whose patches, in order, make up the present head
        self.kept: list[int] = []
        # Keep, discard or crash by number
        self.statuses: dict[int, str] = {}
        # Git tree → the experiment that tried it
        self.trees: dict[str, int] = {}
        # Their edit went on as another experiment: on a new incumbent, or measured again
        self.carried: set[int] = set()
        # Settled without a run: the incumbent moved, by a change of the same lines, or the run
        # ended
        self.unmeasured: set[int] = set()
        self.confirmations: list[Confirmation] = []
        # By stage and the tree of the head
        self.confirm_runs: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
        self._spent = dict.fromkeys(_USAGE, 0.0)
        # Calls asked and not (yet) answered, at their worst price
        self.reserved_usd: dict[int, float] = {}
        # Measured ones
        self.trials, self.trial_seconds = 0, 0.0
        # Of the device, that trials took which gave no measurement
        self.cut_seconds = 0.0
        # Slots of a session that was killed, or goes on
        self.unended = 0
        self.messages: list[str] = []
        # Last value of each "fact" event: noise, claims, transfer, audit, …
        self.facts: dict[str, Any] = {}
        self.stop_reason = ""
        self.finished = False
        # Unix seconds of the first and last event, and of the end of the last session
        self.first = self.last = self.stopped = 0.0
        # Of the line that is being taken in
        self._place = 0

    @classmethod
    def of(cls, path: Path) -> RunState:
        """The state that any ledger file tells, without a lock."""
        run_state = cls(path)
        run_state.fold()
        return run_state

    def fold(self) -> int:
        """Take in every whole line of the file. Returns where the last one ends (bytes). Raises
        DamagedLedger.
        """
        end, rest = 0, b""
        with self.path.open("rb") as file:
            while block := file.read(BLOCK):
                block = rest + block
                try:
                    taken = self.take(block, end)
                except WRONG as error:
                    raise DamagedLedger(self.path, self._place, error) from None
                end, rest = end + taken, block[taken:]
        # Zeros: of a machine that went down
        if rest.strip(b"\0") and not rest.startswith(_BEGINNING[: len(rest)]):
            raise DamagedLedger(self.path, end, ValueError())
        return end

    @property
    def confirmation(self) -> Confirmation | None:
        return self.confirmations[-1] if self.confirmations else None

    @property
    def proof(self) -> list[Measurement]:
        """Runs of the last confirmation that gave a value, base and head."""
        tree = self.confirmation.tree if self.confirmation else ""
        runs = self.confirm_runs.get(("confirm", tree), [])
        return [run for run in runs if run.outcome == "ok"]

    @property
    def improved(self) -> bool:
        return bool(self.confirmation and self.confirmation.held)

    @property
    def incumbent(self) -> int:
        """The last experiment that was kept, or the baseline's number."""
        return self.kept[-1] if self.kept else 0

    @property
    def next_number(self) -> int:
        return self.experiments.last + 1

    @property
    def usage(self) -> Usage:
        """What all calls took together."""
        return Usage.model_validate(self._spent)

    @property
    def usd(self) -> float:
        """Dollars spent on models, calls without an answer at their worst price."""
        return self._spent["usd"] + sum(self.reserved_usd.values())

    @property
    def device_seconds(self) -> float:
        return self.trial_seconds + self.cut_seconds

    @property
    def unsettled(self) -> list[int]:
        return [number for number in self.experiments if number and number not in self.statuses]

    # An edit that went on under another number is one experiment, and one that was never measured
    # is none.

    @property
    def begun(self) -> int:
        """Experiments that were proposed."""
        passed = len(self.carried) + len(self.unmeasured - self.carried)
        return len(self.experiments) - (0 in self.experiments) - passed

    @property
    def tried(self) -> int:
        """Experiments with a verdict."""
        passed = self.statuses.keys() & (self.carried | self.unmeasured)
        return len(self.statuses) - (0 in self.statuses) - len(passed)

    @property
    def blank(self) -> str:
        """Why no edit was measured, as the calls or the refused edits tell it; "" where one was."""
        numbers = [number for number in self.experiments if number]
        if any(self.experiments.runs(number) for number in numbers):
            return ""
        refused = [verdict.reason for n in numbers[-1:] if (verdict := self.experiments[n].verdict)]
        return (self.messages or refused or [""])[-1]

    def recent(self, most: int = 300) -> list[Experiment]:
        """The baseline, the kept and the last `most` experiments, in order of number: bounded
        whatever the size.
        """
        return [self.experiments[number] for number in self.shown(most)]

    def shown(self, most: int) -> list[int]:
        """The numbers of the `recent` ones: nothing is folded, no patch is read."""
        last = range(max(0, self.experiments.last - most + 1), self.experiments.last + 1)
        wanted = sorted({0, *self.kept, *last})
        return [number for number in wanted if number in self.experiments]

    def verdicts(self) -> Iterator[Verdict]:
        """All verdicts in the order they were given, read line by line: no experiment is folded."""
        with self.path.open("rb") as file:
            for line in file:
                if line.startswith(b'{"event":"verdict"') and line.endswith(b"\n"):
                    try:
                        verdict = parse(Verdict, json.loads(line))
                    except WRONG as error:
                        at = file.tell() - len(line)
                        raise DamagedLedger(self.path, at, error) from None
                    yield verdict

    def patch(self, number: int) -> str:
        proposal = self.experiments[number].proposal
        return proposal.patch if proposal else ""

    def proven(self) -> list[Path]:
        """The confirmed changes as patch files, one on the other from the base; NN-NUMBER.diff."""
        return sorted((self.state / "proven").glob("*.diff")) if self.improved else []

    def take(self, block: bytes, at: int) -> int:
        """Take in the whole lines of a block that begins at byte `at` of the file. Returns where
        the rest begins in it.

        Half a million lines may be read at a start: those that there are most of take as few steps
        as they can.
        """
        begin, match, find, index = 0, _FREQUENT.match, block.find, self.experiments.index
        while (end := find(b"\n", begin)) >= 0:
            self._place = at + begin
            found = match(block, begin, end)
            if found is None:
                self._other(block[begin : end + 1])
            elif found[7] is not None:
                self.reserved_usd[int(found[7])] = float(found[8])
            else:
                kind, digits, status, seconds, tree, origin, _, _ = found.groups()
                number = int(digits)
                if kind == b"trial":
                    self._timed(float(seconds or 0))
                elif kind == b"verdict":
                    self.statuses[number] = status.decode()
                    if status == b"keep" and number:
                        self.kept.append(number)
                elif tree:
                    self.trees.setdefault(tree.decode(), number)
                    if origin:
                        self.carried.add(int(origin))
                index(number, at + begin, block, begin, end)
            begin = end + 1
        return begin

    def _other(self, line: bytes) -> None:
        """Of a kind that is not known: a line of a later version, kept in the file, not understood
        here.
        """
        known = line.startswith(_BEGINNING)
        kind = line[len(_BEGINNING) : line.find(b'"', len(_BEGINNING))] if known else b""
        if kind in _RARE:
            # Of bytes it would guess the encoding anew each time
            _RARE[kind](self, json.loads(line.decode()))

    def _timed(self, seconds: float) -> None:
        self.trials += 1
        self.trial_seconds += seconds

    def _claimed(self, event: dict[str, Any]) -> None:
        """A run for a claim, which is no experiment's."""
        measured = measurement(event)
        self.confirm_runs[measured.trial.stage, measured.trial.attempt].append(measured)
        self._timed(measured.seconds)

    def _spend(self, event: dict[str, Any]) -> None:
        self.reserved_usd.pop(event.get("ask", -1), None)
        for name in _USAGE:
            self._spent[name] += event.get(name, 0)

    def _stop(self, event: dict[str, Any]) -> None:
        self.stop_reason, self.finished = event["reason"], event["finished"]
        self.stopped, self.unended = event["at"], 0

    def _session(self, event: dict[str, Any]) -> None:
        self.finished, self.stop_reason, self.unended = False, "", event.get("slots", 0)
        self._cut(event)

    def _cut(self, event: dict[str, Any]) -> None:
        self.cut_seconds += event.get("seconds", 0.0)


_RARE: dict[bytes, Callable[[RunState, dict[str, Any]], Any]] = {
    b"run": lambda state, event: setattr(state, "run", parse(Run, event)),
    b"session": RunState._session,
    b"trial": RunState._claimed,
    b"cut": RunState._cut,
    b"unmeasured": lambda state, event: state.unmeasured.add(event["number"]),
    b"confirmation": lambda state, event: state.confirmations.append(parse(Confirmation, event)),
    b"stack": lambda state, event: setattr(state, "kept", list(event["numbers"])),
    b"ask": lambda state, event: state.reserved_usd.__setitem__(event["ask"], event["worst"]),
    b"spend": RunState._spend,
    b"message": lambda state, event: state.messages.append(event["text"]),
    b"fact": lambda state, event: state.facts.__setitem__(event["name"], event["value"]),
    b"stop": RunState._stop,
}
