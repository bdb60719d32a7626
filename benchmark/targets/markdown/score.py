"""Processor time of the candidate's rendering, in per cent of the original's. Frozen."""

import os
from pathlib import Path

from contest import compare, same_text
from documents import document

HERE = Path(__file__).resolve().parent
SEED = os.environ.get("AUTORESEARCH_SEED", "1")
WARM, ROUNDS = 5, 60


def requests():
    return (document(SEED, number).encode() for number in range(WARM + ROUNDS))


cost, (before, after) = compare([str(HERE / "original")], [str(HERE)], requests(), WARM, same_text)
print(f"cost: {cost:.4f}")
print(f"peak_mb: {after:.2f}")
print(f"original_peak_mb: {before:.2f}")
