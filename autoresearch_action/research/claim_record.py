"""The stream of claims on disk: `claims.json` in the state folder, which outlives the run.

Which hold-out slices are used, and what the levels of further claims depend on. The levels
themselves are acceptance/claims.py's.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from autoresearch_action.acceptance.claims import CAP, Claims, next_slice, reuse_level
from autoresearch_action.errors import InputError

# Of the hold-out
SLICES = 20
FILE = "claims.json"


class ClaimRecord:
    """`used` slices, `claims`, and the dice of attempts `accounted` in them. Raises InputError
    where the file is damaged.
    """

    def __init__(self, state: Path) -> None:
        self.file = state / FILE
        told: dict[str, Any] = {"used": [], "claims": {}}
        try:
            told = json.loads(self.file.read_text())
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            told = {}
        try:
            self.claims = Claims.model_validate(told["claims"])
            self.used = [int(s) for s in told["used"]]
            self.accounted = [int(s) for s in told.get("accounted", [])]
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged = f"{self.file} is damaged, and with it the record of earlier claims"
            raise InputError(f"{damaged}: restore it from the memory branch.") from None

    def next(self, brief_id: str, cap: float) -> tuple[int, str, float]:
        """(hold-out slice, note on it, level) of the next attempt."""
        chosen, note = next_slice(self.used, SLICES, zlib.crc32(brief_id.encode()))
        return chosen, note, reuse_level(min(cap, self.claims.level()), self.used, chosen)

    def retire(self, slice: int) -> None:
        """A slice is used from the moment on that it may be looked at."""
        self.used.append(slice)
        self._write()

    def account(self, p_value: float, level: float, dice: int, earns: bool) -> None:
        """One more claim was tried, once: the level of the next one depends on it."""
        if dice not in self.accounted:
            self.claims = self.claims.after(p_value, level, earns)
            # In one step with the count: a kill cannot come between
            self.accounted.append(dice)
            self._write()

    def _write(self) -> None:
        claims = self.claims.model_dump(mode="json")
        told = {"used": self.used, "accounted": self.accounted, "claims": claims}
        write(self.file, json.dumps(told))


def next_level(state: Path, brief_id: str) -> float:
    """What the next claim is tested at: the search keeps time for the pairs that this takes."""
    return ClaimRecord(state).next(brief_id, CAP)[2]


def write(path: Path, text: str) -> None:
    """Replace a file in one step, safe on disk."""
    partial = path.with_suffix(f"{path.suffix}.part")
    with partial.open("wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
