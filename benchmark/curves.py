"""Early stops held against real training curves: how many losers they end, how many winners they cost, what they save.

    python benchmark/curves.py record [--window 5] [--each 60] [--wide 30] [--repeats 4] [--minutes 25]   see record.py
    python benchmark/curves.py [replay] [--write]

`replay` puts acceptance/curves.py's own rule over the recorded curves (results/curves.json.gz). An incumbent's band comes
from its repeated runs; a candidate is a variant's first run. The incumbent is the baseline or, so that there are enough
true winners, one of the weaker variants that were repeated. A true winner lies below the incumbent's mean by more than the
noise of the comparison explains (one-sided 5 %). Every variant counts at most once among the winners: against the strongest
incumbent that it truly beats, the closest call that the data hold. Edits whose losses cannot be compared are run to the end.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from small import RESULTS, machine, publish, table

from autoresearch_action.acceptance import curves
from autoresearch_action.acceptance.noise import pool, spread_of, t_quantile
from autoresearch_action.records import Measurement, Trial

FILE = RESULTS / "curves.json.gz"
NEEDED, MOST_LOST, FASTER = 60, 0.05, 1.3  # true winners for the bound; share of them lost; first looks per hour
GPU_TRIAL, GPU_TRAINING = 325.9, 300.1  # seconds of one experiment on an H100, autoresearch's own figures
BAND_RUNS = (2, 3, 4)


@dataclass(frozen=True)
class Run:
    """One recorded training, its curve on the clock that the harness reads."""

    id: int
    kind: str
    changes: str
    comparable: bool
    bpb: float | None
    curve: tuple[tuple[float, float], ...]

    def measurement(self) -> Measurement:
        trial = Trial(number=self.id, commit="", seed=self.id)
        return Measurement(trial=trial, outcome="ok" if self.bpb else "crash", value=self.bpb, curve=list(self.curve))


@dataclass(frozen=True)
class Incumbent:
    """Code with repeated runs."""

    name: str
    changes: str
    comparable: bool
    runs: tuple[Run, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(run.bpb for run in self.runs if run.bpb)

    def bands(self) -> list[Any]:
        """The rule's bands from 2, 3 and 4 of the runs: every choice of neighbours in time."""
        chosen = [self.runs[at : at + count] for count in BAND_RUNS for at in range(0, len(self.runs) - count + 1, count)]
        return [band for some in chosen if (band := curves.band([run.measurement() for run in some]))]


class Records:
    def __init__(self, file: Path = FILE) -> None:
        told = json.loads(gzip.decompress(file.read_bytes()))
        self.window, self.made, self.minutes = told["window"], told["made"], told["minutes"]
        cold = [first for first, _ in told["cold"]]
        self.start = statistics.fmean(cold)
        self.end = statistics.fmean(after for _, after in told["cold"])
        self.runs = []
        base = min(run["curve"][0][0] for run in told["runs"] if run["kind"] == "baseline")
        for run in told["runs"]:
            shift = cold[run["id"] % len(cold)] - base  # a cold start took this long; the recorder's forks did not
            curve = tuple((seconds + shift, loss) for seconds, loss in run["curve"])
            self.runs.append(Run(run["id"], run["kind"], json.dumps(run["changes"], sort_keys=True), run["comparable"], run["bpb"], curve))
        self.scored = statistics.median(run["scored"] for run in told["runs"] if run["bpb"])
        self.incumbents = self._incumbents()
        self.variants = self._variants()
        parts = [spread_of([run.bpb for run in incumbent.runs if run.bpb]) for incumbent in self.incumbents]
        variance, self.dof = pool(*parts)
        self.sigma = math.sqrt(variance)

    def _incumbents(self) -> list[Incumbent]:
        """The baseline and the repeated variants, whose first run, by which they were chosen, does not count. Best first."""
        groups: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            if run.kind in ("baseline", "repeat") and run.bpb:
                groups[run.changes].append(run)
        found = []
        for changes, runs in groups.items():
            if len(runs) >= 2:
                name = ", ".join(f"{key.split(':')[1]} {value}" for key, value in json.loads(changes).items()) or "the baseline"
                found.append(Incumbent(name, changes, runs[0].comparable, tuple(runs)))
        return sorted(found, key=lambda incumbent: incumbent.mean)

    def _variants(self) -> list[Run]:
        """The first run of each distinct code; of the baseline, which is an incumbent too, its first run."""
        first: dict[str, Run] = {}
        for run in self.runs:
            first.setdefault(run.changes, run)
        return list(first.values())

    def error(self, incumbent: Incumbent) -> float:
        """Standard error of a candidate's one run against the incumbent's mean."""
        return self.sigma * math.sqrt(1 + 1 / len(incumbent.runs))


