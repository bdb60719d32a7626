"""Devices: which there are, one slot each, a host-wide lock per GPU, and whether a stranger is on
the card.

What `nvidia-smi` says is taken as it is; of a card's parts (MIG) one is used, the first named. AMD
cards are found by their device nodes, all shown to a trial, and not watched.
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
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.isolation.proc import descendants

LOCKS = Path("/var/tmp/autoresearch-locks")
# Seconds between looks at a card in use
LOOKS = 3.0
# MiB in use on a card that counts as free; more than before the first trial, where that was more
USED, SPARE = 1024, 256
# Seconds that a foreign process on the card is waited for
FOREIGN_PATIENCE = 600.0
# Of the machine's memory that all trials together may use
MEMORY_SHARE = 0.85
_SMI = "nvidia-smi"


@dataclass(frozen=True)
class Slot:
    """Where one trial runs at a time. `gpu` is "" for the processor, else the card's number."""

    name: str
    gpu: str = ""
    cores: tuple[int, ...] = ()
    # Bytes
    memory: int = 1 << 62


def find_slots(wanted: str, exclusive: bool = False) -> list[Slot]:
    """The slots that `--slots` names: auto, a number, or devices (cuda:0,cuda:1 or cpu).

    `exclusive`: the metric is a time, so that one slot has the whole machine. Raises InputError,
    EnvironmentFault.
    """
    cards = gpus()
    words = [word.strip() for word in wanted.split(",") if word.strip()]
    if wanted == "auto":
        names = [f"cuda:{card}" for card in cards] or ["cpu:0"]
    elif re.fullmatch(r"[0-9]{1,3}", wanted) and 0 < int(wanted) <= 256:
        names = (
            [f"cuda:{card}" for card in cards[: int(wanted)]]
            if cards
            else [f"cpu:{i}" for i in range(int(wanted))]
        )
        if cards and len(names) < int(wanted):
            raise EnvironmentFault(f"--slots {wanted}: this machine has {len(cards)} GPUs.")
    elif words and all(re.fullmatch(r"cuda:\d+|cpu(:\d+)?", word) for word in words):
        names = [word if ":" in word else "cpu:0" for word in words]
        lacking = [name for name in names if name.startswith("cuda:") and name[5:] not in cards]
        if lacking:
            raise EnvironmentFault(
                f"--slots {wanted}: {lacking[0]} is not here (found:"
                f" {', '.join(cards) or 'no GPU'})."
            )
    else:
        raise InputError(f"--slots {wanted!r}: give auto, a number, or devices like cuda:0,cuda:1.")
    if len(set(names)) < len(names):
        raise InputError(f"--slots {wanted!r} names a device twice.")
    names = names[:1] if exclusive else names
    cores = len(os.sched_getaffinity(0))
    if len(names) > cores:
        raise InputError(
            f"--slots {wanted!r}: {len(names)} slots need as many processor cores; there are"
            f" {cores}."
        )
    return [
        share(name, name[5:] if name.startswith("cuda:") else "", i, len(names))
        for i, name in enumerate(names)
    ]


def share(name: str, gpu: str, index: int, count: int) -> Slot:
    """The slot with part `index` of `count` equal parts of this machine's cores and memory."""
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // count
    memory = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count)
    return Slot(name, gpu, tuple(cores[index * size : (index + 1) * size]), memory)


@dataclass(frozen=True)
class Card:
    """A GPU as nvidia-smi tells of it."""

    index: str
    uuid: str
    bus: str = ""


