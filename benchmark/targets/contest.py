"""Two implementations side by side, each in a process of its own, and what each took. Frozen.

A side gets a request and gives a reply, in turns; outside its turn it is stopped. What a turn took
is read from outside: the processor time of all the side's threads since the end of its last turn,
so nothing can be done before the question or after the answer. A side that starts a process has
lost. The scorer and the sides cannot look into one another's memory.

Not covered: whether a reply is right, which the caller says; a gain by more cores, which is none
here.
"""

import ctypes
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Of linux/prctl.h
DUMPABLE, SUBREAPER = 4, 36
# Bytes of a request or a reply, at most
MOST = 1 << 28
# The share of rounds that is left out at either end
TRIM = 0.15
LENGTH = struct.Struct("<Q")


def _prctl(what, value):
    ctypes.CDLL(None).prctl(what, value, 0, 0, 0)


def _exactly(stream, count):
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data


def _receive(stream):
    (count,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
    if count > MOST:
        raise EOFError
    return _exactly(stream, count)


def _send(stream, data):
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def serve(answer):
    """The side's loop: reply to requests until there are no more. Its prints go to the log."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            request = _receive(sys.stdin.buffer)
        except EOFError:
            return
        _send(channel, answer(request))


class Side:
    """One implementation. `command` is worker.py's arguments."""

    def __init__(self, name, *command):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(HERE / "worker.py"), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"},
        )
        self.took = 0.0
        self.process.send_signal(signal.SIGSTOP)

    def turn(self, request):
        """(reply, milliseconds of processor time)."""
        self.process.send_signal(signal.SIGCONT)
        try:
            _send(self.process.stdin, request)
            reply = _receive(self.process.stdout)
        except (EOFError, BrokenPipeError):
            sys.exit(f"The {self.name} ended with exit code {self.process.wait()}.")
        self.process.send_signal(signal.SIGSTOP)
        before, self.took = self.took, self._clock()
        return reply, self.took - before

    def _clock(self):
        # What clock_getcpuclockid(3) gives for another process
        return 1e3 * time.clock_gettime(~self.process.pid << 3 | 2)

    @property
    def peak_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _parents():
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        found[int(path.parent.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def _alone(sides):
    """End the trial where a side has started a process: it could work, or disturb, unseen."""
    known = {side.process.pid for side in sides}
    family = {os.getpid(), *known}
    if any(parent in family and child not in known for child, parent in _parents().items()):
        sys.exit("SUSPICIOUS: the candidate started a process of its own.")


def compare(original, candidate, requests, warm, same):
    """Each request to both, in random order. Gives (the candidate's processor time in per cent of
    the original's, the two peaks in MiB).

    original, candidate: worker.py's arguments, as lists
    warm: that many requests first are not counted
    same: (request, the original's reply, the candidate's) -> a sentence about what differs, or ""
    """
    _prctl(DUMPABLE, 0)
    _prctl(SUBREAPER, 1)
    dice = random.Random(os.environ.get("AUTORESEARCH_SEED", "1"))
    sides = [Side("original", *original), Side("candidate", *candidate)]
    ratios = []
    for number, request in enumerate(requests):
        replies, took = {}, {}
        for side in dice.sample(sides, 2):
            replies[side.name], took[side.name] = side.turn(request)
            _alone(sides)
        if wrong := same(request, replies["original"], replies["candidate"]):
            sys.exit(wrong)
        if number >= warm:
            ratios.append(math.log(took["candidate"] / took["original"]))
    peaks = [side.peak_mb for side in sides]
    for side in sides:
        side.process.kill()
    return 100 * math.exp(_trimmed(ratios)), peaks


def same_text(request, original, candidate):
    """For `compare`: the replies are texts, and equal to the letter."""
    if original == candidate:
        return ""
    pairs = enumerate(zip(original, candidate, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(original), len(candidate)))
    there = slice(max(0, at - 40), at + 40)
    return f"A page differs: {original[there]!r} became {candidate[there]!r}."


def _trimmed(values):
    cut = int(len(values) * TRIM)
    kept = sorted(values)[cut : len(values) - cut]
    return math.fsum(kept) / len(kept)
