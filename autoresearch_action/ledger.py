"""The ledger: an append-only journal of events, one JSON object a line, fsynced; and RunState, the
fold over it.

A line is complete or it is not there: a torn last line (kill -9, full disk) is cut off at the next
start. Every line begins with its small facts (event, number, status, …) in a fixed order, so that a
ledger of 100,000 experiments is indexed in about a second without parsing the rest. results.tsv and
the reports are views made by `report`; nothing here renders anything.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.records import (
    Confirmation,
    Experiment,
    Measurement,
    Proposal,
    Record,
    Run,
    Usage,
    Verdict,
)

T = TypeVar("T", bound=Record)
# What a line that no version wrote ends in
_WRONG = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
# Folded experiments kept in memory
CACHE = 2_000
_BEGINNING = b'{"event":"'
_FREQUENT = re.compile(
    rb'\{"event":"(?:(proposal|trial|verdict)","number":(\d+)(?:,"status":"(\w+)")?(?:,"seconds":([-\d.e+]+))?(?:,"usd":[-\d.e+]+)?'
    rb'(?:,"tree":"(\w*)")?(?:,"origin":(\d+))?|ask","at":\d+\.?\d*,"ask":(\d+),"worst":([-\d.e+]+)\}\Z)'
)
# Bytes read at a time: what fits into a processor's cache
BLOCK = 1 << 18
_USAGE = tuple(Usage.model_fields)
_HEADER = ("number", "status", "seconds", "usd", "tree", "origin")


class DamagedLedger(EnvironmentFault, ValueError):
    """A whole line that cannot be what this tool wrote. Nothing is cut off or overwritten for it."""

    def __init__(self, path: Path, offset: int, error: Exception) -> None:
        where = f"{path}, byte {offset}: this line is damaged ({type(error).__name__})"
        super().__init__(
            f"{where}; put the file elsewhere or mend the line, then run again. Nothing was changed."
        )


class Experiments(Mapping[int, Experiment]):
    """Experiments by number, folded from their lines when asked for; the most recent ones stay in
    memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[int, list[int]] = {}
        self._cache: OrderedDict[int, Experiment] = OrderedDict()

    def _index(self, number: int, offset: int) -> None:
        self._offsets.setdefault(number, []).append(offset)
        if self._cache:
            self._cache.pop(number, None)

    def __getitem__(self, number: int) -> Experiment:
        if number not in self._cache:
            self._cache[number] = self._fold(number, self._offsets[number])
            while len(self._cache) > CACHE:
                self._cache.popitem(last=False)
        return self._cache[number]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._offsets))

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, number: object) -> bool:
        return number in self._offsets

    def _fold(self, number: int, offsets: list[int]) -> Experiment:
        facts: dict[str, Any] = {"number": number, "runs": []}
        with self._path.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                try:
                    self._add(facts, number, json.loads(file.readline()))
                except _WRONG as error:
                    raise DamagedLedger(self._path, offset, error) from None
        if number == 0 and facts["runs"]:
            facts |= {"commit": facts["runs"][0].trial.commit, "started": facts["runs"][0].started}
        return Experiment(**facts)

    def _add(self, facts: dict[str, Any], number: int, event: dict[str, Any]) -> None:
        if event["event"] == "proposal":
            facts |= {
                "commit": event["commit"],
                "parent": event["parent"],
                "origin": event.get("origin"),
                "started": event["at"],
            }
            facts["proposal"] = _parse(Proposal, event | {"patch": self._patch(number)})
        elif event["event"] == "trial":
            facts["runs"].append(_parse(Measurement, event))
        elif event["event"] == "verdict":
            facts["verdict"] = _parse(Verdict, event)

    def _patch(self, number: int) -> str:
        # Put aside by `restart`
        folder = "trials" if self._path.stem == "ledger" else f"{self._path.stem}-trials"
        try:
            return (
                (self._path.parent / folder / f"{number:04d}" / "patch.diff")
                .read_bytes()
                .decode("utf-8", "surrogateescape")
            )
        except OSError:
            return ""


