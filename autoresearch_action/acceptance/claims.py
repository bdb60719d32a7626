"""Across nights: the level of each claim, so that a stream of claims stays honest, and the
hold-out's slices.

Thirty empty nights tested at 5 % each end in a false claim with probability 0.79. The levels here
come from LORD++ (Ramdas, Yang, Wainwright & Jordan 2017, "Online control of the false discovery
rate with decaying memory"), which bounds the expected false share of all claims made so far by
`fdr`. Does not test anything itself (confirm.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from autoresearch_action.records import Record

# Of the head's own test
CAP = 0.025
# Γ_j ∝ (j + 1)^−DECAY: slow, for streams of months, yet with a fifth of the wealth on the first
# attempt
DECAY = 1.5
# Σ_{j≥1} (j + 1)^−1.5
ZETA = 1.612375348685488


class Claims(Record):
    """The state of the stream: how many attempts there were, and which of them (from 1) were
    claimed.
    """

    fdr: float = 0.1
    attempts: int = 0
    claimed: list[int] = []

    def level(self) -> float:
        """The level of the next attempt: fdr·(γ_t + Σ γ_{t−τ} over all claims τ but the first), at
        most CAP.

        LORD++ with the whole wealth at hand from the start (W₀ = fdr), so that the first claim
        earns nothing.
        """
        now = self.attempts + 1
        return min(
            CAP, self.fdr * (gamma(now) + sum(gamma(now - then) for then in self.claimed[1:]))
        )

    def after(self, p_value: float, level: float | None = None, earns: bool = True) -> Claims:
        """The state after an attempt. `level`: what it was tested at, where that was less than
        `level()`; not `earns`: proven before, so that it is counted as an attempt and as no claim.
        """
        now = self.attempts + 1
        hit = earns and p_value <= min(self.level(), 1.0 if level is None else level)
        return self.model_copy(
            update={"attempts": now, "claimed": [*self.claimed, now] if hit else self.claimed}
        )

    def describe(self) -> str:
        """One line for the pull request."""
        claims = f"{len(self.claimed)} claim{'s' * (len(self.claimed) != 1)}"
        attempts = f"{self.attempts} attempt{'s' * (self.attempts != 1)}"
        bound = f"their false share held to ≤ {self.fdr:.0%} (LORD++)"
        return f"{claims} in {attempts} so far, {bound}; next at level {self.level():.2g}"


def gamma(index: int) -> float:
    """Share of the wealth for the index-th attempt after it was earned; sums to one."""
    return float((index + 1) ** -DECAY / ZETA)


def next_slice(used: Sequence[int], total: int, seed: int) -> tuple[int, str]:
    """The next hold-out slice from a pool permuted by hash, and a note for the pull request.

    Each is used once; once all are, the least used comes again and the note says so: then see
    `reuse_level`.
    """
    counts = Counter(used)
    order = sorted(
        range(total), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest()
    )
    chosen = min(order, key=lambda index: counts[index])
    note = f"hold-out use {len(used) + 1} of {total}"
    if times := counts[chosen]:
        note += f": slice {chosen} was seen {times}× before, so the level is divided by {2**times}"
    return chosen, note


def reuse_level(level: float, used: Sequence[int], chosen: int) -> float:
    """`level` for a slice that was used before: halved by every use.

    A use tells the search one bit, held or not; k bits select among 2ᵏ heads at most, so that
    dividing by 2ᵏ (Bonferroni over what could be selected) keeps the level: the description-length
    form of the Ladder's bound (Blum & Hardt 2015, "The Ladder: a reliable leaderboard", §3).
    """
    return float(level / 2 ** Counter(used)[chosen])
