"""Processor time of the candidate's parse and render, in per cent of the original's. Frozen.

usage: score.py PACKAGES
"""

import json
import os
import sys
from pathlib import Path

from contest import compare, same_text
from pages import page

HERE = Path(__file__).resolve().parent
SEED = os.environ.get("AUTORESEARCH_SEED", "1")
WARM, ROUNDS = 5, 60


def requests():
    return (json.dumps(page(SEED, number)).encode() for number in range(WARM + ROUNDS))


packages = str(Path(sys.argv[1]).resolve())
sides = [[str(folder), packages] for folder in (HERE / "original", HERE)]
cost, (before, after) = compare(*sides, requests(), WARM, same_text)
print(f"cost: {cost:.4f}")
print(f"peak_mb: {after:.2f}")
print(f"original_peak_mb: {before:.2f}")
