"""The bounded log of a command: its beginning and its end, scrubbed.

Not covered: what the output means (trials/metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Bytes of one output line that are looked at
MAX_LINE = 65_536
# Of the output that the log keeps
HEAD_BYTES, TAIL_BYTES = 512_000, 64_000


@dataclass
class Log:
    """The bounded log of a trial: its beginning and its end, the middle counted. Scrubbed line by
    line.
    """

    path: Path
    scrub: Callable[[str], str] = str
    written: int = 0
    tail: bytearray = field(default_factory=bytearray)
    dropped: int = 0
    # Of a line that is not complete
    rest: bytes = b""

    def write(self, data: bytes) -> None:
        data = self.rest + data
        end = max(data.rfind(b"\n") + 1, len(data) - MAX_LINE)
        self.rest = data[end:]
        self._write(
            self.scrub(data[:end].decode("utf-8", "surrogateescape")).encode(
                "utf-8", "surrogateescape"
            )
        )

    def flush(self) -> None:
        """Complete the last line."""
        if self.rest:
            self.write(b"\n")

    def _write(self, data: bytes) -> None:
        room = max(0, HEAD_BYTES - self.written)
        if room:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(data[:room])
            self.written += len(data[:room])
        self.tail += data
        if len(data) > room:
            self.dropped += len(data) - room
        if len(self.tail) > 2 * TAIL_BYTES:
            del self.tail[:-TAIL_BYTES]

    def close(self) -> None:
        self.flush()
        if self.dropped:
            shown = min(self.dropped, TAIL_BYTES)
            with self.path.open("ab") as file:
                if self.dropped > shown:
                    file.write(f"\n[… {self.dropped - shown:,} bytes left out …]\n".encode())
                file.write(bytes(self.tail[-shown:]))
            self.dropped = 0
