"""Project onto the probability simplex. This is the file that the agent edits."""

import numpy as np


def project(rows: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex (entries not below zero, sum 1) for each row.

    rows: float64 [count, size], any finite numbers, size ≥ 1. Gives float64 [count, size].
    """
    return np.array([_row([float(entry) for entry in row]) for row in rows]).reshape(rows.shape)


def _row(entries: list[float]) -> list[float]:
    low, high = min(entries) - 1.0, max(entries)
    for _ in range(60):
        shift = (low + high) / 2
        if sum(max(entry - shift, 0.0) for entry in entries) > 1.0:
            low = shift
        else:
            high = shift
    above = [entry for entry in entries if entry > high]
    shift = (sum(above) - 1.0) / len(above) if above else high
    return [max(entry - shift, 0.0) for entry in entries]