def gpus() -> list[str]:
    """Indices of the GPUs that this process may use."""
    cards, visible = _cards(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not cards and Path("/dev/kfd").exists():
        return [str(i) for i, _ in enumerate(sorted(Path("/dev/dri").glob("renderD*")))]
    named = None if visible is None else _named(visible, cards)
    return [card.index for card in cards if named is None or card.index in named]


def _cards() -> list[Card]:
    rows = _smi("--query-gpu=index,uuid,pci.bus_id", "--format=csv,noheader")
    told = [[word.strip() for word in row.split(",")] for row in rows]
    return [Card(*words) for words in told if len(words) == 3 and words[0].isdigit()]


def _named(visible: str, cards: Sequence[Card]) -> dict[str, str]:
    """By index, the word of CUDA_VISIBLE_DEVICES that names a card or a part of it (MIG). As CUDA
    reads it: nothing counts from the first word on that names none.
    """
    named: dict[str, str] = {}
    parts = _parts() if "MIG-" in visible else {}
    for word in map(str.strip, visible.split(",")):
        found = [card.index for card in cards if _names(word, card)]
        index = found[0] if len(found) == 1 else parts.get(word)
        if index is None:
            break
        named.setdefault(index, word)
    return named


def _names(word: str, card: Card) -> bool:
    return word == card.index or (word.startswith("GPU-") and card.uuid.startswith(word))


def _parts() -> dict[str, str]:
    """By the UUID of a MIG device, the index of the card that it is a part of."""
    found, index = {}, ""
    for row in _smi("-L"):
        if card := re.match(r"GPU (\d+):", row):
            index = card[1]
        elif part := re.search(r"UUID: (MIG-[^)\s]+)", row):
            found[part[1]] = index
    return found


def _smi(*words: str) -> list[str]:
    if not shutil.which(_SMI):
        return []
    try:
        done = subprocess.run([_SMI, *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _numbers(slot: Slot, query: str) -> list[int]:
    rows = _smi(f"--id={slot.gpu}", query, "--format=csv,noheader,nounits")
    return [int(row) for row in rows if row.strip().isdigit()]


class Locks:
    """Host-wide locks on the slots' devices, so that two runners on one host never measure against
    each other.
    """

    def __init__(self, slots: Sequence[Slot], exclusive: bool = False) -> None:
        self._names = [f"gpu-{slot.gpu}" for slot in slots if slot.gpu] + (
            ["machine"] if exclusive else []
        )
        self._files: list[IO[bytes]] = []

    def acquire(
        self, waiting: Callable[[str], None], interrupted: Callable[[], str], patience: float
    ) -> None:
        """Take every lock, waiting up to `patience` seconds. Raises EnvironmentFault."""
        until = time.monotonic() + patience
        for name in self._names:
            self._files.append(file := _lock_file(LOCKS / f"{name}.lock"))
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
                        raise EnvironmentFault(
                            f"Another run on this host has held {name} all the time: try again"
                            " later."
                        ) from None
                    time.sleep(0.5)

    def release(self) -> None:
        for file in self._files:
            file.close()
        self._files = []


def _lock_file(path: Path) -> IO[bytes]:
    """Open it for locking, made for every account of the host whatever the umask. Raises
    EnvironmentFault.
    """
    try:
        # Made by another account, which saw to it
        with suppress(PermissionError):
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o1777)
        with (
            suppress(PermissionError),
            os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "rb") as made,
        ):
            os.fchmod(made.fileno(), 0o666)
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError as error:
        raise EnvironmentFault(
            f"The lock {path} cannot be opened ({error.strerror}): remove it, or let every account"
            " read it."
        ) from None


@lru_cache
def card(gpu: str, facts: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, str]:
    """What CUDA_VISIBLE_DEVICES says for a card, and the name of its device node below /dev.

    Where there are several, a sandbox shows the node of one: what number CUDA gives it there
    depends on the driver, its UUID does not. Where this process was given a part of a card, so are
    trials. Nodes are numbered in the kernel's order, not in nvidia-smi's.
    """
    cards = _cards()
    mine = next((one for one in cards if one.index == gpu), Card(gpu, gpu))
    minor = gpu
    for file in facts.glob("*/information"):
        if mine.bus and mine.bus.lower().endswith(file.parent.name.lower()):
            found = re.search(r"^Device Minor:\s*(\d+)", file.read_text(), re.MULTILINE)
            minor = found[1] if found else minor
    name = _named(os.environ.get("CUDA_VISIBLE_DEVICES", ""), cards).get(gpu, "")
    if not name.startswith("MIG-"):
        name = mine.uuid if len(cards) > 1 else gpu
    return name, f"nvidia{minor}"


def one_process(slot: Slot) -> bool:
    """Whether the card is in exclusive-process mode: a second process finds it busy."""
    rows = _smi(f"--id={slot.gpu}", "--query-gpu=compute_mode", "--format=csv,noheader")
    return "Exclusive_Process" in "".join(rows)


def occupants(slot: Slot) -> set[int]:
    """Processes on the slot's card that are not below this one. Empty where no tool tells.

    In a container they may be told by numbers that mean nothing there: those of our own trials are
    among them.
    """
    pids = set(_numbers(slot, "--query-compute-apps=pid")) if slot.gpu else set()
    return pids - set(descendants(os.getpid())) if pids else pids


def throttled(slot: Slot) -> bool:
    """Whether the card is slowed down by heat or power at this moment."""
    # Of drivers from 535 on, and before
    for name in ("clocks_event_reasons", "clocks_throttle_reasons") if slot.gpu else ():
        fields = f"--query-gpu={name}.hw_slowdown,{name}.sw_thermal_slowdown"
        if rows := _smi(f"--id={slot.gpu}", fields, "--format=csv,noheader"):
            return any("Active" in row.replace("Not Active", "") for row in rows)
    return False


class Watch:
    """Looks at the card every few seconds of a trial: was it `shared`, was it `slow`?"""

    def __init__(self, slot: Slot) -> None:
        self.shared = self.slow = False
        self._slot, self._over = slot, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        if self._slot.gpu:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._slot.gpu:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOKS):
            # Else it has ended, or may be ours
            shared = any(Path(f"/proc/{pid}").exists() for pid in occupants(self._slot))
            slow = throttled(self._slot)
            # An idle card says nothing
            if not self._over.is_set():
                self.shared, self.slow = self.shared or shared, self.slow or slow


