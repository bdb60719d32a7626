"""Build words.c, run it on fresh texts, and count its instructions. Frozen during a run.

Cachegrind counts, in the sandbox's own process tree, where valgrind is there; else it is the user
time, the least of some runs. The program may not start processes or threads, in which what it does
would not be counted, nor speak to valgrind, which newer ones would obey.

Not covered: instructions on another machine or with another compiler.
"""

import os
import random
import re
import resource
import shutil
import string
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from alone import alone, unreadable

TEXTS, WORDS, KNOWN = 2, 6_000, 900
REPEATS = 5
REFS = re.compile(r"^==(\d+)== I\s+refs:\s+([\d,]+)$", re.MULTILINE)
# How a program speaks to valgrind on x86-64: it turns a register by these
REQUEST = bytes.fromhex("48c1c70348c1c70d")


def text(dice):
    """Words as they come in a language: few often, some long, with what is no letter."""
    known = [
        "".join(dice.choices(string.ascii_letters, k=1 + int(dice.expovariate(0.2)))).capitalize()
        for _ in range(KNOWN)
    ]
    known = [word if dice.random() < 0.3 else word.lower() for word in known] + ["a" * 3_000]
    chosen = dice.choices(known, weights=[1 / (3 + n) for n in range(len(known))], k=WORDS)
    gaps = [" ", " ", " ", "\n", ", ", "-", "42", " é ", "_"]
    return "".join(word + dice.choice(gaps) for word in chosen)


def counted(given):
    words = re.findall(r"[a-z]+", re.sub(r"[A-Z]", lambda letter: letter[0].lower(), given))
    ranks = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
    return "".join(f"{count} {word}\n" for word, count in ranks)


def run(command, given, **more):
    done = subprocess.run(
        command,
        input=given,
        stdout=subprocess.PIPE,
        timeout=60,
        preexec_fn=partial(alone, threads=False),
        **more,
    )
    if done.returncode:
        sys.exit(f"words ended with exit code {done.returncode}.")
    return done.stdout


def instructions(program, given):
    """(what it printed, thousands of instructions)"""
    reading, writing = os.pipe()
    words = ["--tool=cachegrind", "--trace-children=yes", "--cachegrind-out-file=/dev/null"]
    command = ["valgrind", *words, f"--log-fd={writing}", program]
    try:
        said = run(command, given, pass_fds=[writing])
    finally:
        os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as log:
        told = log.read()
    found = REFS.findall(told)
    if len(found) != 1 or re.search(r"^\*\*", told, re.MULTILINE):
        sys.exit("SUSPICIOUS: valgrind's summary is not what one program leaves.")
    return said, int(found[0][1].replace(",", "")) / 1e3


def user_time(program, given):
    """(what it printed, milliseconds)"""
    least, said = float("inf"), b""
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        said = run([program], given)
        least = min(least, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    return said, 1e3 * least


def main():
    unreadable()
    dice = random.Random(int(os.environ.get("AUTORESEARCH_SEED", "1")))
    measure = instructions if shutil.which("valgrind") else user_time
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["make", "-s", f"OUT={folder}"]).returncode:
            sys.exit("words.c does not compile.")
        program = Path(folder, "words")
        if REQUEST in program.read_bytes():
            sys.exit("SUSPICIOUS: the program speaks to valgrind.")
        total = 0.0
        for given in (text(dice) for _ in range(TEXTS)):
            said, cost = measure(str(program), given.encode())
            if said != counted(given).encode():
                sys.exit("The counts are wrong.")
            total += cost
    print(f"cost: {total:.3f}")
    print(f"by_valgrind: {int(measure is instructions)}")


main()
