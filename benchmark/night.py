"""A night of N trials: the true gain that the product's own rules prove, and what others keep.

    python benchmark/night.py [--quick] [--nights N] [--trials 60 250 700] [--jobs 1]

Ideas with known true effects come one after the other from a prior; every run costs one trial,
calibration and proof included, and all rules get the same number. Noise is independent or shared by
the runs of one seed. Ours is calibrate, WorthOfRuns, the proof and its reserve, driven run by run
(rules.py); its gain counts where the claim held. The others' is what they kept. Not covered: early
stops, trials side by side, an agent's own time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from rules import Night, World, night, two_sigma

# Share of gains and their mean size beyond LEAST, share of losses and theirs, in σ
PRIORS = {
    "neglected": (0.25, 3.0, 0.40, 3.0),
    "usual": (0.10, 2.0, 0.50, 3.0),
    "tuned": (0.03, 1.5, 0.50, 4.0),
    "subtle": (0.15, 0.7, 0.45, 1.5),
    "nothing": (0.0, 1.0, 0.0, 1.0),
}
LEAST = 0.25
NOISES = ("gaussian", "shared 0.5", "shared 0.8")
RULES = ("ours", "one lower run", "best of 3", "2σ of the baseline")


def ideas(prior: str, rng: np.random.Generator) -> Iterator[float]:
    gains, size, losses, loss = PRIORS[prior]
    while True:
        dice = rng.random()
        if dice < gains:
            yield LEAST + rng.exponential(size)
        elif dice < gains + losses:
            yield -LEAST - rng.exponential(loss)
        else:
            yield 0.0


def plain(rule: str, world: World, stream: Iterator[float], trials: int) -> dict[str, float]:
    """Another's rule until the trials are used up: what it kept is what it claims."""
    runs = 3 if rule == "best of 3" else 1
    code, kept, looked = world.base(), [], 0
    start = {"one lower run": 1, "best of 3": 3, "2σ of the baseline": 2}[rule]
    first = [world.measure(code, seed) for seed in range(start)]
    best = first
    while world.now + runs <= trials:
        effect = next(stream)
        looked += 1
        candidate = world.edit(code, effect)
        values = [world.measure(candidate, seed) for seed in range(runs)]
        two = rule == "2σ of the baseline"
        if two_sigma(values, best, first, []) if two else min(values) < min(best):
            code, best = candidate, values
            kept.append(effect)
    return told(code.gain, looked, kept, world.now, bool(kept))


def told(
    gain: float, looked: int, kept: list[float], trials: int, claimed: bool, proof: int = 0
) -> dict[str, float]:
    return {
        "gain": gain,
        "ideas": looked,
        "published": len(kept),
        "help": sum(effect > 0 for effect in kept),
        "trials": trials,
        "claimed": claimed,
        "false": claimed and gain <= 0,
        "proof": proof,
    }


def one(job: tuple[str, str, int, str, int]) -> dict[str, float]:
    noise, prior, trials, rule, seed = job
    dice = [seed, list(PRIORS).index(prior), NOISES.index(noise), trials]
    stream = ideas(prior, np.random.default_rng([*dice, 1]))
    world = World(noise, np.random.default_rng([*dice, 2]), trials)
    if rule != "ours":
        return plain(rule, world, stream, trials)
    came: Night = night(world, stream, Night(), trials)
    looks = came.search_trials / max(1, came.looked)
    facts = told(
        came.gain if came.claimed else 0.0,
        came.looked,
        came.shown,
        came.runs,
        came.claimed,
        came.proof,
    )
    return facts | {"kept gain": sum(came.kept), "a look": looks, "claims": bool(came.kept)}


def cells(found: dict[tuple[str, str, int, str], list[dict[str, float]]]) -> Iterator[str]:
    head = ["noise", "ideas", "trials", "plain σ", "ours σ", "ratio", "kept σ", "looked at",
            "trials a look", "proof", "held", "false", "help", "plain's help", "best of 3",
            "2σ"]  # fmt: skip
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    ratios: dict[int, list[float]] = {}
    for noise, prior, trials, rule in found:
        if rule != "ours":
            continue
        every: dict[str, Any] = {one: found[noise, prior, trials, one] for one in RULES}

        def mean(rule: str, what: str, every: dict[str, Any] = every) -> float:
            return statistics.fmean(night[what] for night in every[rule])

        def share(rule: str, every: dict[str, Any] = every) -> float:
            published = sum(night["published"] for night in every[rule])
            return sum(night["help"] for night in every[rule]) / published if published else 0.0

        ratio = mean("ours", "gain") / mean(RULES[1], "gain") if prior != "nothing" else math.nan
        if prior != "nothing":
            ratios.setdefault(trials, []).append(ratio)
        row = [noise, prior, f"{trials}", f"{mean(RULES[1], 'gain'):.2f}"]
        row += [f"{mean('ours', 'gain'):.2f}", f"{ratio:.2f}", f"{mean('ours', 'kept gain'):.2f}"]
        row += [f"{mean('ours', 'ideas'):.0f}", f"{mean('ours', 'a look'):.2f}"]
        row += [f"{mean('ours', 'proof'):.1f}", f"{mean('ours', 'claimed'):.0%}"]
        row += [f"{mean('ours', 'false'):.1%}", f"{share('ours'):.0%}", f"{share(RULES[1]):.0%}"]
        row += [f"{mean(RULES[2], 'gain'):.2f}", f"{mean(RULES[3], 'gain'):.2f}"]
        yield "| " + " | ".join(row) + " |"
    for trials, values in ratios.items():
        worst, average = min(values), statistics.fmean(values)
        yield f"\n{trials} trials: ours to plain {average:.2f} on average, {worst:.2f} at worst"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few nights of 60 and 250 trials")
    parser.add_argument("--nights", type=int, default=0, help="a cell")
    parser.add_argument("--trials", type=int, nargs="+", default=[])
    parser.add_argument("--priors", nargs="+", default=list(PRIORS))
    parser.add_argument("--noises", nargs="+", default=list(NOISES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    nights = options.nights or (6 if options.quick else 100)
    lengths = options.trials or ([60, 250] if options.quick else [60, 250, 700])
    began = time.monotonic()
    jobs = [
        (noise, prior, trials, rule, 1000 * options.seed + place)
        for trials in lengths
        for noise in options.noises
        for prior in options.priors
        for rule in RULES
        for place in range(nights)
    ]
    found: dict[tuple[str, str, int, str], list[dict[str, float]]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for job, facts in zip(jobs, pool.map(one, jobs, chunksize=4), strict=True):
            found.setdefault(job[:4], []).append(facts)
    print(f"{nights} nights a cell\n")
    print("\n".join(cells(found)))
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
