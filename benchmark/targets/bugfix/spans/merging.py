"""Spans as [start, end) pairs of integers."""


def merge(spans: list[list[int]]) -> list[list[int]]:
    """The fewest spans that cover the same, in order. Spans that touch are one; empty ones go."""
    merged: list[list[int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1][1] = end
        elif start < end:
            merged.append([start, end])
    return merged
