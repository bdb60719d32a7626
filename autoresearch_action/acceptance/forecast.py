"""Forecast: how many runs a gain of a size needs, and what a night will yield, from the noise.

For planning alone: no decision rests on it. Pure.
"""

from __future__ import annotations

import math

from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.brief import Brief

# Per cent
GAINS = (0.1, 0.5, 1.0, 5.0)
# Trials an idea takes, runs of the incumbent among them (benchmark/night.py)
LOOKS = 1.1


def runs_needed(noise: Noise, gain: float, level: float = 0.025, power: float = 0.8) -> int:
    """Pairs of runs that confirm an improvement of `gain` (metric's unit) with probability `power`.

    Normal approximation with Guenther's (1981) correction for the t test, never fewer than sign
    flips need.
    """
    from scipy.special import ndtri

    if noise.exact:
        return 1
    spread = math.sqrt(2 * (1 - noise.shared)) * noise.sigma
    z = float(ndtri(1 - level))
    needed = (z + float(ndtri(power))) ** 2 * (spread / gain) ** 2 + z * z / 2
    return max(noise.reserve_pairs(level), math.ceil(needed)) if math.isfinite(needed) else 10**9


def forecast(
    noise: Noise, brief: Brief, trial_seconds: float, minutes: float, slots: int = 1
) -> str:
    """What `autoresearch measure` prints: σ, runs by size of gain, and what a run of `minutes` will
    yield.
    """
    lines = [f"{brief.metric}: {noise.mean:.6g} on the base, {noise.describe()}."]
    lines += [f"Note: {note}." for note in noise.notes]
    if noise.blind:
        return "\n".join(
            [*lines, "Read AUTORESEARCH_SEED in the program and seed its generators with it."]
        )
    for percent in GAINS:
        pairs_needed = runs_needed(noise, abs(noise.mean) * percent / 100) if noise.mean else 0
        runs = 2 * pairs_needed
        lines.append(f"A gain of {percent:g} % needs {runs} run{'s' * (runs != 1)} to be claimed.")
    total = int(minutes * 60 * slots // trial_seconds) if trial_seconds > 0 else 0
    proof = 2 * noise.reserve_pairs()
    ideas = max(0, int((total - noise.runs - proof) / (1.0 if noise.exact else LOOKS)))
    lines.append(
        f"{minutes:g} minutes hold {total} runs of {trial_seconds:.2g} s: {noise.runs} to"
        f" calibrate, {proof} to confirm, the rest for about {ideas} idea{'s' * (ideas != 1)}."
    )
    return "\n".join(lines)
