"""One command of a trial, watched: its output read, its whole process tree counted, limited and
ended.

Works on any started process; what it is confined by is sandbox.py's. Clocks count every process
below it, also those that were double-forked; a process tree is dead when `wait` returns.

The kernel forgets the processor time of a child whose parent ignores it. So the clock also samples,
at random moments: a process that is gone at the next look is charged as if it had computed since
the last one, which is right on average however short its life. Neither output nor the number of
processes puts a look off.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_action.isolation.confine import adopt_orphans

# Seconds between looks at the process tree, on average
POLL = 0.05
# Between two looks that one process is charged for: on a busy machine they come late, and so does
# it
LONGEST_LOOK = 4 * POLL
# … at the start, so that short commands are seen as well
FIRST_POLL = 0.002
# Seconds that measuring the tree's memory may take
LOOK = 0.3
TICK = 1 / os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1
PAGE = os.sysconf("SC_PAGE_SIZE")
# Bytes of one output line that are looked at
MAX_LINE = 65_536
# Of the output that the log keeps
HEAD_BYTES, TAIL_BYTES = 512_000, 64_000


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


class Process:
    """A started command. `alive_mark` finds strays where there is no PID namespace to end them
    with.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        limits: Limits,
        log: Log,
        disk: Path | None = None,
        mark: str = "",
    ) -> None:
        self._popen, self._limits, self._log, self._disk, self._mark = (
            popen,
            limits,
            log,
            disk,
            mark,
        )
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
        self._free, self._shared = _free(disk), _shared_memory()
        self.stopped = False

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

    # -- output
    # --------------------------------------------------------------------------------------------------

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

    # -- the tree
    # ------------------------------------------------------------------------------------------------

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
        # It may have ended in time, and this look be late
        if self.seconds > limits.seconds and _runs(self._popen.pid):
            self.kill(f"It ran for more than its limit of {limits.seconds:.0f} s and was ended.")
        elif self.clock() > limits.cpu_seconds:
            self.kill(
                f"It used more than its {limits.cpu_seconds:.1f} s of processor time and was ended."
            )
        elif len(pids) > limits.processes:
            self.kill(f"It started more than {limits.processes} processes and was ended.")
        elif (
            self._resident + (shared := _shared_memory() - self._shared) > limits.memory
            and not self._weighing.is_alive()
        ):
            self._weighing = threading.Thread(target=self._weigh, args=(pids, shared), daemon=True)
            self._weighing.start()
        elif (
            self._disk
            and self._free - _free(self._disk) > limits.disk_bytes
            and _size(self._disk) > limits.disk_bytes
        ):
            self.kill(
                f"It wrote more than {limits.disk_bytes / 2**30:.1f} GiB of files and was ended."
            )

    def _weigh(self, pids: list[int], shared: int) -> None:
        """In a thread of its own: to read the memory of a process that is forking can take seconds."""
        if _memory(pids, shared) > self._limits.memory:
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
            if facts := _stat(pid):
                started, cpu, pages, computing = facts
                part = min(computing, CORES) * passed
                self._alive[pid, started] = cpu, max(part - cpu, part / 2)
                self._resident += pages * PAGE
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
            # The first is process 1 of a sandbox: with it all are ended
            for pid in (*children(self._popen.pid), self._popen.pid):
                _signal(pid, signal.SIGKILL)
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
            alive = {pid for pid in ours.intersection(descendants(*alive, *strays)) if _runs(pid)}
            for pid in alive:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.002 if alive else 0)
        return usage + sum(map(_inherited, {*self._children, *left}))


def end_all() -> None:
    """Kill every process below this one, those that lose their parent meanwhile too."""
    adopt_orphans()
    me, until = os.getpid(), time.monotonic() + 2.0
    while (
        left := [pid for pid in descendants(me) if pid != me and _runs(pid)]
    ) and time.monotonic() < until:
        for pid in left:
            _signal(pid, signal.SIGKILL)


def _told(path: str) -> bytes:
    """What a file of /proc says. Read without Python's buffers: this is done some hundred times a
    second.
    """
    file, told = os.open(path, os.O_RDONLY | os.O_CLOEXEC), b""
    try:
        while chunk := os.read(file, 1 << 16):
            told += chunk
        return told
    finally:
        os.close(file)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _inherited(pid: int) -> float:
    """CPU seconds of a process, and all it has waited for, that became ours when its parent ended
    (subreaper).
    """
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        try:
            done, _, rusage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:
            return 0.0
        if done:
            return rusage.ru_utime + rusage.ru_stime
        time.sleep(0.001)
    return 0.0


