"""What a research job handed over, taken in once: bounded, copied into a folder of our own, and
held against its shape.

The job ran a model's code, so its state folder is untrusted as a whole. Nothing is read here by a
link, from a device or beyond its limit, and nothing is read twice: whoever publishes works on the
copy. A ledger must be, line by line, what this tool writes, so that two readers of one line cannot
differ. Whether the patches may be published is commits.py's; that words are harmless where they are
shown is text.py's.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field, ValidationError

from autoresearch_action import ledger as ledgers
from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.agents import lessons
from autoresearch_action.errors import InputError
from autoresearch_action.github.stream import stream
from autoresearch_action.ledger import RunState
from autoresearch_action.ledger.journal import HEADER
from autoresearch_action.records import (
    Confirmation,
    Measurement,
    Proposal,
    Record,
    Run,
    Usage,
    Verdict,
)
from autoresearch_action.report.body import body
from autoresearch_action.report.tables import MOST_ROWS
from autoresearch_action.shapes import Hexadecimal, ObjectName
from autoresearch_action.text import visible
from autoresearch_action.workspace.folders import content, put

# Bytes of a ledger: about 100,000 experiments of one short trial, or 15,000 with full loss curves;
# checking a line takes a tenth of a millisecond
MOST_LEDGER = 256 << 20
# Of one line: the longest has a measurement's loss curve
MOST_LINE = 4 << 20
# Characters of a text, and of the brief's prose
MOST_TEXT, MOST_PROSE = 200_000, 1_000_000
MOST_PATCHES = 99
# Changes that were kept in the search, and bytes of the patches that reports show
MOST_KEPT = 1_000
MOST_SHOWN = 128 << 20
# Bytes of all proven patches together
MOST_PATCH_BYTES = 1_000_000
# Bytes of the state of the claims
MOST_CLAIMS = 5_000_000
# Whole numbers: no count, seed or number of an experiment is beyond
LARGEST = 1 << 64
SERIES = re.compile(r"(\d{2})-(\d{4,9})\.diff", re.ASCII)
RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}", re.ASCII)
SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
BEGINNING = b'{"event":"'
NEW_LEDGER = "it was not written by this version, or was changed since"


Count = Annotated[int, Field(ge=0, le=10_000_000)]
# Its square is a number too
Spread = Annotated[float, Field(ge=0, le=1e150)]


class _Proposed(Proposal):
    """With what its event has besides."""

    number: int
    commit: ObjectName
    # Read by a pattern too
    tree: Hexadecimal = ""
    origin: int | None = None


class _Branch(Record):
    name: str
    commits: dict[str, ObjectName]


class _Noise(Noise):
    """Later runs pool it with their own."""

    sigma: Spread
    dof: Annotated[int, Field(ge=0, le=100_000)]
    paired: Spread | None = None


class _Audit(Record):
    """Later runs go on with it."""

    looks: Count
    stopped: Count
    kept: Count
    lost: Count
    # A rule that is stricter than it ever is would stop everything
    looser: Annotated[float, Field(ge=1, le=1e6)]
    bound: Annotated[float, Field(ge=0, le=1)] = 0.0


_RECORDS: Mapping[str, type[Record]] = {
    "run": Run,
    "proposal": _Proposed,
    "trial": Measurement,
    "verdict": Verdict,
    "confirmation": Confirmation,
    "spend": Usage,
}
_FACTS: Mapping[str, type[Record]] = {"noise": _Noise, "branch": _Branch, "audit": _Audit}
# Of the events that are no record
_FIELDS: Mapping[str, type] = {
    "reason": str,
    "finished": bool,
    "text": str,
    "name": str,
    "numbers": list,
    "slots": int,
    "ask": int,
}


@dataclass(frozen=True)
class HandedOver:
    """`patches` are the proven ones, in order, each the change of `numbers` at its place."""

    run_state: RunState
    run: Run
    patches: Sequence[str]
    numbers: Sequence[int]


@contextmanager
def taken(state: Path) -> Iterator[HandedOver]:
    """The run in `state`, for as long as its copy is there. Raises InputError."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-handover-") as folder:
        copy = Path(folder)
        raw = content(state, "ledger.jsonl", most=MOST_LEDGER)
        if raw is None:
            raise InputError(f"{state} holds no ledger: there is nothing to publish.")
        put(copy, "ledger.jsonl", _lines(raw))
        claims = content(state, "claims.json", most=MOST_CLAIMS)
        try:
            stream(claims or b"")
        except ValueError:
            raise InputError(
                f"claims.json of the state folder is not what this tool writes: {NEW_LEDGER}."
            ) from None
        put(copy, "claims.json", claims)
        put(copy, lessons.NAME, content(state, lessons.NAME, most=MOST_CLAIMS))
        names = series(state)
        for name in names:
            put(copy, f"proven/{name}", content(state, "proven", name, most=MOST_PATCH_BYTES))
        with _readable(state):
            run_state = ledgers.read(copy)
            listed = run_state.shown(MOST_ROWS)
        if run_state.run is None:
            raise InputError(f"The ledger in {state} has no run yet: there is nothing to publish.")
        if len(run_state.kept) > MOST_KEPT:
            raise InputError(f"The run kept more changes than are published ({MOST_KEPT:,}).")
        if not {*run_state.kept} <= {*listed}:
            raise InputError("The ledger kept a change that it does not know.")
        room = MOST_SHOWN
        for number in listed:
            parts = ("trials", f"{number:04d}", "patch.diff")
            patch = content(state, *parts, most=min(room, MOST_PATCH_BYTES))
            room -= len(patch or b"")
            put(copy, "/".join(parts), patch)
        patches = [(copy / "proven" / name).read_bytes() for name in names]
        if sum(map(len, patches)) > MOST_PATCH_BYTES:
            raise InputError(
                f"The changes are too large to publish ({MOST_PATCH_BYTES:,} bytes at most)."
            )
        numbers = [int(found[2]) for found in map(SERIES.fullmatch, names) if found]
        with _readable(state):
            _agree(run_state, run_state.run, numbers)
            # It can be shown
            body(run_state)
        texts = [patch.decode("utf-8", "surrogateescape") for patch in patches]
        yield HandedOver(run_state, run_state.run, texts, numbers)


