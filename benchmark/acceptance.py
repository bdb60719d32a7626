"""Error rates and power of acceptance rules, by simulation: `python benchmark/acceptance.py [--quick] [--out FILE]`.

Ours is the product's own code: calibrate, SequentialScreen, PairedConfirmation and Claims are driven run by run with
simulated measurements, around them the order of loop.py and proof.py (prune, one fallback). The metric is minimised,
effects are in units of σ of single runs. The peers' rules claim whatever they keep; they spend no runs on proof.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from autoresearch_action.acceptance import Ask
from autoresearch_action.acceptance.claims import Claims
from autoresearch_action.acceptance.confirm import PairedConfirmation
from autoresearch_action.acceptance.curves import clopper_pearson
from autoresearch_action.acceptance.noise import Noise, calibrate, good
from autoresearch_action.acceptance.screen import SequentialScreen
from autoresearch_action.brief import Brief

KINDS = ("gaussian", "student t3", "log-normal timing", "AR(1)+trend", "speed step", "pairing holds", "pairing breaks")
ALL = (*KINDS, "seed-blind", "exact")
DRIFTING = ("log-normal timing", "AR(1)+trend", "speed step")
SIZES = (0.5, 1.0, 2.0, 4.0)
HEAD, FALLBACK = 0.025, 0.01  # proof.py's caps
LOSERS, LOSER = 0.25, -2.0  # share of losers among the ideas that are no gain, and their effect


@dataclass
class Trial:
    """What the rules read of records.Trial and records.Measurement; the real ones validate, which is slow here."""

    number: int
    seed: int
    side: str
    asked_by: int
    reseed: bool


@dataclass
class Run:
    trial: Trial
    value: float
    started: float
    outcome: str = "ok"
    seconds: float = 1.0
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[Any, ...] = ()
    blocks: tuple[Any, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Code:
    """A version of the program: its true gain over the base, and which random stream its seeds give."""

    gain: float
    stream: int


class World:
    """Noise with σ = 1 of single runs, on a clock that ticks once per run."""

    def __init__(self, kind: str, rng: np.random.Generator, ideas: int) -> None:
        self.kind, self.rng, self.now, self.runs = kind, rng, 0, 0
        self.seeded: dict[tuple[int, int], float] = {}
        self.timing = kind in DRIFTING
        length = 8 * ideas + 200
        if kind == "AR(1)+trend":
            shocks = rng.normal(size=length).tolist()
            self.drift = [0.0] * length
            for i in range(1, length):
                self.drift[i] = 0.7 * self.drift[i - 1] + math.sqrt(1 - 0.49) * shocks[i]
            self.drift = [0.8 * x + 3.0 * i / (2 * ideas) for i, x in enumerate(self.drift)]
        elif kind == "speed step":
            when, step = int(ideas * rng.uniform(0.6, 1.4)), 3.0 * (1 if rng.random() < 0.5 else -1)
            self.drift = [step * (i > when) for i in range(length)]
        self.normal, self.uniform = rng.standard_normal, rng.random

    def base(self) -> Code:
        return Code(0.0, 0)

    def edit(self, code: Code, gain: float) -> Code:
        moves = self.kind == "seed-blind" or (self.kind == "pairing breaks" and self.uniform() < 0.5)
        return Code(code.gain + gain, int(self.rng.integers(1, 2**40)) if moves else code.stream)

    def measure(self, code: Code, seed: int) -> float:
        self.now += 1
        kind = self.kind
        if kind == "exact":
            noise = 0.0
        elif kind == "gaussian":
            noise = self.normal()
        elif kind == "student t3":
            noise = self.rng.standard_t(3) / math.sqrt(3)
        elif kind == "log-normal timing":
            noise = math.exp(0.5 * self.normal()) / 0.604
        elif kind == "AR(1)+trend":
            noise = self.drift[min(self.now, len(self.drift) - 1)] + 0.6 * self.normal()
        elif kind == "speed step":
            noise = self.drift[min(self.now, len(self.drift) - 1)] + self.normal()
        else:
            key = (code.stream, 0 if kind == "seed-blind" else seed)
            shared = self.seeded.setdefault(key, self.normal())
            noise = shared if kind == "seed-blind" else 0.9 * shared + math.sqrt(0.19) * self.normal()
        return 100.0 - code.gain + noise


@dataclass
class Night:
    """What came of one run of the loop."""

    claimed: bool = False
    gain: float = 0.0  # true gain of what was claimed
    kept: list[float] = field(default_factory=list)  # true effects kept, and claimed
    shown: list[float] = field(default_factory=list)
    trials: dict[float, list[int]] = field(default_factory=lambda: defaultdict(list))
    fresh: int = 0  # reference runs that new incumbents needed
    proof: int = 0  # runs spent on prune and confirmation
    claims: Claims = Claims()


def ours(world: World, ideas: Sequence[float], claims: Claims, sigma_known: bool = False) -> Night:
    """A night of the product: calibrate, screen, prune, confirm, one fallback."""
    night, rng = Night(claims=claims), world.rng
    facts = {"run": "true", "metric": "seconds" if world.timing else "val_bpb", "exact": world.kind == "exact"}
    brief = Brief.model_validate(facts)
    dice = int(rng.integers(2**31))

    def measured(code: Code, seed: int, side: str, number: int, asked_by: int, reseed: bool = False) -> Run:
        value = world.measure(code, seed)
        return Run(Trial(number, seed, side, asked_by, reseed), value, float(world.now))

    base = world.base()
    baseline: list[Any] = []
    while isinstance(noise := calibrate(baseline, brief, seed=dice), Ask):
        baseline += [measured(base, want.seed, "base", 0, 0, noise.reseed) for want in noise.runs]
    if sigma_known and not (noise.exact or noise.blind):
        noise = noise.model_copy(update={"sigma": 1.0, "dof": 10**6})
    incumbent, incumbent_runs, incumbent_number = base, list(baseline), 0
    stack: list[tuple[int, float, float]] = []  # number, true effect, estimate
    for number, effect in enumerate(ideas, 1):
        candidate, runs, asked = world.edit(incumbent, effect), [], 0
        rule = SequentialScreen(brief, noise, seed=dice + number)
        while isinstance(answer := rule.decide(runs, incumbent_runs), Ask):
            if not runs:  # the new incumbent's first references are its own cost
                night.fresh += sum(want.side == "base" for want in answer.runs)
            asked += len(answer.runs) if runs else 1
            for want in answer.runs:
                if want.side == "head":
                    runs.append(measured(candidate, want.seed, "head", number, number, noise.reseed))
                else:
                    run = measured(incumbent, want.seed, "base", incumbent_number, number, noise.reseed)
                    incumbent_runs.append(run)
        night.trials[effect].append(asked)
        if answer.status == "keep":
            stack.append((number, effect, answer.estimate or 0.0))
            incumbent, incumbent_runs, incumbent_number = candidate, list(runs), number
    night.kept = [effect for _, effect, _ in stack]
    if not stack or noise.blind:
        return night
    before = world.now
    stack = _pruned(world, stack, noise)
    attempts = [(stack, HEAD)] + ([(shorter, FALLBACK)] if (shorter := _fallback(stack)) else [])
    for chosen, cap in attempts:
        head = base
        for _, effect, _ in chosen:
            head = world.edit(head, effect)
        level = min(cap, night.claims.level())
        confirm, runs = PairedConfirmation(brief, noise, level=level, seed=int(rng.integers(2**31))), []
        while isinstance(said := confirm.decide(runs), Ask):
            for want in said.runs:
                runs.append(measured(base if want.side == "base" else head, want.seed, want.side, 0, 0))
        if said.p_value is not None:
            night.claims = night.claims.after(said.p_value, level)
        if said.held:
            night.claimed, night.gain, night.shown = True, head.gain, [effect for _, effect, _ in chosen]
            break
    night.proof = world.now - before
    return night


def _pruned(world: World, stack: list[tuple[int, float, float]], noise: Noise) -> list[tuple[int, float, float]]:
    """proof.py's: leave out, from the weakest on, what the head is no worse without (two runs each)."""

    def runs(changes: list[tuple[int, float, float]]) -> float:
        code = world.edit(world.base(), sum(effect for _, effect, _ in changes))
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


def _fallback(stack: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """proof.py's: the shortest prefix with half of the estimated gain."""
    if len(stack) < 2:
        return []
    reached, total = 0.0, sum(max(0.0, estimate) for _, _, estimate in stack)
    for length, (_, _, estimate) in enumerate(stack[:-1], 1):
        reached += max(0.0, estimate)
        if reached >= total / 2:
            return stack[:length]
    return stack[:-1]
