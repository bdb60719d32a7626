"""Devices: which there are, one slot each, a host-wide lock per GPU, and whether a stranger is on the card.

What `nvidia-smi` says is taken as it is; AMD cards are found by their device nodes and not watched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.trials.process import descendants

LOCKS = Path("/var/tmp/autoresearch-locks")
FOREIGN_PATIENCE = 600.0  # seconds that a foreign process on the card is waited for
MEMORY_SHARE = 0.85  # of the machine's memory that all trials together may use
_SMI = "nvidia-smi"


@dataclass(frozen=True)
class Slot:
    """Where one trial runs at a time. `gpu` is "" for the processor, else what CUDA_VISIBLE_DEVICES says."""

    name: str
    gpu: str = ""
    cores: tuple[int, ...] = ()
    memory: int = 1 << 62  # bytes


def find_slots(wanted: str, exclusive: bool = False) -> list[Slot]:
    """The slots that `--slots` names: auto, a number, or devices (cuda:0,cuda:1 or cpu).

    `exclusive`: the metric is a time, so that one slot has the whole machine. Raises InputError, EnvironmentFault.
    """
    cards = gpus()
    words = [word.strip() for word in wanted.split(",") if word.strip()]
    if wanted == "auto":
        names = [f"cuda:{card}" for card in cards] or ["cpu:0"]
    elif re.fullmatch(r"[0-9]{1,3}", wanted) and 0 < int(wanted) <= 256:
        names = [f"cuda:{card}" for card in cards[: int(wanted)]] if cards else [f"cpu:{i}" for i in range(int(wanted))]
        if cards and len(names) < int(wanted):
            raise EnvironmentFault(f"--slots {wanted}: this machine has {len(cards)} GPUs.")
    elif words and all(re.fullmatch(r"cuda:\d+|cpu(:\d+)?", word) for word in words):
        names = [word if ":" in word else "cpu:0" for word in words]
        lacking = [name for name in names if name.startswith("cuda:") and name[5:] not in cards]
        if lacking:
            raise EnvironmentFault(f"--slots {wanted}: {lacking[0]} is not here (found: {', '.join(cards) or 'no GPU'}).")
    else:
        raise InputError(f"--slots {wanted!r}: give auto, a number, or devices like cuda:0,cuda:1.")
    if len(set(names)) < len(names):
        raise InputError(f"--slots {wanted!r} names a device twice.")
    names = names[:1] if exclusive else names
    cores = len(os.sched_getaffinity(0))
    if len(names) > cores:
        raise InputError(f"--slots {wanted!r}: {len(names)} slots need as many processor cores; there are {cores}.")
    return [share(name, name[5:] if name.startswith("cuda:") else "", i, len(names)) for i, name in enumerate(names)]


def share(name: str, gpu: str, index: int, count: int) -> Slot:
    """The slot with part `index` of `count` equal parts of this machine's cores and memory."""
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // count
    memory = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count)
    return Slot(name, gpu, tuple(cores[index * size : (index + 1) * size]), memory)


def gpus() -> list[str]:
    """Indices of the GPUs that this process may use."""
    rows = _smi("--query-gpu=index", "--format=csv,noheader")
    cards = [row.strip() for row in rows if row.strip().isdigit()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and re.fullmatch(r"[\d,]*", visible):
        cards = [card for card in cards if card in visible.split(",")]
    if not rows and Path("/dev/kfd").exists():
        cards = [str(i) for i, _ in enumerate(sorted(Path("/dev/dri").glob("renderD*")))]
    return cards


def _smi(*words: str) -> list[str]:
    if not shutil.which(_SMI):
        return []
    try:
        done = subprocess.run([_SMI, *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


class Locks:
    """Host-wide locks on the slots' devices, so that two runners on one host never measure against each other."""

    def __init__(self, slots: Sequence[Slot], exclusive: bool = False) -> None:
        self._names = [f"gpu-{slot.gpu}" for slot in slots if slot.gpu] + (["machine"] if exclusive else [])
        self._files: list[IO[bytes]] = []

    def acquire(self, waiting: Callable[[str], None], interrupted: Callable[[], str], patience: float) -> None:
        """Take every lock, waiting up to `patience` seconds. Raises EnvironmentFault."""
        until = time.monotonic() + patience
        for name in self._names:
            LOCKS.mkdir(mode=0o1777, exist_ok=True)
            path = LOCKS / f"{name}.lock"
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            self._files.append(file)
            told = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        waiting(f"Another run on this host holds {name}: waiting for it.")
                        told = True
                    if interrupted() or time.monotonic() > until:
                        self.release()
                        raise EnvironmentFault(f"Another run on this host has held {name} all the time: try again later.") from None
                    time.sleep(0.5)

    def release(self) -> None:
        for file in self._files:
            file.close()
        self._files = []


def strangers(slot: Slot) -> list[int]:
    """Processes on the slot's card that are not below this one. Empty where no tool tells."""
    if not slot.gpu:
        return []
    rows = _smi(f"--id={slot.gpu}", "--query-compute-apps=pid", "--format=csv,noheader")
    pids = {int(row) for row in rows if row.strip().isdigit()}
    return sorted(pids - set(descendants(os.getpid()))) if pids else []


def throttled(slot: Slot) -> bool:
    """Whether the card is slowed down by heat or power at this moment."""
    if not slot.gpu:
        return False
    reasons = "clocks_event_reasons.hw_slowdown,clocks_event_reasons.sw_thermal_slowdown"
    return any(
        "Active" in row.replace("Not Active", "") for row in _smi(f"--id={slot.gpu}", f"--query-gpu={reasons}", "--format=csv,noheader")
    )


def await_free(slot: Slot, cancelled: Callable[[], bool], patience: float = FOREIGN_PATIENCE) -> None:
    """Wait until the card is ours alone. Raises EnvironmentFault after `patience` seconds."""
    until = time.monotonic() + patience
    while pids := strangers(slot):
        if cancelled():
            return
        if time.monotonic() > until:
            raise EnvironmentFault(f"Another process is on {slot.name} (pid {pids[0]}): end it, or give this run another device.")
        time.sleep(2.0)


def environment(slots: Sequence[Slot]) -> dict[str, str]:
    """What a reviewer needs to know of the machine: hardware and versions, no names of hosts or people."""
    facts = {"system": f"{platform.system()} {platform.release()}", "python": platform.python_version()}
    try:
        text = Path("/proc/cpuinfo").read_text()
        facts["processor"] = next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        facts["processor"] = platform.machine()
    facts["cores"] = str(len(os.sched_getaffinity(0)))
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    cards = _smi("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    if cards and any(slot.gpu for slot in slots):
        facts["gpu"] = "; ".join(sorted(set(cards)))
    facts["slots"] = ", ".join(slot.name for slot in slots)
    return facts


def fingerprint(slot: Slot, variables: Mapping[str, str]) -> str:
    """sha256 over what a trial runs on and in, but for the slot's number: hardware, versions, the variables handed to it."""
    return hashlib.sha256(json.dumps([_machine(bool(slot.gpu)), variables], sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=2)
def _machine(gpu: bool) -> dict[str, str]:
    facts = environment([Slot("", "0" if gpu else "")])
    return facts | {"slots": ""}