@contextmanager
def _readable(state: Path) -> Iterator[None]:
    """Whatever an odd ledger makes go wrong is a sentence."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        raise InputError(f"{state} does not hold a ledger: {NEW_LEDGER}.") from None


# -- files


def series(state: Path) -> list[str]:
    """Names of the proven patches, in order. Raises InputError."""
    folder = state / "proven"
    if not os.path.lexists(folder):
        return []
    if folder.is_symlink() or not folder.is_dir():
        raise InputError("proven of the state folder is a link, or no folder.")
    names = sorted(name for name in os.listdir(folder) if name.endswith(".diff"))
    if len(names) > MOST_PATCHES or not all(map(SERIES.fullmatch, names)):
        raise InputError(
            f"The changes to publish are too many ({MOST_PATCHES} patches at most) or not named as"
            " this tool names them."
        )
    return names


# -- the ledger


def _lines(raw: bytes) -> bytes:
    """The whole lines of a ledger. Raises InputError for one that this tool does not write."""
    end = raw.rfind(b"\n") + 1
    for place, line in enumerate(raw[:end].split(b"\n")[:-1], 1):
        try:
            _checked(line)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            fault = f", {_where(error)}" if isinstance(error, ValidationError) else ""
            raise InputError(
                f"Line {place} of ledger.jsonl does not hold a ledger's event: {NEW_LEDGER}"
                f" ({type(error).__name__}{fault})."
            ) from None
    return raw[:end]


def _where(error: ValidationError) -> str:
    return visible(".".join(str(part) for part in error.errors()[0]["loc"]))[:100]


def _checked(line: bytes) -> None:
    """Raises what json, pydantic or a look at the values raises."""
    if len(line) > MOST_LINE:
        raise ValueError("too long")
    event = json.loads(line.decode("ascii"), parse_constant=_no_number)
    # One way to write it: no key twice, no blanks, no other escapes, floats as Python has them
    if json.dumps(event, separators=(",", ":")).encode() != line or not line.startswith(BEGINNING):
        raise ValueError("another form")
    heads = [key for key in HEADER if event.get(key) is not None]
    if list(event)[1 : 1 + len(heads)] != heads:
        raise ValueError("another order")
    prose = event.pop("prose", "")
    if not isinstance(prose, str) or len(prose) > MOST_PROSE:
        raise ValueError("prose")
    _bounded(event, 0)
    kind = event["event"]
    if kind in _RECORDS:
        _valid(_RECORDS[kind], event | ({"patch": ""} if kind == "proposal" else {}))
    elif kind == "fact" and event["name"] in _FACTS:
        _FACTS[event["name"]].model_validate(event["value"], strict=True)
    elif kind == "fact" and event["name"] == "claims" and not isinstance(event["value"], str):
        raise ValueError("claims")
    elif kind == "stack" and not all(type(number) is int for number in event["numbers"]):
        raise ValueError("numbers")
    for name, wanted in _FIELDS.items() if kind not in _RECORDS else ():
        if name in event and not isinstance(event[name], wanted):
            raise ValueError(name)


def _no_number(told: str) -> None:
    raise ValueError(told)


def _valid(kind: type[Record], event: Mapping[str, Any]) -> None:
    kind.model_validate({key: value for key, value in event.items() if key in kind.model_fields})


def _bounded(value: Any, depth: int) -> None:
    """Raises ValueError for a number, a text or a name that no event holds."""
    if depth > 6:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        if len(value) > MOST_TEXT:
            raise ValueError("a text is too long")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if len(key) > 300 or visible(key) != key or "\n" in key:
                raise ValueError("a name")
            _bounded(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _bounded(inner, depth + 1)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError("a number")


def _agree(run_state: RunState, run: Run, numbers: Sequence[int]) -> None:
    """What was proven, what is handed over for it and what the ledger says of it are one. Raises
    InputError.
    """
    places = (run.program, run.working_directory)
    # Printed, and a name on the memory branch
    if not run.branch.isprintable() or not RUN.fullmatch(run.id):
        raise InputError("The ledger names a run or a branch as this tool names none.")
    if not all(path.isprintable() and not _leaves(path) for path in places):
        raise InputError("The ledger names a brief outside of its repository, or no run.")
    confirmation = run_state.confirmation
    if confirmation is None or not confirmation.held:
        return
    if not (SHA.fullmatch(run.base) and SHA.fullmatch(confirmation.tree)):
        raise InputError("The ledger names no commit or no tree that git could have.")
    told = (confirmation.baseline, confirmation.best, confirmation.estimate)
    sure = (confirmation.low, confirmation.high, confirmation.adjusted)
    if None in told or not all(math.isfinite(x) for x in (*told, *sure) if x is not None):
        raise InputError("The ledger says that something was proven, and no figures for it.")
    if numbers and list(numbers) != confirmation.numbers:
        raise InputError("The changes handed over are not the ones that the ledger calls proven.")
    for number in numbers:
        if number not in run_state.experiments or run_state.experiments[number].proposal is None:
            raise InputError(f"The ledger does not know the change {number} that is handed over.")


def _leaves(path: str) -> bool:
    return path.startswith("/") or "\\" in path or ".." in PurePosixPath(path).parts
