"""What the benchmarks of acceptance simulate: noisy worlds, a night of the product in each, and the
rules of others.

Ours is the product's own code: calibrate, WorthOfRuns, the belief it rests on, the plan of a proof,
its test, Claims and the hold-out's slices are driven run by run with simulated measurements, in the
order of research/search.py and confirmation.py. The metric is minimised, effects are in σ of single
runs. The others' rules claim whatever they kept, and spend no runs on proof. Not covered: early
stops, guardrails, pruning by runs, trials side by side.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autoresearch_action.acceptance import Decision, NeedRuns, RunRequest
from autoresearch_action.acceptance.belief import Effect, Posterior, Prior
from autoresearch_action.acceptance.claims import Claims, next_slice, reuse_level
from autoresearch_action.acceptance.keep import Situation, WorthOfRuns, inconclusive, price_of
from autoresearch_action.acceptance.labelled import confirmation
from autoresearch_action.acceptance.learning import learnt
from autoresearch_action.acceptance.lineage import Code as Version
from autoresearch_action.acceptance.lineage import Lineage, child
from autoresearch_action.acceptance.noise import Noise, calibrate, derive
from autoresearch_action.acceptance.two_sample import Plan, plan
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
# Share of the variance that runs of one seed have in common
SHARED = {"shared 0.5": 0.5, "shared 0.8": 0.8}
DRIFTING = ("log-normal timing", "AR(1)+trend", "speed step")
SIZES = (0.5, 1.0, 2.0, 4.0)
# Trials of a night
CAP = 60
# confirmation.py's caps, and the slices of its hold-out
HEAD, FALLBACK, SLICES = 0.025, 0.01, 20
PRUNED = 0.4


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

    def measure(self, code: Code, seed: int) -> float:
        self.now += 1
        normal, drift = self.rng.standard_normal, self.drift[min(self.now, len(self.drift) - 1)]
        if self.kind == "exact":
            noise = 0.0
        elif self.kind == "student t3":
            noise = self.rng.standard_t(3) / math.sqrt(3)
        elif self.kind == "log-normal timing":
            noise = math.exp(0.5 * normal()) / 0.604
        elif self.kind in FOLDS:
            noise = self.seeded.setdefault((code.stream, seed % FOLDS[self.kind]), normal())
        elif self.kind in SHARED:
            share = SHARED[self.kind]
            noise = math.sqrt(share) * self.seeded.setdefault((code.stream, seed), normal())
            noise += math.sqrt(1 - share) * normal()
        elif self.kind == "seed-blind":
            noise = self.seeded.setdefault((code.stream, 0), normal())
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
    # Ideas looked at, the trials of that, and of the proof
    looked: int = 0
    search_trials: int = 0
    proof: int = 0


Rule = Callable[[World, Sequence[float], Night], Night]


def ours(world: World, ideas: Sequence[float], before: Night, sigma_known: bool = False) -> Night:
    """A night of the product after another, of CAP trials at most; `sigma_known`: the same, told
    σ.
    """
    return night(world, iter(ideas), before, CAP, sigma_known)


def confirmed(
    world: World,
    brief: Brief,
    noise: Noise,
    base: Code,
    head: Code,
    level: float,
    how: Plan | None = None,
) -> Any:
    """One confirmation by the product's test, on fresh seeds; without a plan in pairs."""
    test = confirmation(
        brief,
        noise,
        plan=how,
        level=level,
        seed=int(world.rng.integers(2**31)),
        max_pairs=how.pairs if how and how.pairs and not noise.repeats else None,
        seen=(list(world.log[base]), list(world.log[head])),
    )
    runs: list[Any] = []
    while isinstance(said := test.decide(runs), NeedRuns):
        runs += [
            world.run(base if want.side == "base" else head, want, 0, 0, noise.reseed)
            for want in said.runs
        ]
    return said


def night(
    world: World, ideas: Iterator[float], before: Night, cap: int, sigma_known: bool = False
) -> Night:
    """A night of at most `cap` trials: calibrate, look at ideas while the proof's runs are left,
    prune, confirm, one fallback.
    """
    came = Night(claims=before.claims, used=list(before.used))
    facts = {"run": "true", "metric": "seconds" if world.measures_time else "val_bpb"}
    brief = Brief.model_validate(facts | {"exact": world.kind == "exact"})
    dice = int(world.rng.integers(2**31))
    base, baseline = world.base(), list[Any]()
    while isinstance(noise := calibrate(baseline, brief, seed=dice), NeedRuns):
        baseline += [world.run(base, want, 0, 0, noise.reseed) for want in noise.runs]
    if sigma_known and not (noise.exact or noise.blind):
        noise = noise.model_copy(update={"sigma": 1.0, "dof": 10**6})
    search = _Search(world, brief, noise, dice, baseline, cap, came)
    for effect in ideas:
        if not search.room():
            break
        search.look(effect)
    search.again()
    came.looked, came.search_trials = search.number, world.now - len(baseline)
    came.kept = [effect for _, effect, _ in search.stack]
    began = world.now
    if search.stack and not noise.blind:
        search.prove()
    came.proof, came.runs = world.now - began, world.now
    return came