@dataclass(frozen=True)
class Look:
    """One replayed first look: the gain in standard errors, and for each band the second at which it was stopped."""

    variant: Run
    incumbent: Incumbent
    gain: float
    comparable: bool
    stops: tuple[float | None, ...]

    @property
    def stopped(self) -> float:
        """Share of the bands that stop it."""
        return statistics.fmean(stop is not None for stop in self.stops) if self.comparable else 0.0


def early(run: Run) -> Run:
    return replace(run, curve=((0.0, run.curve[0][1]), *run.curve))


def replay(records: Records, from_start: bool = False) -> list[Look]:
    """Every variant against every incumbent but itself. `from_start`: a line at second 0 makes time count from there."""
    looks = []
    for incumbent in records.incumbents:
        bands = (replace(incumbent, runs=tuple(map(early, incumbent.runs))) if from_start else incumbent).bands()
        for run in records.variants:
            if run.changes == incumbent.changes:
                continue
            gain = (incumbent.mean - run.bpb) / records.error(incumbent) if run.bpb else -math.inf
            stops = tuple(curves.would_stop(band, early(run).curve if from_start else run.curve) for band in bands)
            looks.append(Look(run, incumbent, gain, run.comparable and incumbent.comparable, stops))
    return looks


def winners(records: Records, looks: Iterable[Look], least: float) -> list[Look]:
    """One look for each distinct variant: against the strongest incumbent that it beats by `least` standard errors."""
    chosen: dict[int, Look] = {}
    for look in looks:  # incumbents come best first
        if look.gain >= least and look.comparable:
            chosen.setdefault(look.variant.id, look)
    return list(chosen.values())


def lost(looks: Sequence[Look]) -> tuple[float, float]:
    """(expected number lost over the bands, upper 95 % bound on the share): the number is rounded up for the bound."""
    count = sum(look.stopped for look in looks)
    return count, curves.clopper_pearson(min(len(looks), math.ceil(count - 1e-9)), len(looks), 0.05)[1]


@dataclass(frozen=True)
class Saving:
    """What the rule saves on one incumbent's stream of first looks, exempt ones and audited ones included."""

    losers: int
    stopped: float
    training: float
    here: float  # factor in first looks per hour at this window's own overheads
    gpu: float  # … at those of an H100
    ideal: float  # … there, if every true loser that is not exempt, and nothing else, were stopped as soon as the rule looks

    @classmethod
    def of(cls, records: Records, looks: Sequence[Look], least: float) -> Saving:
        """Over looks that ended ok; a crash is as short with the rule as without."""
        looks = [look for look in looks if look.variant.bpb]
        losers = [look for look in looks if look.gain <= -least]
        rest = statistics.fmean(cls._left(records, look) for look in looks)  # share of the window that is not trained
        cut = statistics.fmean(look.stopped for look in looks) * (1 - curves.AUDIT_SHARE)
        known = statistics.fmean(look.comparable and look.gain <= -least for look in looks) * (1 - curves.START)
        whole = records.start + records.window + records.end + records.scored
        here = whole - rest * records.window - cut * (records.end + records.scored)
        gpu = GPU_TRIAL - rest * GPU_TRAINING
        share = statistics.fmean(look.stopped for look in losers) if losers else 0.0
        ideal = GPU_TRIAL / (GPU_TRIAL - known * GPU_TRAINING)
        return cls(len(losers), share, rest, whole / here, GPU_TRIAL / gpu, ideal)

    def cells(self) -> list[str]:
        factors = [f"{self.gpu:.2f}×", f"{self.ideal:.2f}×"]
        return [str(self.losers), f"{100 * self.stopped:.0f} %", f"{100 * self.training:.0f} %", *factors]

    @staticmethod
    def _left(records: Records, look: Look) -> float:
        if not look.comparable:
            return 0.0
        end = look.variant.curve[-1][0]
        spared = [0.0 if stop is None else max(0.0, end - stop) / records.window for stop in look.stops]
        return statistics.fmean(spared) * (1 - curves.AUDIT_SHARE)


