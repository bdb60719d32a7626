"""One command of a trial, watched: its output read, its whole process tree counted, limited and
ended.

Works on any started process; what it is confined by is the isolation's. Clocks count every process
below it, also those that were double-forked; a process tree is dead when `wait` returns.

The kernel forgets the processor time of a child whose parent ignores it. So the clock also samples,
at random moments: a process that is gone at the next look is charged as if it had computed since
the last one, which is right on average however short its life. Neither output nor the number of
processes puts a look off.
"""

from __future__ import annotations

import os
import random
import secrets
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_action.isolation import proc
from autoresearch_action.isolation.confine import adopt_orphans
from autoresearch_action.isolation.log import MAX_LINE, Log
from autoresearch_action.isolation.proc import children, descendants, marked

# Seconds between looks at the process tree, on average
POLL = 0.05
# Between two looks that one process is charged for: on a busy machine they come late, and so does
# it
LONGEST_LOOK = 4 * POLL
# … at the start, so that short commands are seen as well
FIRST_POLL = 0.002
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Limits:
    """Hard limits of one process tree."""

    # Wall clock
    seconds: float = 3600.0
    # Over all processes
    cpu_seconds: float = float("inf")
    # Bytes resident, over all processes
    memory: int = 1 << 62
    processes: int = 1024
    # Of one file
    file_bytes: int = 32 << 30
    # Of new files in the tree
    disk_bytes: int = 64 << 30
    open_files: int = 65_536


@dataclass
class Ended:
    """How it ended. `reason` is "" for a process that ended by itself (whatever its code)."""

    code: int
    reason: str
    # Wall
    seconds: float
    # CPU seconds, user and system, whole tree
    cpu: float
    # Bytes resident, highest sum seen
    peak: int
    tail: bytes


@dataclass(frozen=True)
class Start:
    """How a command is started."""

    argv: Sequence[str]
    env: Mapping[str, str]
    # Where, as this process sees it
    directory: Path
    # Open files that it inherits under their numbers
    files: Sequence[int] = ()
    stdin: int = subprocess.DEVNULL
    # One stream with its output, unless an open file is given
    stderr: int = subprocess.STDOUT
    # A variable put into its environment, by which strays are found where there is no PID namespace
    # to end them with
    mark: str = ""


