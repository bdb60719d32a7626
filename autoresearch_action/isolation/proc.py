"""What /proc says of processes: who is below whom, what each has computed and holds in memory.

Read by hand: the watch looks twenty times a second, and a library that makes an object of each
process takes several times as long for a look. Linux alone; what is gone meanwhile is passed over.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# Seconds that measuring the tree's memory may take
LOOK = 0.3


def _read(path: str) -> bytes:
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


def kill(pid: int) -> None:
    """End it; nothing happens where it is gone or somebody else's."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def inherited(pid: int) -> float:
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
            found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
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
    """Processes below this one, orphans that it took in among them, that were started with the
    variable `mark` (NAME=value) in their environment.
    """
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if mark.encode() in _read(f"/proc/{pid}/environ").split(b"\0"):
                found.append(pid)
    return found


def facts(pid: int) -> tuple[str, float, int, int] | None:
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


def runs(pid: int) -> bool:
    """Whether it is there and no zombie."""
    return bool(fields := _fields(pid)) and (fields[0] not in (b"Z", b"X") or int(fields[17]) > 1)


def _fields(pid: int) -> list[bytes]:
    """Of /proc/PID/stat, from the third on."""
    try:
        return _read(f"/proc/{pid}/stat").rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return []


def shared_memory() -> int:
    """Bytes that the whole machine holds in files in memory and in shared memory."""
    try:
        with open("/proc/meminfo") as file:
            return next(
                (int(line.split()[1]) << 10 for line in file if line.startswith("Shmem:")), 0
            )
    except OSError:
        return 0


def memory(pids: list[int], grown: int) -> int:
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


def free(path: Path | None) -> int:
    """Bytes that may still be written where `path` lies; 0 where that is not known."""
    if path is None:
        return 0
    try:
        facts = os.statvfs(path)
    except OSError:
        return 0
    return facts.f_bavail * facts.f_frsize


def size(path: Path) -> int:
    """Bytes on disk of all files below a folder, however deep."""
    total, queue = 0, [str(path)]
    while queue:
        with suppress(OSError), os.scandir(queue.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
    return total
