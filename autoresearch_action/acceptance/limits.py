"""Guardrails: the brief's `limits` on other metrics than the one that is optimised, judged through
their noise.

The same for a screen and for a claim. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from autoresearch_action.acceptance.noise import pool, sample_variance, t_quantile
from autoresearch_action.brief import Brief
from autoresearch_action.records import Measurement


def judge_limits(
    brief: Brief, head: Sequence[Measurement], base: Sequence[Measurement], level: float = 0.1
) -> tuple[Literal["ok", "doubtful", "broken"], str]:
    """Guardrails: "broken" only beyond the noise (one-sided t test at `level`), "doubtful" over the
    limit within it.
    """
    doubtful = ""
    for name, limit in brief.limits.items():
        mine = [run.metrics[name] for run in head if run.outcome == "ok" and name in run.metrics]
        theirs = [run.metrics[name] for run in base if run.outcome == "ok" and name in run.metrics]
        if not mine or not all(map(math.isfinite, mine)):
            return (
                "broken",
                f"{name} has a limit ({limit.text}) and the candidate does not print it.",
            )
        mean = math.fsum(mine) / len(mine)
        low, high = limit.bounds(math.fsum(theirs) / len(theirs) if theirs else None)
        excess = max(mean - high, low - mean)
        if excess <= 0:
            continue
        sentence = (
            f"{name} is {mean:.6g}, its limit {high if mean > high else low:.6g} ({limit.text})."
        )
        variance, dof = pool(sample_variance(mine), sample_variance(theirs))
        share = (
            (1 + limit.relative) ** 2 / len(theirs)
            if limit.relative is not None and theirs
            else 0.0
        )
        if dof == 0 or excess > t_quantile(1 - level, dof) * math.sqrt(
            variance * (1 / len(mine) + share)
        ):
            return "broken", sentence
        doubtful = doubtful or sentence
    return ("doubtful", doubtful) if doubtful else ("ok", "")
