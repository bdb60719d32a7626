"""Repeats: runs of different seeds that are one and the same draw, as where a seed picks a fold.

A draw that the search has seen is no proof, and a draw that comes twice counts once. Tells draws by
their values alone. Does not see a program that adds noise of its own to each fold: its values never
repeat. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoresearch_action.records import Measurement

# Of σ: values nearer to each other are one (kernels that add up in another order)
NEAR = 1e-4
# Values that are shares of at most so many things, or counts within so wide a range, tie by chance
COARSE = 100
# Decimal places that are told apart
MOST_PLACES = 12

Pair = tuple[Measurement, Measurement]


class Draws:
    """Which pairs of a confirmation are new draws, given what the search ran of both sides."""

    def __init__(
        self, sigma: float, base: Sequence[Measurement] = (), head: Sequence[Measurement] = ()
    ) -> None:
        self.base, self.head, self.sigma = _values(base), _values(head), sigma
        self.coarse = coarse([*self.base.values(), *self.head.values()])

    def new(self, pair: Pair, before: Sequence[Pair]) -> bool:
        """Whether `pair` repeats none of `before` and nothing that the search saw. Coarse values
        tie by chance: there only both sides together tell a draw.
        """
        seen = [(self.base[seed], self.head[seed]) for seed in self.base.keys() & self.head.keys()]
        seen += [(_value(base), _value(head)) for base, head in before]
        base, head = _value(pair[0]), _value(pair[1])
        sides = [
            (base, [*self.base.values(), *(base for base, _ in seen)]),
            (head, [*self.head.values(), *(head for _, head in seen)]),
        ]
        widths = [max([*others, one]) - min([*others, one]) for one, others in sides]
        # The base's runs may all have had one draw: then σ is not what its draws differ by
        near = NEAR * max(self.sigma, *(width / 4 for width in widths))
        if any(abs(base - b) <= near and abs(head - h) <= near for b, h in seen):
            return False
        # A side that is always the same (at its ceiling, say) tells no draws
        telling = [side for side, width in zip(sides, widths, strict=True) if width > near]
        return self.coarse or all(
            abs(one - other) > near for one, others in telling for other in others
        )

    def again(self, side: str, run: Measurement, before: Sequence[Measurement]) -> bool:
        """Whether a run of one side repeats a draw of it; coarse values tell none."""
        seen = [*(self.base if side == "base" else self.head).values(), *map(_value, before)]
        value = _value(run)
        width = max([*seen, value]) - min([*seen, value])
        near = NEAR * max(self.sigma, width / 4)
        return not self.coarse and width > near and any(abs(value - one) <= near for one in seen)


def repeating(values: Sequence[float]) -> bool:
    """Whether values of different seeds repeat, and not because they are coarse."""
    return 1 < len(set(values)) < len(values) and not coarse(values)


def coarse(values: Sequence[float]) -> bool:
    """Whether all values are shares of one number of things, counts or rounded numbers, few of
    which lie between the lowest and the highest.
    """
    if not values or not all(map(math.isfinite, values)):
        return False
    width, places = max(values) - min(values), max(map(_places, values))
    # In percent, too
    grids = [scale * count for count in range(1, COARSE + 1) for scale in (1.0, 0.01)]
    grids += [10.0**digits for digits in range(3, MOST_PLACES)] if width else []
    return any(
        width * grid <= COARSE and _on(values, grid, 0.51 * grid * 10.0**-places) for grid in grids
    )


def _on(values: Sequence[float], grid: float, rounding: float) -> bool:
    """Whether all values are multiples of 1 / `grid`, exactly or as far as they were rounded."""
    off = max(abs(value * grid - round(value * grid)) for value in values)
    return off <= 1e-6 or off <= rounding <= 0.1


def _places(value: float) -> int:
    """Decimal places that a value was printed with."""
    return len(f"{value:.{MOST_PLACES}f}".rstrip("0").partition(".")[2])


def _values(runs: Sequence[Measurement]) -> dict[int, float]:
    return {run.trial.seed: _value(run) for run in runs if run.outcome == "ok"}


def _value(run: Measurement) -> float:
    assert run.value is not None
    return run.value