def children(pid: int) -> list[int]:
    """Direct children of a process, from /proc/PID/task/*/children."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _told(f"/proc/{pid}/task/{task}/children").split())
    except (OSError, ValueError):
        pass
    return found


def descendants(*roots: int) -> list[int]:
    """Every process below `roots`, themselves included."""
    found, queue = set[int](), [*roots]
    while queue:
        if (pid := queue.pop()) not in found:
            found.add(pid)
            queue += children(pid)
    return list(found)


def marked(mark: str) -> list[int]:
    """Processes that were started with the variable `mark` in their environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark.encode() in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue
    return found


def _stat(pid: int) -> tuple[str, float, int, int] | None:
    """(start time, CPU seconds, resident pages, threads that may be computing) of a process; None
    when it is gone.

    A main thread may sleep, or have ended, while others compute: where there are several, all of
    them may.
    """
    if not (fields := _fields(pid)):
        return None
    threads = int(fields[17])
    return (
        fields[19].decode(),
        (int(fields[11]) + int(fields[12])) * TICK,
        int(fields[21]),
        threads if threads > 1 else fields[0] == b"R",
    )


def _runs(pid: int) -> bool:
    """Whether it is there and no zombie."""
    return bool(fields := _fields(pid)) and (fields[0] not in (b"Z", b"X") or int(fields[17]) > 1)


def _fields(pid: int) -> list[bytes]:
    """Of /proc/PID/stat, from the third on."""
    try:
        return _told(f"/proc/{pid}/stat").rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return []


def _shared_memory() -> int:
    """Bytes that the whole machine holds in files in memory and in memory shared between processes."""
    try:
        with open("/proc/meminfo") as file:
            return next(
                (int(line.split()[1]) << 10 for line in file if line.startswith("Shmem:")), 0
            )
    except OSError:
        return 0


def _memory(pids: list[int], grown: int) -> int:
    """Bytes that these processes hold: resident, shared pages divided among their users, and their
    files in memory.

    `grown`: by how much shared memory has grown on the machine; files are looked for where that is
    worth it. Of very many processes those that can be looked at in LOOK seconds stand for all: a
    fork bomb must not outrun its watch.
    """
    begin = time.monotonic()
    private, mapped = 0.0, 0.0
    # By device and inode: one file may be open in many processes
    held: dict[tuple[int, ...], int] = {}
    for number, pid in enumerate(pids, 1):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                sizes = {
                    line.split(":")[0]: int(line.split()[1]) << 10
                    for line in file
                    if line.startswith("Pss")
                }
            shared = sizes.get("Pss_Shmem", 0)
            private, mapped = private + sizes.get("Pss", 0) - shared, mapped + shared
            held |= _files_in_memory(pid) if grown > 1 << 26 else {}
        except OSError:
            pass
        if time.monotonic() - begin > LOOK:
            private, mapped = private * len(pids) / number, mapped * len(pids) / number
            break
    return int(private + max(mapped, sum(held.values())))


def _files_in_memory(pid: int) -> dict[tuple[int, ...], int]:
    """Bytes in the private folders of a process's sandbox, by device, and in the nameless files
    that it has open.
    """
    held: dict[tuple[int, ...], int] = {}
    for folder in {"/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~")}:
        try:
            device = os.stat(inside := f"/proc/{pid}/root{folder}").st_dev
            if not os.path.exists(folder) or device != os.stat(folder).st_dev:
                facts = os.statvfs(inside)
                held[(device,)] = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        except OSError:
            continue
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(path := f"/proc/{pid}/fd/{name}").startswith("/memfd:"):
                opened = os.stat(path)
                held[opened.st_dev, opened.st_ino] = opened.st_blocks * 512
        except OSError:
            continue
    return held


def _free(path: Path | None) -> int:
    if path is None:
        return 0
    try:
        facts = os.statvfs(path)
    except OSError:
        return 0
    return facts.f_bavail * facts.f_frsize


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return total