class _Search:
    """search.py's and confirmation.py's order, one trial after the other."""

    def __init__(
        self,
        world: World,
        brief: Brief,
        noise: Noise,
        dice: int,
        baseline: list[Any],
        cap: int,
        came: Night,
    ) -> None:
        self.world, self.brief, self.noise, self.dice = world, brief, noise, dice
        self.cap, self.came, self.number, self.best = cap, came, 0, 0
        self.codes, self.code, self.runs = [Version(baseline)], world.base(), list(baseline)
        self.prior = Prior(noise.spread or 1.0)
        # Number, true effect, what is believed of it
        self.stack: list[tuple[int, float, Posterior]] = []
        self.doubtful: list[tuple[int, float, Effect, float]] = []
        self.rejected: list[list[Any]] = []
        self.waiting = True

    @property
    def level(self) -> float:
        return min(HEAD, self.came.claims.level())

    def plan(
        self, stack: Sequence[tuple[int, float, Posterior]], level: float, most: float = math.inf
    ) -> Plan | None:
        mean = sum(belief.mean for *_, belief in stack)
        variance = sum(belief.variance for *_, belief in stack)
        return plan(self.noise, mean, math.sqrt(variance), level, max(30, self.world.now), most)

    def reserve(self) -> int:
        if not self.stack:
            return 2 if self.noise.exact else 8
        how = self.plan(self.stack, self.level)
        return how.runs if how else 0

    def room(self) -> bool:
        return self.world.now + 1 + self.reserve() <= self.cap

    def look(self, effect: float, number: int = 0, before: tuple[Effect, ...] = ()) -> None:
        """`number`: of an idea that is looked at again, of which `before` was seen."""
        world, noise = self.world, self.noise
        self.number += 1
        number = number or self.number
        candidate, runs = world.edit(self.code, effect, number), list[Any]()
        began = world.now
        horizon = (self.number + 4) / (len(self.stack) + 1)
        while self.room():
            left = self.cap - self.reserve() - world.now
            situation = Situation(
                self.number,
                Lineage(noise, self.codes, -1, self.rejected, self.prior),
                self.prior,
                before,
                self.waiting,
                min(horizon, left),
                float(world.now + 1),
            )
            answer = WorthOfRuns(self.brief, noise, self.dice + self.number, situation).decide(
                runs, self.runs
            )
            if isinstance(answer, Decision):
                break
            for want in answer.runs:
                if want.side == "head":
                    runs.append(world.run(candidate, want, self.number, self.number, noise.reseed))
                else:
                    run = world.run(self.code, want, self.best, self.number, noise.reseed)
                    self.noise = noise = learnt(noise, self.codes, -1, [run])
                    self.runs.append(run)
                    last = self.codes[-1]
                    self.codes[-1] = replace(last, runs=[*last.runs, run])
        else:
            return
        self.came.trials[effect].append(self.world.now - began)
        if noise.exact or noise.sigma == 0:
            found = Effect(answer.estimate or 0.0, 0.0)
        else:
            found = Lineage(noise, self.codes, -1, self.rejected, self.prior).fit(runs).effect
            self.noise = learnt(noise, self.codes, -1, runs, self.prior)
        belief = self.prior.given(*before, found)
        if answer.status == "keep":
            self.stack.append((number, effect, belief))
            floor = 0.02 * self.noise.spread**2
            self.codes = [*self.codes, child(runs, len(runs), found, self.prior, floor)]
            self.runs, self.rejected = runs, []
            self.code, self.best = candidate, self.number
        elif runs:
            self.rejected.append(runs)
        if (
            answer.status != "keep"
            and not before
            and inconclusive(belief, self.noise, price_of(self.brief, self.noise))
        ):
            self.doubtful.append((number, effect, found, belief.mean))
        self.prior.add(found)

    def again(self) -> None:
        """Second looks where nothing else waits, the most promising first."""
        self.waiting = False
        for number, effect, found, _ in sorted(self.doubtful, key=lambda one: -one[3]):
            if self.room():
                self.look(effect, number, (found,))

    def prove(self) -> None:
        pruned = [change for change in self.stack if change[2].chance >= PRUNED] or self.stack[:1]
        plain = [(number, effect, belief.mean) for number, effect, belief in pruned]
        fallback = [change[0] for change in _fallback(plain)]
        options = [(pruned, HEAD)]
        if fallback:
            options.append(([one for one in pruned if one[0] in fallback], FALLBACK))
        for chosen, cap in options:
            head = self.world.base()
            for number, effect, _ in chosen:
                head = self.world.edit(head, effect, number)
            place, _ = next_slice(self.came.used, SLICES, 0)
            level = reuse_level(min(cap, self.came.claims.level()), self.came.used, place)
            chosen_plan = self.plan(chosen, level, self.cap - self.world.now)
            if chosen_plan is None:
                return
            self.came.used.append(place)
            base = self.world.base()
            said = confirmed(self.world, self.brief, self.noise, base, head, level, chosen_plan)
            if said.p_value is not None:
                self.came.claims = self.came.claims.after(said.p_value, level)
            if said.held:
                self.came.claimed, self.came.gain = True, head.gain
                self.came.shown = [effect for _, effect, _ in chosen]
                return


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
