"""Noise: how far two runs of the same code differ, learnt from few baseline replicates and from
every run since.

Covers calibration and whether seeds matter at all. What a gain of a given size takes is
forecast.py's. Does not decide about any candidate (keep.py) and claims nothing (confirm.py). Pure:
dice come from seeds that the caller gives.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from autoresearch_action.acceptance import NeedRuns, RunRequest
from autoresearch_action.acceptance.repeats import coarse, repeating
from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError
from autoresearch_action.records import Measurement, Record

# Runs before seeds are known to matter
FIRST = 2
# Replicates of the baseline in the usual case
ENOUGH = 4
# … where one of them lies far off, or all are equal
MOST = 6
# Progress lines within which different seeds must show
EARLY = 12
# Between the two looks of a confirmation
MORE_PAIRS = 3
# Of a decimal logarithm: nearer to a whole number it is taken for a power of ten
JUMP = 0.15


class Noise(Record):
    """What is known of the metric's spread. All in the metric's unit; `dof` 0: the spread was not
    seen (exact).
    """

    # Standard deviation of single runs, over seeds and the machine's moods
    sigma: float
    dof: int
    # Of the baseline
    mean: float
    runs: int = 0
    # Of σ², what runs of one seed have in common, and what the machine wanders by in a trial
    shared: float = 0.0
    wander: float = 0.0
    # σ of the calibration, and the log-likelihoods of shares and sigmas that belief.py weighs
    unit: float | None = None
    evidence: list[list[float]] = []
    # The machine drifts: the metric is a time
    drift: bool = False
    # … and varies by its size: effects are ratios
    ratios: bool = False
    exact: bool = False
    # Seeds have no effect: a lucky draw cannot be told from a gain, nothing may be claimed
    blind: bool = False
    # … had none until literal seeds were replaced in the trial's copy
    reseed: bool = False
    # Different seeds gave the same draw, as where a seed picks a fold
    repeats: bool = False
    # Values tie by chance, so that only pairs tell draws apart
    coarse: bool = False
    notes: list[str] = []

    @property
    def spread(self) -> float:
        """`sigma` in the unit of effects."""
        return self.sigma / self.mean if self.ratios else self.sigma

    def seen(self, value: float) -> float:
        """A value in the unit of effects: its logarithm where these are ratios."""
        return math.log(max(value, 1e-9 * self.mean)) if self.ratios else value

    def gain(self, effect: float, value: float, sign: int) -> float:
        """An effect on an incumbent's `value` in the metric's unit, both > 0 better."""
        return sign * value * math.expm1(sign * effect) if self.ratios else effect

    def reserve_pairs(self, level: float = 0.025) -> int:
        """Pairs to keep time for: both looks of one confirmation at `level`."""
        return 1 if self.exact or self.blind else first_look(level) + MORE_PAIRS

    def describe(self) -> str:
        """In a few words, for the verdict on the baseline and the report."""
        if self.exact:
            return "an exact metric: one run decides"
        share = f" ({100 * self.spread:.2g} %)" if self.ratios else ""
        told = f"σ = {self.sigma:.3g}{share} over {self.runs} runs"
        if self.blind:
            return f"{told}; seeds have no effect on it, so nothing can be claimed"
        return (
            told
            + ("; literal seeds replaced" if self.reseed else "")
            + ("; values repeat over seeds" if self.repeats else "")
            + ("; the machine drifts" if self.drift else "")
        )


def good(runs: Iterable[Measurement]) -> list[float]:
    """Values of the runs that gave one."""
    return [run.value for run in runs if run.outcome == "ok" and run.value is not None]


def pairs(
    candidate: Iterable[Measurement], incumbent: Iterable[Measurement]
) -> list[tuple[float, float]]:
    """(candidate, incumbent) values of the seeds that both have run, in the candidate's order."""
    base = {run.trial.seed: run.value for run in incumbent if run.outcome == "ok"}
    found = []
    for run in candidate:
        other = base.pop(run.trial.seed, None) if run.outcome == "ok" else None
        if other is not None and run.value is not None:
            found.append((run.value, other))
    return found


def sample_variance(values: Sequence[float]) -> tuple[float, int]:
    """(variance, degrees of freedom) of a sample; (0, 0) for fewer than two."""
    if len(values) < 2:
        return 0.0, 0
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1), len(values) - 1


def pool(*parts: tuple[float, int]) -> tuple[float, int]:
    """Pooled (variance, degrees of freedom) of independent estimates."""
    dof = sum(n for _, n in parts)
    return (math.fsum(v * n for v, n in parts) / dof if dof else 0.0), dof


def derive(seed: int, *path: int | str) -> int:
    """A seed below 2³¹ − 1 for one run, from the run's dice and its place."""
    text = ":".join(map(str, (seed, *path))).encode()
    return (zlib.crc32(text) * 2654435761 + zlib.adler32(text)) % (2**31 - 1)


def first_look(level: float) -> int:
    """Pairs at the first look of a confirmation: enough sign flips to reach `level`, and one more
    for its power.
    """
    return min(16, max(1, math.ceil(math.log2(1 / level) - 1e-9))) + 1


@lru_cache(maxsize=4096)
def t_quantile(probability: float, dof: int) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, probability))


