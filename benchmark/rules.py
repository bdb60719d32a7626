"""What the acceptance benchmark simulates: noisy worlds, a night of the product in each, and the
rules of others.

Ours is the product's own code: calibrate, SequentialScreen, PairedConfirmation, Claims and the
hold-out's slices are driven run by run with simulated measurements, around them the order of
research/search.py and confirmation.py (prune, one fallback); the proof has the time that it asks
for. The metric is minimised, effects are in σ of single runs. The others' rules claim whatever they
kept, and spend no runs on proof. Not covered: early stops, guardrails, trials side by side.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from autoresearch_action.acceptance import NeedRuns, RunRequest
from autoresearch_action.acceptance.claims import Claims, next_slice, reuse_level
from autoresearch_action.acceptance.confirm import PairedConfirmation
from autoresearch_action.acceptance.keep import SequentialScreen
from autoresearch_action.acceptance.noise import MORE_PAIRS, Noise, calibrate, derive
from autoresearch_action.acceptance.sign_flip import FIRST_SHARE
from autoresearch_action.brief import Brief

KINDS = (
    "gaussian",
    "student t3",
    "log-normal timing",
    "AR(1)+trend",
    "speed step",
    "pairing holds",
    "pairing breaks",
)
ALL = (*KINDS, "seed-blind", "exact")
# The program's seed picks one of so many fixed draws, and every edit moves them all
FOLDS = {"five folds": 5, "twenty folds": 20}
DRIFTING = ("log-normal timing", "AR(1)+trend", "speed step")
SIZES = (0.5, 1.0, 2.0, 4.0)
# Added to an idea's number where it is measured again
SECOND = 1000
# confirmation.py's caps, and the slices of its hold-out
HEAD, FALLBACK, SLICES = 0.025, 0.01, 20


@dataclass
class Run:
    """What the rules read of records.Measurement and its Trial; the real ones validate, which is
    slow here.
    """

    number: int
    seed: int
    side: str
    asked_by: int
    reseed: bool
    value: float
    started: float
    outcome: str = "ok"
    seconds: float = 1.0
    clock: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[Any, ...] = ()
    blocks: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        self.trial = self


@dataclass(frozen=True)
class Code:
    """A version of the program: its true gain over the base, and which random stream its seeds
    give.
    """

    gain: float
    stream: int


class World:
    """Noise with σ = 1 of single runs, on a clock that ticks once per run."""

    def __init__(self, kind: str, rng: np.random.Generator, ideas: int) -> None:
        self.kind, self.rng, self.now, self.measures_time = kind, rng, 0, kind in DRIFTING
        self.seeded: dict[tuple[int, int], float] = {}
        self.drift = [0.0]
        # Every run of a code, by seed
        self.log: dict[Code, list[Any]] = defaultdict(list)
        if kind == "AR(1)+trend":
            state = 0.0
            for i, shock in enumerate(rng.normal(size=8 * ideas + 200).tolist()):
                state = 0.7 * state + math.sqrt(1 - 0.49) * shock
                self.drift.append(0.8 * state + 3.0 * i / (2 * ideas))
        elif kind == "speed step":
            # Around the middle of the night, by three σ
            self.drift += [0.0] * int(ideas * rng.uniform(0.6, 1.4)) + [
                3.0 if rng.random() < 0.5 else -3.0
            ]

    def base(self) -> Code:
        return Code(0.0, 0)

    def edit(self, code: Code, gain: float, number: int = 0) -> Code:
        """The code after edit `number`; where seeds pick folds equal edits give equal code."""
        if self.kind in FOLDS:
            return Code(code.gain + gain, derive(code.stream, "edit", number))
        moves = self.kind == "seed-blind" or (
            self.kind == "pairing breaks" and self.rng.random() < 0.5
        )
        return Code(code.gain + gain, int(self.rng.integers(1, 2**40)) if moves else code.stream)

    def spread(self, base: Code, head: Code) -> float:
        """Standard deviation of the difference of two runs of one seed next to each other."""
        if self.kind in ("pairing holds", "pairing breaks"):
            return math.sqrt(2 * 0.19) if base.stream == head.stream else math.sqrt(2)
        return math.sqrt(2 * 0.3 * 0.64 + 2 * 0.36) if self.kind == "AR(1)+trend" else math.sqrt(2)

    def measure(self, code: Code, seed: int) -> float:
        self.now += 1
        normal, drift = self.rng.standard_normal, self.drift[min(self.now, len(self.drift) - 1)]
        if self.kind == "exact":
            noise = 0.0
        elif self.kind == "student t3":
            noise = self.rng.standard_t(3) / math.sqrt(3)
        elif self.kind == "log-normal timing":
            noise = math.exp(0.5 * normal()) / 0.604
        elif self.kind == "seed-blind":
            noise = self.seeded.setdefault((code.stream, 0), normal())
        elif self.kind in FOLDS:
            noise = self.seeded.setdefault((code.stream, seed % FOLDS[self.kind]), normal())
        elif self.kind in ("pairing holds", "pairing breaks"):
            noise = (
                0.9 * self.seeded.setdefault((code.stream, seed), normal())
                + math.sqrt(0.19) * normal()
            )
        else:
            noise = drift + (0.6 if self.kind == "AR(1)+trend" else 1.0) * normal()
        return 100.0 - code.gain + noise

    def run(self, code: Code, want: RunRequest, number: int, asked_by: int, reseed: bool) -> Run:
        value = self.measure(code, want.seed)
        made = Run(number, want.seed, want.side, asked_by, reseed, value, float(self.now))
        self.log[code].append(made)
        return made


# Number, true effect, estimate
Change = tuple[int, float, float]


@dataclass
class Night:
    """What came of one run of the loop."""

    claimed: bool = False
    # True gain of what was claimed
    gain: float = 0.0
    # True effects kept, and claimed
    kept: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    trials: dict[float, list[int]] = field(default_factory=lambda: defaultdict(list))
    # All of the night, calibration and proof included
    runs: int = 0
    claims: Claims = field(default_factory=Claims)
    # Slices of the hold-out
    used: list[int] = field(default_factory=list)


Rule = Callable[[World, Sequence[float], Night], Night]


def ours(world: World, ideas: Sequence[float], before: Night, sigma_known: bool = False) -> Night:
    """A night of the product after another: calibrate, screen, prune, confirm, one fallback.

    `sigma_known`: the same, told σ; its proof is a z test with the same two looks. What knowing σ
    could buy.
    """
    night, rng = Night(claims=before.claims, used=list(before.used)), world.rng
    facts = {
        "run": "true",
        "metric": "seconds" if world.measures_time else "val_bpb",
        "exact": world.kind == "exact",
    }
    brief = Brief.model_validate(facts)
    dice = int(rng.integers(2**31))

    base = world.base()
    baseline: list[Any] = []
    while isinstance(noise := calibrate(baseline, brief, seed=dice), NeedRuns):
        baseline += [world.run(base, want, 0, 0, noise.reseed) for want in noise.runs]
    if sigma_known and not (noise.exact or noise.blind):
        noise = noise.model_copy(update={"sigma": 1.0, "dof": 10**6})
    incumbent, incumbent_runs, incumbent_number = base, list(baseline), 0
    stack: list[Change] = []
    # First runs of the others on this incumbent
    siblings: list[Any] = []
    waiting, cost = deque(enumerate(ideas, 1)), [0] * len(ideas)
    again: set[int] = set()
    while waiting:
        number, effect = waiting.popleft()
        candidate, asked = world.edit(incumbent, effect, number), 0
        runs: list[Any] = []
        rule = SequentialScreen(brief, noise, seed=dice + number, siblings=siblings)
        while isinstance(answer := rule.decide(runs, incumbent_runs), NeedRuns):
            # A new incumbent's first references are its own cost
            asked += len(answer.runs) if runs else 1
            for want in answer.runs:
                if want.side == "head":
                    runs.append(world.run(candidate, want, number, number, noise.reseed))
                else:
                    incumbent_runs.append(
                        world.run(incumbent, want, incumbent_number, number, noise.reseed)
                    )
        cost[(number - 1) % SECOND] += asked
        siblings.append(runs[0])
        for wrong in SequentialScreen(brief, noise, seed=dice, siblings=siblings).misjudged(
            runs, incumbent_runs
        ):
            # Measured again, once
            if wrong < SECOND and wrong not in again:
                again.add(wrong)
                waiting.appendleft((wrong + SECOND, ideas[wrong - 1]))
        if answer.status == "keep":
            stack.append((number, effect, answer.estimate or 0.0))
            incumbent, incumbent_runs, incumbent_number, siblings = (
                candidate,
                list(runs),
                number,
                [],
            )
    for effect, trials in zip(ideas, cost, strict=True):
        night.trials[effect].append(trials)
    night.kept = [effect for _, effect, _ in stack]
    if stack and not noise.blind:
        _prove(world, brief, noise, _pruned(world, stack, noise), night, sigma_known)
    night.runs = world.now
    return night


def _prove(
    world: World, brief: Brief, noise: Noise, stack: list[Change], night: Night, sigma_known: bool
) -> None:
    """confirmation.py's: the head, or else one fallback that was chosen before."""
    base = world.base()
    fallback = _fallback(stack)
    for chosen, cap in ((stack, HEAD), (fallback, FALLBACK))[: 2 if fallback else 1]:
        head = base
        for number, effect, _ in chosen:
            head = world.edit(head, effect, number)
        place, _ = next_slice(night.used, SLICES, 0)
        level = reuse_level(min(cap, night.claims.level()), night.used, place)
        night.used.append(place)
        if sigma_known and not noise.exact:
            p_value = _z_test(world, base, head, noise, level)
            held, night.claims = p_value <= level, night.claims.after(p_value, level)
        else:
            said = confirmed(world, brief, noise, base, head, level)
            held = bool(said.held)
            if said.p_value is not None:
                night.claims = night.claims.after(said.p_value, level)
        if held:
            night.claimed, night.gain, night.shown = (
                True,
                head.gain,
                [effect for _, effect, _ in chosen],
            )
            return