def report(records: Records) -> list[str]:
    looks = replay(records)
    least = t_quantile(0.95, records.dof)
    plain = [look for look in looks if look.incumbent.name == "the baseline"]
    saving = Saving.of(records, plain, least)
    true = winners(records, looks, least)
    any_gain = winners(records, looks, 0.0)
    count, bound = lost(true)
    kinds = {kind: sum(run.kind == kind for run in records.runs) for kind in ("baseline", "random", "wide", "optuna", "repeat")}
    lines = [
        f"Recorded: {len(records.runs)} runs in {records.minutes:g} min of {records.window:g} s of training ({records.made}).",
        f"Of these {kinds['baseline']} baselines, {kinds['random']} random turns, {kinds['wide']} wide ones, {kinds['optuna']} of the",
        f"optuna agent and {kinds['repeat']} repeats of {len(records.incumbents) - 1} weaker variants;"
        f" {sum(run.bpb is None for run in records.runs)} crashed. A cold start takes {records.start:.1f} s",
        f"to the first step; hand-in {records.end:.1f} s, scoring {records.scored:.1f} s.",
        f"Noise of one run: σ = {records.sigma:.4f} bpb ({records.dof} degrees of freedom); a true winner is better by more than"
        f" {least:.2f} standard errors.",
        "",
    ]
    lines += table(
        ["target", "measured", "met"],
        [
            [f"true winners lost: ≤ {100 * MOST_LOST:.0f} %, upper 95 % bound", f"{count:.1f} of {len(true)}: ≤ {100 * bound:.1f} %",
             "yes, but not held out" if bound <= MOST_LOST else "no"],
            [f"distinct true winners: ≥ {NEEDED}", str(len(true)), _yes(len(true) >= NEEDED)],
            [f"more first looks per hour: ≥ {FASTER}×", f"{saving.here:.2f}× here, {saving.gpu:.2f}× at an H100's overheads",
             _yes(min(saving.here, saving.gpu) >= FASTER)],
        ],
    )  # fmt: skip
    lines += [
        f"Against the baseline: {100 * saving.stopped:.0f} % of {saving.losers} true losers are stopped, {100 * saving.training:.0f} % of",
        f"all training seconds saved ({sum(not look.comparable for look in plain)} of {len(plain)} edits are exempt,"
        f" {100 * curves.AUDIT_SHARE:.0f} % of the rest are run to the end",
        f"for the audit). At an H100's overheads: a stopped run pays all of the {GPU_TRIAL - GPU_TRAINING:.1f} s that are not training.",
        "",
        "## Winners, each variant once",
        "",
    ]
    far = [look for look in true if look.gain >= 2 * least]
    rows = []
    for name, some in (
        ("any gain, luck included", any_gain),
        ("true winners", true),
        ("… by less than twice that", [look for look in true if look.gain < 2 * least]),
        ("… by more", far),
        ("true winners among the wide edits, recorded last", [look for look in true if look.variant.kind == "wide"]),
        ("true winners, time from the process's start (as it was)", winners(records, replay(records, from_start=True), least)),
        ("true winners against the baseline", [look for look in plain if look.gain >= least and look.comparable]),
    ):
        count, bound = lost(some)
        rows.append([name, str(len(some)), f"{count:.1f}", f"{100 * bound:.1f} %" if some else "–"])
    ever = {look.variant.id for look in looks if look.gain >= least and look.stopped > 0}
    pairs = [look for look in looks if look.gain >= least and look.comparable]
    lines += table(["winners", "distinct", "lost", "upper 95 % bound"], rows)
    lines += [
        f"Lost is the mean over the incumbent's bands from {', '.join(map(str, BAND_RUNS))} runs, rounded up for the bound. All pairs of a",
        f"true winner and an incumbent that it beats: {len(pairs)}, of which {sum(look.stopped for look in pairs):.1f} lost;",
        f"{len(ever)} variants are lost to any band of any incumbent.",
        "",
        "Not held out: with time counted from the process's start, as the rule did first, the first 162 of these runs showed it to",
        "lose winners; its time was then counted from the first progress line, with all of their curves in view, both halves; the",
        "wide edits were not in view yet. Other constants were tried on the same curves (START 0.1 to 0.6, SPREADS 1 to 4,",
        "MARGIN 0.05, longer memory, margins from Student's t; some 40 settings) and none was adopted. The bound takes winners as",
        "independent, though nearly all of them are winners over the three weakest incumbents, by 0.07 bpb and more.",
        "",
        "## What it saves, by kind of edit, against the baseline",
        "",
    ]
    rows = []
    for kind in ("random", "wide", "optuna"):
        some = [look for look in plain if look.variant.kind == kind]
        told = Saving.of(records, some, least)
        median = statistics.median(look.gain for look in some) * records.error(plain[0].incumbent)
        rows.append(
            [kind, str(len(some)), str(sum(not look.comparable for look in some)), f"{median:+.3f}".replace("-", "−"), *told.cells()]
        )
    head = ["edits", "tried", "exempt", "median gain, bpb", "true losers", "stopped", "training saved", "first looks, H100", "ideal"]
    lines += table(head, rows)
    lines += [
        "Ideal: what a rule that stopped every true loser, and nothing else, as soon as it looks would give. True losers are rare",
        f"here: one run's noise after {records.window:g} s of training is as large as what most of these edits do.",
        "",
        "## Incumbents",
        "",
    ]
    rows = []
    for incumbent in records.incumbents:
        mine = [look for look in looks if look.incumbent is incumbent]
        told = Saving.of(records, mine, least)
        wins = [look for look in mine if look.gain >= least and look.comparable]
        won = [str(len(wins)), f"{sum(look.stopped for look in wins):.1f}"]
        rows.append([incumbent.name, f"{incumbent.mean:.4f}", str(len(incumbent.runs)), *won, *told.cells()])
    head = ["incumbent", "bpb", "runs", "true winners", "lost", "true losers", "stopped", "training saved", "first looks, H100", "ideal"]
    return lines + table(head, rows)


