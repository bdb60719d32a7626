"""SIGINT, SIGTERM and SIGHUP: the first one asks the run to stop, a second Ctrl-C ends the process.

Whoever works looks at the reason; nothing is raised between two of its steps.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from autoresearch_action.isolation.process import end_all

AT_ONCE = (
    b"\nautoresearch: ended at once. What was done is in the ledger:"
    b" the same command goes on from there, `autoresearch report` shows it.\n"
)
# The live view hides it
SHOW_CURSOR = b"\x1b[?25h"


def at_once() -> NoReturn:
    """End this process and all below it. Not by an exception: raised between any two steps, it can
    leave a lock held for ever.
    """
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_all()
        os.write(2, AT_ONCE)
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
    finally:
        # Whoever read what it said may have gone
        os._exit(130)


class Signals:
    """SIGINT, SIGTERM and SIGHUP as a reason to stop; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.reason = ""

    def __call__(self) -> str:
        return self.reason

    @contextmanager
    def caught(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        # But under nohup
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        old = {number: signal.signal(number, self._arrived) for number in numbers}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _arrived(self, number: int, _frame: object) -> None:
        if self.reason and number == signal.SIGINT:
            at_once()
        self.reason = f"interrupted by {signal.Signals(number).name}"
