"""Processor time of the candidate's projection, in per cent of the original's. Frozen.

The rows are new in each trial; every projection must be the original's to a billionth.
"""

import io
import os
from pathlib import Path

import numpy as np
from contest import compare

HERE = Path(__file__).resolve().parent
WARM, ROUNDS = 3, 20


def requests():
    """Arrays of many shapes, scales and ties, as .npy."""
    dice = np.random.default_rng(int(os.environ.get("AUTORESEARCH_SEED", "1")))
    for _ in range(WARM + ROUNDS):
        count, size = dice.integers(4, 16), dice.integers(50, 400)
        rows = dice.normal(dice.normal(), 10 ** dice.uniform(-2, 2), (count, size))
        rows[: count // 3] = rows[: count // 3].round(1)
        file = io.BytesIO()
        np.save(file, rows)
        yield file.getvalue()


def read(reply):
    try:
        return np.load(io.BytesIO(reply), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None


def same(request, original, candidate):
    wanted, given = read(original), read(candidate)
    if given is None or given.dtype != wanted.dtype or given.shape != wanted.shape:
        return "The candidate gave no array of the right kind."
    if not np.abs(given - wanted).max() <= 1e-9:
        return f"A projection is off by {np.abs(given - wanted).max():.3g}."
    return ""


cost, (before, after) = compare([str(HERE / "original")], [str(HERE)], requests(), WARM, same)
print(f"cost: {cost:.4f}")
print(f"peak_mb: {after:.2f}")
print(f"original_peak_mb: {before:.2f}")