def confirmed(
    world: World, brief: Brief, noise: Noise, base: Code, head: Code, level: float
) -> Any:
    """One confirmation by the product's test, on fresh seeds."""
    seed, seen = int(world.rng.integers(2**31)), (list(world.log[base]), list(world.log[head]))
    test = PairedConfirmation(brief, noise, level=level, seed=seed, seen=seen)
    runs: list[Any] = []
    while isinstance(said := test.decide(runs), NeedRuns):
        runs += [
            world.run(base if want.side == "base" else head, want, 0, 0, noise.reseed)
            for want in said.runs
        ]
    return said


def _z_test(world: World, base: Code, head: Code, noise: Noise, level: float) -> float:
    """The p-value of a z test with the two looks of our plan; 1 where neither rejects."""
    gains: list[float] = []
    looks = noise.reserve_pairs(level) - MORE_PAIRS, noise.reserve_pairs(level)
    for n, bound in zip(looks, z_bounds(*looks, level), strict=True):
        gains += [
            world.measure(base, -1000 - i) - world.measure(head, -1000 - i)
            for i in range(len(gains), n)
        ]
        z = statistics.fmean(gains) * math.sqrt(n) / world.spread(base, head)
        if z >= bound:
            return min(level, float(ndtr(-z)))
    return 1.0