class Process:
    """A started command, in a session of its own. `mark` (NAME=value of its environment) finds its
    strays; `until` is asked at every look for a reason to end it, "" while there is none.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        limits: Limits,
        log: Log,
        disk: Path | None = None,
        mark: str = "",
        until: Callable[[], str] = str,
    ) -> None:
        self._popen, self._limits, self._log = popen, limits, log
        self._disk, self._mark, self._until = disk, mark, until
        self._started = time.monotonic()
        # By (pid, start): CPU time, and what is added if it is gone
        self._alive: dict[tuple[int, str], tuple[float, float]] = {}
        # CPU seconds of those that are
        self._gone = 0.0
        self._looked, self._due, self._pause = self._started, 0.0, FIRST_POLL
        self._peak = self._resident = 0
        # Of the started process: bubblewrap's own child counts what ran below it
        self._children: set[int] = set()
        self._weighing = threading.Thread()
        self._reason = ""
        self._buffer = b""
        self._free, self._shared = proc.free(disk), proc.shared_memory()
        self.stopped = False

    @classmethod
    def start(
        cls,
        how: Start,
        limits: Limits,
        log: Log,
        disk: Path | None = None,
        until: Callable[[], str] = str,
    ) -> Process:
        """Start it. `disk`: the folder whose growth is limited."""
        adopt_orphans()
        token = secrets.token_hex(8)
        popen = subprocess.Popen(
            how.argv,
            env={**how.env, how.mark: token} if how.mark else how.env,
            cwd=how.directory,
            stdin=how.stdin,
            stdout=subprocess.PIPE,
            stderr=how.stderr,
            pass_fds=how.files,
            start_new_session=True,
        )
        mark = f"{how.mark}={token}" if how.mark else ""
        return cls(popen, limits, log, disk, mark, until)

    @property
    def seconds(self) -> float:
        """Wall clock since the start."""
        return time.monotonic() - self._started

    def clock(self) -> float:
        """CPU seconds of the whole tree up to the last look."""
        return self._gone + sum(cpu for cpu, _ in self._alive.values())

    def kill(self, reason: str) -> None:
        """End the tree; `wait` returns soon after. May be called from any thread."""
        self._reason = self._reason or reason
        self.stopped = True

    def wait(self, on_line: Callable[[str], None] | None = None) -> Ended:
        """Read and watch until the tree has ended or a limit is broken, then make sure that nothing
        of it is left.
        """
        assert self._popen.stdout is not None
        output = self._popen.stdout.fileno()
        ended = -1
        try:
            os.set_blocking(output, False)
            ended = os.pidfd_open(self._popen.pid)
            while True:
                ready, _, _ = select.select(
                    [output, ended], [], [], max(0.0, self._due - time.monotonic())
                )
                open_ = self._read(output, on_line) if output in ready else True
                self._watch()
                if self.stopped or ended in ready or (not open_ and self._popen.poll() is not None):
                    break
                if not open_:
                    select.select([ended], [], [], POLL)
            usage = self._end(ended)
            self._drain(output, on_line)
        except BaseException:
            # A log that cannot be written, say: whoever asks again must find nothing of it
            self._end(ended)
            raise
        finally:
            if ended >= 0:
                os.close(ended)
            self._popen.stdout.close()
        self._log.flush()
        if self._buffer and on_line:
            on_line(self._buffer[:MAX_LINE].decode("utf-8", "replace"))
        seconds = self.seconds
        return Ended(
            self._popen.returncode,
            self._reason,
            seconds,
            max(usage, self.clock()),
            self._peak,
            bytes(self._log.tail[-8_000:]),
        )

    # -- output --

    def _read(self, output: int, on_line: Callable[[str], None] | None) -> bool:
        """One chunk; False at the end of the output."""
        try:
            chunk = os.read(output, 1 << 18)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        self._log.write(chunk)
        # Progress bars end lines by \r
        *lines, rest = (self._buffer + chunk).replace(b"\r", b"\n").split(b"\n")
        self._buffer = rest[:MAX_LINE]
        if on_line:
            for line in lines:
                if not self._watch():
                    break
                on_line(line[:MAX_LINE].decode("utf-8", "replace"))
        return True

    def _drain(self, output: int, on_line: Callable[[str], None] | None) -> None:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            ready, _, _ = select.select([output], [], [], 0.05)
            if not ready or not self._read(output, on_line):
                return

    # -- the tree --

    def _watch(self) -> bool:
        """Look and check the limits where it is time to. Whether it may go on."""
        if time.monotonic() >= self._due and self._popen.returncode is None:
            self._check()
            self._pause = min(POLL, 2 * self._pause)
            self._due = time.monotonic() + self._pause * random.uniform(0.5, 1.5)
        return not self.stopped

    def _check(self) -> None:
        limits = self._limits
        pids = self._look()
        if reason := self._until():
            self.kill(reason)
        # It may have ended in time, and this look be late
        if self.seconds > limits.seconds and proc.runs(self._popen.pid):
            self.kill(f"It ran for more than its limit of {limits.seconds:.0f} s and was ended.")
        elif self.clock() > limits.cpu_seconds:
            self.kill(
                f"It used more than its {limits.cpu_seconds:.1f} s of processor time and was ended."
            )
        elif len(pids) > limits.processes:
            self.kill(f"It started more than {limits.processes} processes and was ended.")
        elif (
            self._resident + (shared := proc.shared_memory() - self._shared) > limits.memory
            and not self._weighing.is_alive()
        ):
            self._weighing = threading.Thread(target=self._weigh, args=(pids, shared), daemon=True)
            self._weighing.start()
        elif (
            self._disk
            and self._free - proc.free(self._disk) > limits.disk_bytes
            and proc.size(self._disk) > limits.disk_bytes
        ):
            self.kill(
                f"It wrote more than {limits.disk_bytes / 2**30:.1f} GiB of files and was ended."
            )

    def _weigh(self, pids: list[int], shared: int) -> None:
        """In a thread of its own: to read the memory of what is forking can take seconds."""
        if proc.memory(pids, shared) > self._limits.memory:
            self.kill(
                f"It used more than {self._limits.memory / 2**30:.1f} GiB of memory and was ended."
            )

    def _look(self, last: bool = False) -> list[int]:
        """Sample CPU time and memory of every process of the tree. `last`: it has ended, and the
        kernel knows what it used.
        """
        below = children(self._popen.pid)
        self._children.update(below)
        pids = [self._popen.pid, *descendants(*below)]
        if self._mark:
            pids = list({*pids, *marked(self._mark)})
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, LONGEST_LOOK), now
        before, self._alive, self._resident = self._alive, {}, 0
        for pid in pids:
            if facts := proc.facts(pid):
                started, cpu, pages, computing = facts
                part = min(computing, CORES) * passed
                self._alive[pid, started] = cpu, max(part - cpu, part / 2)
                self._resident += pages * proc.PAGE
        self._gone += sum(
            cpu + more * (not last) for one, (cpu, more) in before.items() if one not in self._alive
        )
        self._peak = max(self._peak, self._resident)
        return pids

    def _end(self, ended: int) -> float:
        """Kill whatever is left; returns the CPU seconds that the kernel accounts to the tree."""
        left = self._look(last=True)
        if self._popen.returncode is None and (
            ended < 0 or not select.select([ended], [], [], 0)[0]
        ):
            # The first is process 1 of a sandbox: with it all are ended. What is below goes before
            # the started process, which may have taken in orphans: none gets away.
            until = time.monotonic() + 2.0
            while (
                below := [*filter(proc.runs, children(self._popen.pid))]
            ) and time.monotonic() < until:
                for pid in below:
                    proc.kill(pid)
            proc.kill(self._popen.pid)
        usage = 0.0
        if self._popen.returncode is None:
            _, status, rusage = os.wait4(self._popen.pid, 0)
            self._popen.returncode = os.waitstatus_to_exitcode(status)
            usage = rusage.ru_utime + rusage.ru_stime
        until, alive = time.monotonic() + 2.0, {*left}
        while alive and time.monotonic() < until:
            strays = marked(self._mark) if self._mark else []
            # And no stranger that was given an ended one's number
            ours = {*strays, *descendants(os.getpid())}
            alive = {
                pid for pid in ours.intersection(descendants(*alive, *strays)) if proc.runs(pid)
            }
            for pid in alive:
                proc.kill(pid)
            time.sleep(0.002 if alive else 0)
        return usage + sum(map(proc.inherited, {*self._children, *left}))


def end_all() -> None:
    """Kill every process below this one, those that lose their parent meanwhile too."""
    adopt_orphans()
    me, until = os.getpid(), time.monotonic() + 2.0
    while (
        left := [pid for pid in descendants(me) if pid != me and proc.runs(pid)]
    ) and time.monotonic() < until:
        for pid in left:
            proc.kill(pid)
