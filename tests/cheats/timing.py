"""A timing target: a small Python function, a frozen benchmark that times it in a process of its own.

The benchmark keeps what a scorer of untrusted code must keep to itself: the clock, the questions (fresh ones each
time), the right answers and its own descriptors. Only answers come out of the candidate's process, as JSON.
"""

from __future__ import annotations

from pathlib import Path

import bench
import tiny

from autoresearch_action.records import Measurement
from autoresearch_action.trials.slot import SlotContext

TARGET = '''"""How many pairs of `numbers` add up to `total`?"""


def pairs(numbers: list[int], total: int) -> int:
    found = 0
    for i, a in enumerate(numbers):
        for b in numbers[:i]:
            if a + b == total:
                found += 1
    return found


if __name__ == "__main__":
    with open("plan.json", "w") as file:  # what `run` hands over
        file.write("{}")
'''
BENCH = '''"""Seconds that target.pairs takes, the best of many fresh questions."""
import collections, ctypes, json, os, random, subprocess, sys, time

WORKER = """
import json, os, sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("target", "target.py")
target = module_from_spec(spec)
spec.loader.exec_module(target)
for line in sys.stdin:
    print(json.dumps(target.pairs(*json.loads(line))), flush=True)
"""
ctypes.CDLL(None).prctl(4, 0)  # not dumpable: closed to the worker, which is the same user
dice = random.Random(f"{os.environ['AUTORESEARCH_SEED']} {os.urandom(8).hex()}")
worker = subprocess.Popen([sys.executable, "-I", "-S", "-c", WORKER], stdin=-1, stdout=-1, stderr=-3, env={"PATH": os.environ["PATH"]})
best = float("inf")
for _ in range(20):
    numbers, total = [dice.randrange(1000) for _ in range(400)], dice.randrange(2000)
    counts = collections.Counter(numbers)
    right = sum(n * counts[total - a] - (n if 2 * a == total else 0) for a, n in counts.items()) // 2
    question = json.dumps([numbers, total]).encode() + b"\\n"
    begin = time.perf_counter()
    try:
        worker.stdin.write(question)
        worker.stdin.flush()
        answer = worker.stdout.readline(100)
    except BrokenPipeError:
        answer = b""
    best = min(best, time.perf_counter() - begin)
    if answer != b"%d\\n" % right:
        sys.exit(f"A wrong answer: {answer[:30]!r}.")
worker.kill()
print(f"seconds: {best:.9f}")
'''
CHECK = """import os, sys
sys.path.insert(0, os.getcwd())
from target import pairs
assert pairs([1, 2, 3, 4, 4], 5) == 3
"""
PROGRAM = """---
edit: [target.py]
check: python tests/test_target.py
run: python target.py
evaluate: python bench.py
metric: seconds
---
Faster.
"""


def repository(directory: Path) -> SlotContext:
    root = tiny.repository(directory, program=PROGRAM, bench__py=BENCH, target__py=TARGET)
    for name in ("train.py", "score.py"):
        (root / name).unlink()
    (root / "tests").mkdir()
    (root / "tests" / "test_target.py").write_text(CHECK)
    tiny.commit(root)
    at = bench.make(root)
    at.slot = type(at.slot)("cpu:0", cores=at.slot.cores[:1], memory=400 << 20)
    return at


def measure(at: SlotContext, text: str, **facts: object) -> Measurement:
    limits = {"check": 20.0, "run": 20.0, "evaluate": 20.0} | dict(facts.pop("limits", {}))  # type: ignore[call-overload]
    return bench.candidate(at, text, file="target.py", limits=limits, **facts)


def first(code: str) -> str:
    """target.py with `code` run whenever it is loaded: by the check, by `run` and by the benchmark."""
    return TARGET.replace('"""\n', f'"""\n{code}\n', 1)


def in_run(code: str) -> str:
    """target.py with `code` at the end of `run`."""
    return TARGET + "".join(f"    {line}\n" for line in code.strip().splitlines())


def instead(body: str, before: str = "") -> str:
    """target.py with another function."""
    head, _, rest = TARGET.partition("def pairs(")
    _, _, tail = rest.partition("\n\n\n")
    return (
        f"{head}{before}\ndef pairs(numbers, total):\n"
        + "".join(f"    {line}\n" for line in body.strip().splitlines())
        + f"\n\n{tail}"
    )
