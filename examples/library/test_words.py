"""What the library must do, and how fast it does it. Frozen during a run."""

import os
import random

from words import counts

DICE = random.Random(int(os.environ.get("AUTORESEARCH_SEED", "1")))
TEXT = " ".join(f"word{int(DICE.expovariate(0.02))}" for _ in range(600))


def test_counts() -> None:
    assert counts("To be or not to be") == {"to": 2, "be": 2, "or": 1, "not": 1}


def test_speed(benchmark) -> None:
    told = benchmark(counts, TEXT)
    assert sum(told.values()) == 600
