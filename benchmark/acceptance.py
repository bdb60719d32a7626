"""Error rates, power and cost of acceptance rules, by simulation; see rules.py for what is
simulated.

    python benchmark/acceptance.py [--quick] [--seed 1] [--jobs N] [--write]

Prints tables of rules × noise kinds, with the issue's targets and whether ours meets them;
`--write` also puts them into benchmark/results/acceptance.md. The result depends on the seed alone,
not on the number of processes.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rules import ALL, HEAD, KINDS, RULES, SIZES, Night, World, confirmed

from autoresearch_action.acceptance.claims import Claims
from autoresearch_action.acceptance.early_stop import clopper_pearson
from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.brief import Brief

OURS, TOLD = "ours", "ours, told σ"
# Share of losers among the ideas that are no gain, and their effect in σ
LOSERS, LOSER = 0.25, -2.0
# Nights in a row, and the share of them that hold one true gain of a random size
NIGHTS, GOOD = 30, 0.1
RESULTS = Path(__file__).parent / "results" / "acceptance.md"


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    # Runs by number of experiments; of the other rules, whose rates are no close call, a fifth
    empty: dict[int, int]
    # Runs by size of gain; likewise, and half of ours told σ
    power: int
    # Of NIGHTS nights; likewise
    streams: int
    # Confirmations by true effect
    intervals: int

    def times(self, share: float) -> Size:
        """A share of it."""
        count = partial(_at_least_one, share)
        empty = {ideas: count(runs) for ideas, runs in self.empty.items()}
        return Size(empty, count(self.power), count(self.streams), count(self.intervals))


def _at_least_one(share: float, count: int) -> int:
    return max(1, round(share * count))


FULL = Size(empty={20: 2000, 100: 1500}, power=1200, streams=80, intervals=1500)
QUICK = Size(empty={20: 40, 100: 10}, power=15, streams=1, intervals=40)
# What, kind, rule, seed
Job = tuple[str, str, str, int]


def simulate(size: Size, job: Job) -> tuple[Job, dict[str, Any]]:
    """One cell of the tables."""
    what, kind, rule, seed = job
    rng = np.random.default_rng([seed, ALL.index(kind), sum(map(ord, what))])
    return job, {"empty": _empty, "power": _power, "nights": _nights, "intervals": _intervals}[
        what
    ](size, kind, rule, rng)


def _empty(size: Size, kind: str, rule: str, rng: np.random.Generator) -> dict[str, Any]:
    """Runs of experiments that do nothing: how many end in a claim."""
    found: dict[str, Any] = {}
    for length, most in size.empty.items():
        count = most if rule == OURS else -(-most // 5)
        claims = sum(
            RULES[rule](World(kind, rng, length), [0.0] * length, Night()).claimed
            for _ in range(count)
        )
        found[str(length)] = (claims, count)
    return found


def _ideas(rng: np.random.Generator, gain: float) -> list[float]:
    """Twenty ideas: one of this gain, the others nulls and losers."""
    ideas = [LOSER if loses else 0.0 for loses in rng.random(20) < LOSERS]
    ideas[int(rng.integers(20))] = gain
    return ideas


def _power(size: Size, kind: str, rule: str, rng: np.random.Generator) -> dict[str, Any]:
    """Runs of 20 ideas with one gain each: was it kept, was it claimed, and what did each decision
    cost.
    """
    kept, claimed, runs = dict.fromkeys(SIZES, 0), dict.fromkeys(SIZES, 0), 0
    trials: dict[float, list[int]] = {effect: [] for effect in (0.0, LOSER, *SIZES)}
    count = -(-size.power // {OURS: 1, TOLD: 2}.get(rule, 5))
    for gain in SIZES:
        for _ in range(count):
            night = RULES[rule](World(kind, rng, 20), _ideas(rng, gain), Night())
            kept[gain] += gain in night.kept
            claimed[gain] += night.claimed and gain in night.shown
            runs += night.runs
            for effect, counts in night.trials.items():
                trials[effect] += counts
    return {
        "kept": [kept[gain] / count for gain in SIZES],
        "claimed": [claimed[gain] / count for gain in SIZES],
        "trials": [
            sum(trials[effect]) / max(1, len(trials[effect])) for effect in (0.0, LOSER, 2.0)
        ],
        "runs": runs / (20 * len(SIZES) * count),
    }


def _nights(size: Size, kind: str, rule: str, rng: np.random.Generator) -> dict[str, Any]:
    """Nights in a row on one project: a claim is false where the claimed head is no better than the
    base.
    """
    claims = false = found = large = 0
    count = size.streams if rule == OURS else -(-size.streams // 5)
    for _ in range(count):
        last = Night()
        for _ in range(NIGHTS):
            gain = float(rng.choice(SIZES)) if rng.random() < GOOD else 0.0
            last = RULES[rule](World(kind, rng, 20), _ideas(rng, gain), last)
            claims += last.claimed
            false += last.claimed and last.gain <= 0
            large += gain >= 2
            found += gain >= 2 and last.claimed and last.gain > 0
    return {"claims": claims, "false": false, "found": found / max(1, large), "streams": count}


def _intervals(size: Size, kind: str, rule: str, rng: np.random.Generator) -> dict[str, Any]:
    """Confirmations of heads of known effect: does the interval cover it, over all and over those
    that held.
    """
    brief = Brief.model_validate(
        {"run": "true", "metric": "seconds" if kind == "log-normal timing" else "val_bpb"}
    )
    noise, level = Noise(sigma=1.0, dof=3, mean=100.0, runs=4), min(HEAD, Claims().level())
    rows: dict[str, Any] = {}
    for effect in (0.0, *SIZES):
        inside, held, inside_held, quoted, adjusted = 0, 0, 0, 0.0, 0.0
        for _ in range(size.intervals):
            world = World(kind, rng, 20)
            head = world.edit(world.base(), effect)
            said = confirmed(world, brief, noise, world.base(), head, level)
            covered = said.low is not None and said.low <= effect <= said.high
            inside += covered
            if said.held:
                held, inside_held = held + 1, inside_held + covered
                quoted, adjusted = quoted + said.estimate, adjusted + said.adjusted
        share = (inside_held / held, quoted / held, adjusted / held) if held else (math.nan,) * 3
        rows[f"{effect:g}"] = (inside / size.intervals, held / size.intervals, *share)
    return rows


# -- what is printed
# ------------------------------------------------------------------------------------------


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f}"


def bounded(hits: int, count: int) -> str:
    return f"{100 * hits / count:.1f} (≤ {100 * upper(hits, count):.1f})" if count else "no claim"


def upper(hits: int, count: int) -> float:
    return clopper_pearson(hits, count, 0.05)[1]


def table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def report(cells: dict[Job, dict[str, Any]], size: Size, seed: int) -> Iterator[str]:
    def cell(what: str, kind: str, rule: str) -> dict[str, Any]:
        return cells[what, kind, rule, seed]

    yield "## Targets for ours, met or missed by kind of noise (missed: bold)\n"
    yield from table(["target", *ALL], targets(cell, size))
    for length, count in size.empty.items():
        yield (
            f"## False claims in a run of {length} experiments that do nothing, % (upper 95 %"
            " bound, Clopper & Pearson)\n"
        )
        yield f"{count} runs per cell of ours, a fifth of the others'.\n"
        yield from table(
            ["rule", *ALL],
            ([r, *(bounded(*cell("empty", kind, r)[str(length)]) for kind in ALL)] for r in RULES),
        )
    yield (
        f"## False share of the claims over {NIGHTS} nights in a row, % (upper 95 % bound); claims"
        f" per {NIGHTS} nights\n"
    )
    yield (
        f"{size.streams} streams per cell of ours, a fifth of the others', {percent(1 - GOOD)} % of"
        " the nights empty, the rest with one"
    )
    yield (
        "gain of 0.5, 1, 2 or 4 σ. Last column: share of the gains of 2σ and more that were"
        " claimed, all kinds but seed-blind.\n"
    )
    rows = []
    for rule in RULES:
        nights = [cell("nights", kind, rule) for kind in ALL]
        found = [
            night["found"] for kind, night in zip(ALL, nights, strict=True) if kind != "seed-blind"
        ]
        told = [
            f"{bounded(n['false'], n['claims'])}; {n['claims'] / n['streams']:.1f}" for n in nights
        ]
        rows.append([rule, *told, percent(sum(found) / len(found))])
    yield from table(["rule", *ALL, "found"], rows)
    yield "## True improvements kept and claimed, %, and what a decision costs\n"
    yield (
        f"Runs of 20 ideas, one gain among them, a quarter of the others −2σ losers; {size.power}"
        " runs per size of gain of ours, half"
    )
    yield (
        "of them told σ, a fifth of the others'. Trials count reference runs too; `all` is every"
        " run of the night over its ideas,"
    )
    yield "with calibration, new incumbents' references and proof.\n"
    heads = [f"{what} {gain:g}σ" for what in ("kept", "claimed") for gain in SIZES]
    rows = []
    for kind in ALL:
        for rule in RULES:
            power = cell("power", kind, rule)
            costs = [f"{value:.2f}" for value in (*power["trials"], power["runs"])]
            rows.append([kind, rule, *map(percent, (*power["kept"], *power["claimed"])), *costs])
    yield from table(["noise", "rule", *heads, "trials: null", "−2σ", "2σ", "all"], rows)
    yield "## Coverage of the 95 % interval, %, by true effect\n"
    yield (
        f"{size.intervals} confirmations per row. Unconditional: over all of them. Where held: over"
        " those that were claimed, a selection"
    )
    yield (
        "that no interval is made for, with the mean of what is quoted, plain and adjusted for"
        " selection (in σ).\n"
    )
    rows = []
    for kind in KINDS:
        for effect, (inside, held, inside_held, *quoted) in cell("intervals", kind, OURS).items():
            means = [f"{value:.2f}" if held else "–" for value in quoted]
            rows.append(
                [
                    kind,
                    f"{effect}σ",
                    f"{100 * inside:.1f}",
                    percent(held),
                    percent(inside_held),
                    *means,
                ]
            )
    yield from table(
        ["noise", "true effect", "unconditional", "held", "where held", "quoted", "adjusted"], rows
    )


def targets(cell: Callable[[str, str, str], dict[str, Any]], size: Size) -> Iterator[list[str]]:
    """The issue's targets. Of a seed-blind program nothing can be told, so that power is not asked
    of that kind.
    """

    def row(
        target: str, value: Callable[[str], float | None], met: Callable[[float], bool], form: str
    ) -> list[str]:
        found = [value(kind) for kind in ALL]
        return [
            target,
            *(
                "–" if v is None else format(v, form) if met(v) else f"**{v:{form}}**"
                for v in found
            ),
        ]

    def power(kind: str, what: str, place: int, rule: str = OURS) -> float | None:
        return None if kind == "seed-blind" else float(cell("power", kind, rule)[what][place])

    def lost(kind: str, what: str) -> float | None:
        return max(
            (
                (power(kind, what, i, TOLD) or 0) - (power(kind, what, i) or 0)
                for i in range(len(SIZES))
            ),
            default=None,
        )

    def covered(kind: str) -> float | None:
        return (
            min(inside for inside, *_ in cell("intervals", kind, OURS).values())
            if kind in KINDS
            else None
        )

    for length in size.empty:
        name = f"false claims in {length} experiments ≤ 5 %, upper bound"
        yield row(
            name,
            lambda kind, n=str(length): upper(*cell("empty", kind, OURS)[n]),
            lambda v: v <= 0.05,
            ".1%",
        )  # type: ignore[misc]
    shares = {
        kind: (night["false"], night["claims"])
        for kind in ALL
        for night in [cell("nights", kind, OURS)]
    }
    yield row(
        f"false share over {NIGHTS} nights ≤ 10 %",
        lambda kind: shares[kind][0] / max(1, shares[kind][1]),
        lambda v: v <= 0.1,
        ".1%",
    )
    yield row(
        "2σ gains kept ≥ 90 %", lambda kind: power(kind, "kept", 2), lambda v: v >= 0.9, ".0%"
    )
    yield row(
        "2σ gains claimed ≥ 75 %",
        lambda kind: power(kind, "claimed", 2),
        lambda v: v >= 0.75,
        ".0%",
    )
    yield row(
        "1σ gains kept ≥ 60 %", lambda kind: power(kind, "kept", 1), lambda v: v >= 0.6, ".0%"
    )
    yield row(
        "trials on a null ≤ 2.0", lambda kind: power(kind, "trials", 0), lambda v: v <= 2, ".2f"
    )
    yield row(
        "trials on a −2σ loser ≤ 1.1",
        lambda kind: power(kind, "trials", 1),
        lambda v: v <= 1.1,
        ".2f",
    )
    yield row(
        "kept: most lost to not knowing σ ≤ 10 points",
        lambda kind: lost(kind, "kept"),
        lambda v: v <= 0.1,
        ".1%",
    )
    yield row(
        "claimed: most lost to not knowing σ ≤ 10 points",
        lambda kind: lost(kind, "claimed"),
        lambda v: v <= 0.1,
        ".1%",
    )
    yield row("coverage ≥ 93 %, worst true effect", covered, lambda v: v >= 0.93, ".1%")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: the same tables from few runs"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the full size")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--write", action="store_true", help=f"also write {RESULTS.relative_to(RESULTS.parents[2])}"
    )
    options = parser.parse_args()
    size, began = QUICK if options.quick else FULL.times(options.share), time.monotonic()
    jobs = [("nights", kind, rule, options.seed) for rule in RULES for kind in ALL]
    jobs += [
        (what, kind, rule, options.seed)
        for what in ("empty", "power")
        for rule in RULES
        for kind in ALL
    ]
    jobs += [("intervals", kind, OURS, options.seed) for kind in KINDS]
    # The longest first, so that no process waits for another at the end
    jobs.sort(key=lambda job: (job[2] != OURS, job[2] != TOLD))
    with multiprocessing.Pool(max(1, options.jobs)) as pool:
        cells = {}
        for job, cell in pool.imap_unordered(partial(simulate, size), jobs):
            cells[job] = cell
            if sys.stderr.isatty():
                print(
                    f"\r{len(cells)}/{len(jobs)} cells, {time.monotonic() - began:.0f} s",
                    end="",
                    file=sys.stderr,
                )
    command = (
        f"python benchmark/acceptance.py --seed {options.seed}"
        + " --quick" * options.quick
        + f" --share {options.share:g}" * (options.share != 1)
        + " --write" * options.write
    )
    seconds = time.monotonic() - began
    lines = [
        "# Acceptance rules by simulation\n",
        f"`{command}`: {seconds:.0f} s with {options.jobs} process(es).\n",
    ]
    text = "\n".join([*lines, *report(cells, size, options.seed)])
    print(text)
    if options.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