class RunState:
    """What the ledger says: the fold over all its events. Read by the loop, the agents, the report
    and `publish`.
    """

    def __init__(self, path: Path) -> None:
        self.state = path.parent
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
        # By Trial.group
        self.confirm_runs: dict[str, list[Measurement]] = defaultdict(list)
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
        # Of the line that is being taken in
        self._place = 0
        # Unix seconds of the first and last event
        self.first = self.last = 0.0
        # … and of the end of the last session
        self.stopped = 0.0

    @classmethod
    def of(cls, path: Path) -> RunState:
        """The run_state of any ledger file, without a lock."""
        run_state = cls(path)
        run_state.fold()
        return run_state

    def fold(self) -> int:
        """Take in every whole line of the file. Returns where the last one ends (bytes). Raises
        DamagedLedger.
        """
        end, rest = 0, b""
        with self.experiments._path.open("rb") as file:
            while block := file.read(BLOCK):
                block = rest + block
                try:
                    taken = self._take(block, end)
                except _WRONG as error:
                    raise DamagedLedger(self.experiments._path, self._place, error) from None
                end, rest = end + taken, block[taken:]
        # Zeros: of a machine that went down
        if rest.strip(b"\0") and not rest.startswith(_BEGINNING[: len(rest)]):
            raise DamagedLedger(self.experiments._path, end, ValueError())
        return end

    @property
    def confirmation(self) -> Confirmation | None:
        return self.confirmations[-1] if self.confirmations else None

    @property
    def next_number(self) -> int:
        return max(self.experiments._offsets, default=0) + 1

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

    @property
    def tried(self) -> int:
        """Experiments with a verdict."""
        return self.counted(self.statuses)

    def counted(self, numbers: Collection[int]) -> int:
        """How many experiments these are: an edit that went on under another number is one, and one
        that was never measured none.
        """
        return len(numbers) - sum(
            number in numbers for number in {0} | self.carried | self.unmeasured
        )

    @property
    def improved(self) -> bool:
        return bool(self.confirmation and self.confirmation.held)

    def recent(self, most: int = 300) -> list[Experiment]:
        """The baseline, the kept and the last `most` experiments, in order of number: bounded
        whatever the size.
        """
        wanted = {0, *self.kept, *list(self.experiments)[-most:]}
        return [self.experiments[number] for number in sorted(wanted) if number in self.experiments]

    def verdicts(self) -> Iterator[Verdict]:
        """All verdicts in the order they were given, read line by line: no experiment is folded."""
        with self.experiments._path.open("rb") as file:
            for line in file:
                if line.startswith(b'{"event":"verdict"') and line.endswith(b"\n"):
                    try:
                        verdict = _parse(Verdict, json.loads(line))
                    except _WRONG as error:
                        raise DamagedLedger(
                            self.experiments._path, file.tell() - len(line), error
                        ) from None
                    yield verdict

    def patch(self, number: int) -> str:
        proposal = self.experiments[number].proposal
        return proposal.patch if proposal else ""

    def proven(self) -> list[Path]:
        """The confirmed changes as patch files, one on the other from the base; NN-NUMBER.diff."""
        return sorted((self.state / "proven").glob("*.diff")) if self.improved else []

    def _take(self, block: bytes, at: int) -> int:
        """Take in the whole lines of a block that begins at byte `at` of the file. Returns where
        the rest begins in it.

        Half a million lines may be read at a start: those that there are most of take as few steps
        as they can.
        """
        begin, match, find, index = 0, _FREQUENT.match, block.find, self.experiments._index
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
                    self.trials += 1
                    self.trial_seconds += float(seconds or 0)
                elif kind == b"verdict":
                    self.statuses[number] = status.decode()
                    if status == b"keep" and number:
                        self.kept.append(number)
                elif tree:
                    self.trees.setdefault(tree.decode(), number)
                    if origin:
                        self.carried.add(int(origin))
                index(number, at + begin)
            begin = end + 1
        return begin

    def _other(self, line: bytes) -> None:
        """Of a kind that is not known: a line of a later version, kept in the file, not understood
        here.
        """
        kind = (
            line[len(_BEGINNING) : line.find(b'"', len(_BEGINNING))]
            if line.startswith(_BEGINNING)
            else b""
        )
        if kind in _RARE:
            # Of bytes it would guess the encoding anew each time
            _RARE[kind](self, json.loads(line.decode()))
        elif kind == b"trial":
            # Of a claim
            measured = _parse(Measurement, json.loads(line))
            self.confirm_runs[measured.trial.group].append(measured)
            self.trials += 1
            self.trial_seconds += measured.seconds

    def _spend(self, event: dict[str, Any]) -> None:
        self.reserved_usd.pop(event.get("ask", -1), None)
        for name in _USAGE:
            self._spent[name] += event.get(name, 0)

    def _stop(self, event: dict[str, Any]) -> None:
        self.stop_reason, self.finished, self.stopped = (
            event["reason"],
            event["finished"],
            event["at"],
        )
        self.unended = 0

    def _session(self, event: dict[str, Any]) -> None:
        self.finished, self.stop_reason, self.unended = False, "", event.get("slots", 0)
        self._cut(event)

    def _cut(self, event: dict[str, Any]) -> None:
        self.cut_seconds += event.get("seconds", 0.0)


_RARE: dict[bytes, Callable[[RunState, dict[str, Any]], Any]] = {
    b"run": lambda run_state, event: setattr(run_state, "run", _parse(Run, event)),
    b"session": RunState._session,
    b"cut": RunState._cut,
    b"unmeasured": lambda run_state, event: run_state.unmeasured.add(event["number"]),
    b"confirmation": lambda run_state, event: run_state.confirmations.append(
        _parse(Confirmation, event)
    ),
    b"stack": lambda run_state, event: setattr(run_state, "kept", list(event["numbers"])),
    b"ask": lambda run_state, event: run_state.reserved_usd.__setitem__(
        event["ask"], event["worst"]
    ),
    b"spend": RunState._spend,
    b"message": lambda run_state, event: run_state.messages.append(event["text"]),
    b"fact": lambda run_state, event: run_state.facts.__setitem__(event["name"], event["value"]),
    b"stop": RunState._stop,
}


def _parse(kind: type[T], event: Mapping[str, Any]) -> T:
    return kind.model_validate(
        {key: value for key, value in event.items() if key in kind.model_fields}
    )


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
        head = {key: data.pop(key) for key in _HEADER if data.get(key) is not None}
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
        self.run_state._take(line, self._end)
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
        """Journal a trial. Runs for a claim belong to the attempt (Trial.group), not to an
        experiment.
        """
        number = None if measurement.trial.group else measurement.trial.number
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