def _yes(met: bool) -> str:
    return "yes" if met else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", nargs="?", choices=["record", "replay"], default="replay")
    parser.add_argument("--window", type=float, default=5.0, help="record: seconds of training (default 5)")
    parser.add_argument("--each", type=int, default=60, help="record: random variants, and as many of optuna's (default 60)")
    parser.add_argument("--wide", type=int, default=30, help="record: variants that turn more literals, farther (default 30)")
    parser.add_argument("--repeats", type=int, default=4, help="record: runs of each weaker incumbent (default 4)")
    parser.add_argument("--minutes", type=float, default=25.0, help="record: most that it takes (default 25)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="replay: also write benchmark/results/curves.md")
    options = parser.parse_args()
    if options.task == "record":
        from record import record

        words = f"--window {options.window:g} --each {options.each} --wide {options.wide} --repeats {options.repeats} --seed {options.seed}"
        numbers = (options.window, options.each, options.wide, options.repeats, options.seed, options.minutes)
        record(*numbers, command=f"python benchmark/curves.py record {words}")
        return
    if not FILE.exists():
        sys.exit(f"{FILE} is not there: python benchmark/curves.py record")
    command = "python benchmark/curves.py replay" + " --write" * options.write
    rule = f"START {curves.START}, MARGIN {curves.MARGIN}, SPREADS {curves.SPREADS}, SMOOTHING {curves.SMOOTHING}"
    head = ["# Early stops on recorded curves", "", f"`{command}` ({machine()}); the rule: {rule}.", ""]
    publish("curves", head + report(Records()), options.write)


if __name__ == "__main__":
    main()
