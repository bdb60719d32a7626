"""Lessons: what was learnt of each experiment, a line each, in STATE/lessons.md.

People may edit the file, and agents are shown it first. A line `- #12 RUN: text` is of experiment
12 of that run; every other line that says something is taken as advice as it is.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from autoresearch_action.ledger import RunState
from autoresearch_action.text import clip, line

NAME = "lessons.md"
# Bytes of the file that are read, its end; characters of a lesson
MOST, LESSON = 200_000, 300
_LESSON = re.compile(r"- #(\d{1,6}) (\S+): (.+)")
HEAD = "# Lessons\n\nA line an experiment. Edit them, or add your own: agents read them first.\n\n"


class Lessons:
    """The file of one state folder. Thread-safe."""

    def __init__(self, run_state: RunState) -> None:
        self._path, self._run_state = run_state.state / NAME, run_state
        self._lock = threading.Lock()

    def read(self) -> Mapping[int, str]:
        """This run's lessons by number; under 0 what earlier runs and people wrote, a line each."""
        found: dict[int, str] = {}
        others = []
        for told in self._text().split("\n"):
            match = _LESSON.fullmatch(told.strip())
            if match and match[2] == self._run:
                found[int(match[1])] = match[3]
            elif told.strip() and told not in HEAD:
                others.append(match[3] if match else told.strip())
        return found | ({0: "\n".join(others)} if others else {})

    def take(self, lessons: Mapping[int, str]) -> None:
        """Add what is new, for experiments that have a verdict."""
        known = self.read()
        new = [
            _told(number, self._run, text)
            for number, text in lessons.items()
            if number in self._run_state.statuses and number not in known and line(text)
        ]
        if new:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write("".join([HEAD if file.tell() == 0 else "", *new]))

    @property
    def _run(self) -> str:
        return self._run_state.run.id if self._run_state.run else "-"

    def _text(self) -> str:
        try:
            raw = self._path.read_bytes()[-MOST:]
        except OSError:
            return ""
        return raw.decode("utf-8", "replace")


def joined(theirs: bytes, mine: bytes, run: str) -> bytes:
    """`theirs`, which people may have edited, with the lessons of one run that are new in `mine`;
    b"" where there are none.
    """
    known = theirs.decode("utf-8", "replace")[:MOST]
    found = map(_LESSON.fullmatch, mine.decode("utf-8", "replace")[-MOST:].split("\n"))
    own = [match for match in found if match and match[2] == run]
    # One that was edited there stays as it is
    new = [_told(one[1], run, one[3]) for one in own if f"- #{one[1]} {run}: " not in known]
    if not new:
        return b""
    known = known.rstrip() + "\n" if known else HEAD
    return (known + "".join(new)).encode()


def _told(number: object, run: str, text: str) -> str:
    return f"- #{number} {run}: {clip(line(text), LESSON)}\n"