# MiB in use on a card before the first trial
_idle: dict[str, int] = {}


def await_free(
    slot: Slot, cancelled: Callable[[], bool], patience: float = FOREIGN_PATIENCE
) -> None:
    """Wait until the card is ours alone and its memory is free. Raises EnvironmentFault after
    `patience` seconds.
    """
    until = time.monotonic() + patience
    while slot.gpu and not cancelled():
        pids = occupants(slot)
        used = sum(_numbers(slot, "--query-gpu=memory.used"))
        if not pids and used <= max(USED, _idle.setdefault(slot.gpu, used) + SPARE):
            return
        if time.monotonic() > until:
            told = (
                f"Another process is on {slot.name} (pid {min(pids)})"
                if pids
                else f"{used} MiB of {slot.name}'s memory stay in use"
            )
            raise EnvironmentFault(f"{told}: end what holds it, or give this run another device.")
        time.sleep(min(2.0, patience))


def environment(slots: Sequence[Slot]) -> dict[str, str]:
    """What a reviewer needs to know of the machine: hardware and versions, no names of hosts or
    people.
    """
    facts = {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    try:
        text = Path("/proc/cpuinfo").read_text()
        facts["processor"] = next(
            line.split(":", 1)[1].strip()
            for line in text.splitlines()
            if line.startswith("model name")
        )
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
    """sha256 over what a trial runs on and in, but for the slot's number: hardware, versions, the
    variables handed to it.
    """
    return hashlib.sha256(
        json.dumps([_machine(bool(slot.gpu)), variables], sort_keys=True).encode()
    ).hexdigest()


@lru_cache(maxsize=2)
def _machine(gpu: bool) -> dict[str, str]:
    facts = environment([Slot("", "0" if gpu else "")])
    return facts | {"slots": ""}
