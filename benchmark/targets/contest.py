"""Two implementations side by side, each in a process of its own, and what each took. Frozen.

A side gets a request and gives a reply, in turns; outside its turn it is stopped. What a turn took
is read from outside: the processor time of all the side's threads since the end of its last turn,
so nothing can be done before the question or after the answer. A side can start threads, but no
process (alone.py), and cannot look into the scorer's memory, nor into the other side's.

Not covered: whether a reply is right, which the caller says; a gain by more cores, which is none
here.
"""

import atexit
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from alone import alone, unreadable

HERE = Path(__file__).resolve().parent
# Bytes of a request or a reply, at most
MOST = 1 << 28
# The share of rounds that is left out at either end
TRIM = 0.15
LENGTH = struct.Struct("<Q")


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
    unreadable()
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _send(channel, b"ready")
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
            preexec_fn=partial(alone, threads=True),
            env={"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"},
        )
        # A stopped process would outlive this one, and hold on to its log
        atexit.register(self.process.kill)
        # Nobody can look into it from here on: the original is there before the candidate starts
        self._reply()
        self.process.send_signal(signal.SIGSTOP)
        self.took = self._clock()

    def turn(self, request):
        """(reply, milliseconds of processor time)."""
        self.process.send_signal(signal.SIGCONT)
        reply = self._reply(request)
        self.process.send_signal(signal.SIGSTOP)
        before, self.took = self.took, self._clock()
        return reply, self.took - before

    def _reply(self, request=None):
        try:
            if request is not None:
                _send(self.process.stdin, request)
            return _receive(self.process.stdout)
        except (EOFError, BrokenPipeError):
            sys.exit(f"The {self.name} ended with exit code {self.process.wait()}.")

    def _clock(self):
        # What clock_getcpuclockid(3) gives for another process
        return 1e3 * time.clock_gettime(~self.process.pid << 3 | 2)

    @property
    def peak_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def compare(original, candidate, requests, warm, same):
    """Each request to both, in random order. Gives (the candidate's processor time in per cent of
    the original's, the two peaks in MiB).

    original, candidate: worker.py's arguments, as lists
    warm: that many requests first are not counted
    same: (request, the original's reply, the candidate's) -> a sentence about what differs, or ""
    """
    unreadable()
    dice = random.Random(os.environ.get("AUTORESEARCH_SEED", "1"))
    sides = [Side("original", *original), Side("candidate", *candidate)]
    ratios = []
    for number, request in enumerate(requests):
        replies, took = {}, {}
        for side in dice.sample(sides, 2):
            replies[side.name], took[side.name] = side.turn(request)
        if wrong := same(request, replies["original"], replies["candidate"]):
            sys.exit(wrong)
        if number >= warm:
            ratios.append(math.log(took["candidate"] / took["original"]))
    peaks = [side.peak_mb for side in sides]
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