@cache
def z_bounds(first: int, last: int, level: float) -> tuple[float, float]:
    """z bounds of two looks that spend FIRST_SHARE of `level` and the rest (Lan & DeMets 1983)."""
    early = -float(ndtri(FIRST_SHARE * level))
    z, rho = np.linspace(-8, early, 4001), math.sqrt(first / last)
    weights = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])

    def excess(bound: float) -> float:
        return (
            float((weights * ndtr((rho * z - bound) / math.sqrt(1 - rho * rho))).sum())
            - (1 - FIRST_SHARE) * level
        )

    return early, float(brentq(excess, 0, 8))


def _pruned(world: World, stack: list[Change], noise: Noise) -> list[Change]:
    """confirmation.py's: leave out, from the weakest on, what the head is no worse without (two
    runs each).
    """

    def runs(changes: list[Change]) -> float:
        code = world.base()
        for number, effect, _ in changes:
            code = world.edit(code, effect, number)
        return statistics.fmean(world.measure(code, -1 - i) for i in range(1 if noise.exact else 2))

    whole = runs(stack) if len(stack) > 1 else 0.0
    for change in sorted(stack, key=lambda change: change[2]):
        if len(stack) < 2:
            break
        rest = [other for other in stack if other is not change]
        without = runs(rest)
        if without <= whole:
            stack, whole = rest, without
    return stack