def calibrate(
    baseline: Sequence[Measurement], brief: Brief, seed: int = 0, known: Noise | None = None
) -> NeedRuns | Noise:
    """Ask for baseline runs until the noise is known well enough to begin; then the Noise.

    `known` is the noise of an earlier run with equal device, base and data: then two runs are
    enough. Raises InputError where a limit names a metric that the baseline does not print.
    """
    runs = [run for run in baseline if run.outcome == "ok" and run.value is not None]
    reseed = any(run.trial.reseed for run in runs)
    used = [run for run in runs if run.trial.reseed == reseed]
    values = good(used)
    _limits_printed(used, brief)

    def ask(total: int, reseeded: bool = reseed, have: int = len(used)) -> NeedRuns:
        wants = (
            RunRequest("base", derive(seed, "baseline", reseeded, index))
            for index in range(have, total)
        )
        return NeedRuns(tuple(wants), reseed=reseeded)

    if len(used) < FIRST:
        return ask(FIRST)
    if brief.exact:
        if len(set(values)) == 1:
            return Noise(sigma=0.0, dof=0, mean=values[0], runs=len(values), exact=True)
    elif blind(used):
        if not reseed:
            # Equal values alone may be coarse, or one fold drawn twice
            short = not curves_told(used) and len(used) < ENOUGH
            return ask(ENOUGH) if short else ask(FIRST, reseeded=True, have=0)
        if not curves_told(used) and len(used) < ENOUGH and _reseeded(used):
            return ask(ENOUGH)
        return _noise(runs, brief, blind=True)
    if len(used) < (FIRST if known else ENOUGH):
        return ask(ENOUGH)
    if len(used) < MOST and not known and _unsettled(values):
        return ask(MOST)
    noise = _noise(used, brief, reseed=reseed)
    if known and not known.exact:
        variance, dof = pool((noise.sigma**2, noise.dof), (known.sigma**2, known.dof))
        learnt = known.model_dump(include={"shared", "wander", "unit", "evidence"})
        noise = noise.model_copy(update=learnt | {"sigma": math.sqrt(variance), "dof": dof})
    return noise


def blind(runs: Sequence[Measurement]) -> bool:
    """Whether different seeds made no difference: equal training curves, or, without curves, equal
    values.

    Early progress lines are compared one by one, because later ones differ by the machine's timing
    alone. A run that says `censored: 1` did not reach its target; equal values then say nothing.
    """
    if len({run.trial.seed for run in runs}) < 2:
        return False
    if length := curves_told(runs):
        curves = [[loss for _, loss in run.curve[:length]] for run in runs]
        return all(_close(curve, curves[0]) for curve in curves[1:])
    return len({run.value for run in runs}) == 1 and not any(
        run.metrics.get("censored") for run in runs
    )


def curves_told(runs: Sequence[Measurement]) -> int:
    """Early progress lines by which seeds can be told apart; 0 where values alone must do."""
    length = min(len(run.curve[:EARLY]) for run in runs)
    return length if length >= 3 else 0


def _reseeded(runs: Sequence[Measurement]) -> bool:
    return any(note.startswith("reseeded ") for run in runs for note in run.notes)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(one, other, strict=True))


def _unsettled(values: Sequence[float]) -> bool:
    """Whether one value lies far from the others, or all are equal though the metric is said to be
    noisy.
    """
    if len(set(values)) == 1:
        return True
    middle = statistics.median(values)
    off = sorted(abs(value - middle) for value in values)
    return off[-1] > 6 * max(statistics.median(off[:-1]), 1e-12 * abs(middle))


def _noise(
    runs: Sequence[Measurement], brief: Brief, reseed: bool = False, blind: bool = False
) -> Noise:
    ordered = good(sorted(runs, key=lambda run: run.started))
    variance, dof = sample_variance(ordered)
    repeats = not blind and repeating(ordered)
    return Noise(
        sigma=math.sqrt(variance),
        dof=dof,
        mean=statistics.fmean(ordered),
        runs=len(ordered),
        drift=brief.measures_time,
        ratios=brief.measures_time and min(ordered) > 0,
        blind=blind,
        reseed=reseed,
        repeats=repeats,
        coarse=coarse(ordered),
        notes=[*_notes(ordered, brief, blind, repeats)],
    )


def _notes(values: Sequence[float], brief: Brief, blind: bool, repeats: bool) -> Iterator[str]:
    """What is odd about values of one code, and what to do about it."""
    if brief.exact:
        yield "`exact: true`, but two runs of the same code differ: measured as noisy"
    if blind:
        yield (
            f"all {len(values)} runs gave the same value or curve: say `exact: true` where the"
            " program is deterministic; print more digits or score more cases where the value is"
            " coarse"
            if len(set(values)) == 1
            else "seeds do not change the training curve"
        )
    if repeats:
        yield (
            f"{len(values)} seeds gave {len(set(values))} different values, as where a seed picks"
            " one of a few folds: only draws that the search has not seen can prove anything"
        )
    sizes = [abs(value) for value in values if value]
    jump = math.log10(max(sizes) / min(sizes)) if sizes else 0.0
    if jump > 0.85 and abs(jump - round(jump)) < JUMP:
        yield (
            f"runs of the same code differ by a power of ten ({min(sizes):.6g} and"
            f" {max(sizes):.6g}): are units mixed, or commas of a locale?"
        )


def _limits_printed(runs: Sequence[Measurement], brief: Brief) -> None:
    for name in brief.limits:
        if runs and not any(name in run.metrics for run in runs):
            raise InputError(
                f"`limits` names {name}, which the baseline does not print: print it, or take the"
                " limit out."
            )
