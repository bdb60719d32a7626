"""A card's turns: one trial trains at a time, and the next one may start while the last one is
being scored.

Starting (imports, reading compiled code) needs the processor and little of the card, and takes
longer than scoring in the usual case. Where scoring is not over when the next training begins, that
training was disturbed: it is measured again, and nothing on the slot overlaps from then on.
Processor slots do not overlap: there both need the same cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """Of one slot. `overlap`: whether a start may overlap a scoring there."""

    def __init__(self, overlap: bool = False) -> None:
        self.overlap = overlap
        self._state = threading.Condition()
        self._training = False
        self._scoring = self._shown = 0

    @contextmanager
    def training(self, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Hold the card for check and run; whether another trial is being scored meanwhile.
        `cancelled` ends the waiting.
        """
        with self._state:
            while (self._training or (self._scoring and not self.overlap)) and not cancelled():
                self._state.wait(0.2)
            self._training, beside = True, bool(self._scoring)
        try:
            yield beside
        finally:
            with self._state:
                self._training = False
                self._state.notify_all()

    @contextmanager
    def scoring(self, shown: bool) -> Iterator[None]:
        """`shown`: progress lines tell when a training begins here, so that one that is disturbed
        is known.
        """
        with self._state:
            self._scoring += 1
            self._shown += shown
        try:
            yield
        finally:
            with self._state:
                self._scoring -= 1
                self._shown -= shown
                self._state.notify_all()

    def disturbed(self) -> bool:
        """Asked where a training begins: whether scoring goes on. If so, no more overlaps."""
        self.overlap = self.overlap and not self._scoring
        return bool(self._scoring)

    def takes_another(self) -> bool:
        """Whether the next trial may start although one is on the slot."""
        return self.overlap and not self._training and bool(self._shown)