def _fallback(stack: list[Change]) -> list[Change]:
    """confirmation.py's: the shortest prefix with half of the estimated gain."""
    if len(stack) < 2:
        return []
    reached, total = 0.0, sum(max(0.0, estimate) for _, _, estimate in stack)
    for length, (_, _, estimate) in enumerate(stack[:-1], 1):
        reached += max(0.0, estimate)
        if reached >= total / 2:
            return stack[:length]
    return stack[:-1]


def peer(
    world: World, ideas: Sequence[float], runs: int, start: int, keep: Callable[..., bool]
) -> Night:
    """A night under another's rule: `runs` of each idea on the same seeds, `start` of the base;
    what is kept is claimed.
    """
    night, code = Night(), world.base()
    first = [world.measure(code, seed) for seed in range(start)]
    best, history = first, list(first)
    for effect in ideas:
        candidate = world.edit(code, effect)
        values = [world.measure(candidate, seed) for seed in range(runs)]
        history += values
        night.trials[effect].append(runs)
        if keep(values, best, first, history):
            code, best = candidate, values
            night.kept.append(effect)
    night.claimed, night.gain, night.shown, night.runs = (
        bool(night.kept),
        code.gain,
        night.kept,
        world.now,
    )
    return night


def two_sigma(new: list[float], old: list[float], first: list[float], history: list[float]) -> bool:
    return statistics.fmean(old) - new[0] > 2 * statistics.stdev(first)


def over_mad(new: list[float], old: list[float], first: list[float], history: list[float]) -> bool:
    middle, gain = statistics.median(history), statistics.fmean(old) - new[0]
    return gain > 0 and gain >= 2 * statistics.median(abs(value - middle) for value in history)


DRAWS = np.array(np.meshgrid([0, 1, 2], [0, 1, 2], [0, 1, 2])).reshape(3, -1).T


def bootstrap(new: list[float], old: list[float], first: list[float], history: list[float]) -> bool:
    """All 27 × 27 resamples of three seeds each; the incumbent's winning samples are used again."""
    mine, theirs = np.array(new)[DRAWS].sum(axis=1), np.array(old)[DRAWS].sum(axis=1)
    return bool((mine[:, None] < theirs).mean() >= 0.95)


RULES: dict[str, Rule] = {
    "ours": ours,
    "ours, told σ": lambda w, i, b: ours(w, i, b, sigma_known=True),
    "one lower run": lambda w, i, b: peer(w, i, 1, 1, lambda new, old, *_: new[0] < old[0]),
    "best of 3": lambda w, i, b: peer(w, i, 3, 3, lambda new, old, *_: min(new) < min(old)),
    "2σ of the baseline": lambda w, i, b: peer(w, i, 1, 2, two_sigma),
    "gain/MAD ≥ 2": lambda w, i, b: peer(w, i, 1, 3, over_mad),
    "3 seeds, bootstrap P ≥ 0.95": lambda w, i, b: peer(w, i, 3, 3, bootstrap),
}
