"""The rules hold what they state: error rates, exact tests, and as few runs as possible, over random streams.

Covers calibration, screen, confirmation and the stream of claims, exactly where that can be had, else by seeded simulation.
The full tables are benchmark/acceptance.py's and, for early stops on real curves, benchmark/curves.py's. Not covered: the order of
calls (research/search.py, confirmation.py).
"""

from __future__ import annotations

import itertools
import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import zeta
from scipy.stats import binom, permutation_test, t

from autoresearch_action.acceptance import Decision, NeedRuns, RunRequest, early_stop
from autoresearch_action.acceptance.claims import CAP, Claims, next_slice, reuse_level
from autoresearch_action.acceptance.confirm import PairedConfirmation, trained_longer
from autoresearch_action.acceptance.drift import level
from autoresearch_action.acceptance.forecast import runs_needed
from autoresearch_action.acceptance.keep import BESIDE_KEEP, DISCARD, FRESH, KEEP, SequentialScreen
from autoresearch_action.acceptance.noise import Evidence, Noise, calibrate
from autoresearch_action.acceptance.sign_flip import interval, stagewise
from autoresearch_action.brief import Brief
from autoresearch_action.records import Measurement, Trial

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmark"))
import acceptance
import rules

NOISE = Noise(sigma=1.0, dof=3, mean=100.0, runs=4)
NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 3))


def brief(**facts: Any) -> Brief:
    return Brief.model_validate({"run": "true", "metric": "val_bpb", "goal": "minimize"} | facts)


def run(
    value: float, seed: int, number: int = 1, asked_by: int = 1, started: float = 0.0, **facts: Any
) -> Any:
    return rules.Run(
        number,
        seed,
        "head" if number else "base",
        asked_by,
        facts.pop("reseed", False),
        value,
        started,
        **facts,
    )


def incumbent(*values: float, **facts: Any) -> list[Any]:
    return [run(value, 100 + i, 0, 0, float(i), **facts) for i, value in enumerate(values)]


def unlikely(hits: int, count: int, rate: float) -> bool:
    return bool(binom.sf(hits - 1, count, rate) < 1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(NUMBERS, min_size=3, max_size=8))
def test_one_look_is_scipys_exact_permutation_test(gains: list[float]) -> None:
    theirs = permutation_test(
        (gains,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert stagewise(gains, (len(gains),), 0.05).p_value == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize(("looks", "level"), [((8,), 0.05), ((6, 8), 0.05), ((6, 8), 0.1)])
def test_two_looks_spend_the_level_exactly(looks: tuple[int, ...], level: float) -> None:
    sizes, values, claims, early = np.random.default_rng(1).uniform(1, 2, looks[-1]), [], 0, 0
    for signs in itertools.product((1, -1), repeat=looks[-1]):
        for last in range(1, len(looks) + 1):
            said = stagewise(
                list(sizes * signs)[: looks[last - 1]], looks[:last], level, last=last == len(looks)
            )
            if said.rejected:
                break
        claims, early = claims + said.rejected, early + (said.rejected and last < len(looks))
        values.append(said.p_value)
    assert early == (
        4 * int(0.6 * level * 64) if len(looks) > 1 else 0
    )  # FIRST_SHARE of the level, in 2⁶ patterns of 2⁸
    assert claims == int(level * len(values)) and all(
        np.mean(np.array(values) <= at) <= at for at in values
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(NUMBERS, min_size=6, max_size=8))
def test_the_interval_is_what_the_two_sided_test_does_not_reject(gains: list[float]) -> None:
    low, high = interval(gains)
    for effect in np.linspace(min(gains) - 1, max(gains) + 1, 31):
        if min(abs(effect - low), abs(effect - high)) > 1e-6:
            tails = [
                stagewise([sign * (gain - effect) for gain in gains], (len(gains),), 0.025).rejected
                for sign in (1, -1)
            ]
            assert any(tails) == (not low < effect < high)


@pytest.mark.parametrize(
    "kind", ["gaussian", pytest.param("student t3", marks=pytest.mark.battery), "log-normal timing"]
)
def test_a_confirmation_holds_its_level_and_its_interval_covers(kind: str) -> None:
    rng, level, count = np.random.default_rng(2), 0.022, 2500
    claims = covered = 0
    for i in range(count):
        world = rules.World(kind, rng, 20)
        claims += rules.confirmed(world, brief(), NOISE, world.base(), world.base(), level).held
        said = (
            rules.confirmed(world, brief(), NOISE, world.base(), rules.Code(1.0, 0), level)
            if i % 2
            else None
        )
        covered += said is not None and said.low <= 1.0 <= said.high
    assert claims > count * level / 2 and not unlikely(claims, count, level), (
        "it spends what it may, and no more"
    )
    assert not unlikely(count // 2 - covered, count // 2, 0.07)


def confirm(
    rule: PairedConfirmation, measure: Any, known: tuple[Any, ...] = ()
) -> tuple[Any, list[Any], list[RunRequest]]:
    runs, asked = list(known), []
    while isinstance(said := rule.decide(runs), NeedRuns):
        asked += said.runs
        runs += [measure(want) for want in said.runs]
    return said, runs, asked


def measured(want: RunRequest, gain: float = 5.0, **facts: Any) -> Any:
    value = 100 + 30 * want.seed / 2**31 - gain * (want.side == "head")
    return rules.Run(0, want.seed, want.side, 0, False, value, 0.0, **facts)


def test_a_time_falls_by_less_than_all_of_itself() -> None:
    """A base whose runs differ by a third, and a head that is forty times faster."""

    def timed(want: RunRequest) -> Any:
        value = (0.02 + 0.01 * want.seed / 2**31) / (40 if want.side == "head" else 1)
        return rules.Run(0, want.seed, want.side, 0, False, value, 0.0)

    rule = PairedConfirmation(brief(metric="seconds"), NOISE, seed=3)
    said, _, _ = confirm(rule, timed)
    assert 0.97 * said.baseline < said.low
    assert said.high < said.baseline


def test_a_confirmation_runs_fresh_pairs_in_random_order_on_its_slice_and_goes_on_after_a_kill() -> (
    None
):
    first = 0
    for seed in range(200):
        said, runs, asked = confirm(
            PairedConfirmation(brief(), NOISE, seed=seed, slice=7), measured
        )
        assert said.held and said.pairs == 7 and {want.slice for want in asked} == {7}
        assert [want.seed for want in asked[::2]] == [want.seed for want in asked[1::2]]
        assert len({(want.side, want.seed) for want in asked}) == len(asked) == 14
        assert confirm(
            PairedConfirmation(brief(), NOISE, seed=seed, slice=7), measured, tuple(runs[:5])
        ) == (said, runs, asked[5:])
        first += asked[0].side == "base"
    assert 70 < first < 130


def test_a_head_that_trains_longer_where_it_is_confirmed_is_not_held() -> None:
    timed = brief(**{"time-budget": 20.0})
    rule = PairedConfirmation(timed, NOISE, seed=1)
    wants = rule.decide([]).runs
    for longer, held in ((0.0, True), (0.005, True), (0.03, False)):
        clocks = {"base": 20.0, "head": 20.0 * (1 + longer)}
        runs = (measured(want, clock=clocks[want.side] + want.seed % 5 / 100) for want in wants)
        said = rule.decide(list(runs))
        assert said.held is held and ("trained longer, 20.6" in said.reason) is not held, (
            said.reason
        )
    pairs = [
        (SimpleNamespace(clock=20.0 + i % 3), SimpleNamespace(clock=20.3 + i % 4)) for i in range(7)
    ]
    assert trained_longer(pairs) == "", "the spread explains it"  # type: ignore[arg-type]


def test_what_cannot_be_claimed() -> None:
    def outcome(side: str, seed: int | None = None, gain: float = 5.0) -> tuple[bool, int]:
        said, runs, _ = confirm(
            rule,
            lambda w: measured(
                w, gain, outcome="crash" if w.side == side and seed in (None, w.seed) else "ok"
            ),
        )
        return said.held, len(runs)

    rule = PairedConfirmation(brief(), NOISE, seed=1)
    one = rule.decide([]).runs[0].seed
    assert not outcome("", gain=0.0)[0] and not outcome("", gain=-5.0)[0]
    assert outcome("head", one) == outcome("base") == (False, 14)
    assert outcome("base", one) == (True, 16), "a pair that lacks its base is replaced"
    for pairs, held in ((0, False), (4, False), (6, True)):  # 2⁻⁴ is above the level, 2⁻⁶ below
        assert (
            confirm(PairedConfirmation(brief(), NOISE, seed=1, max_pairs=pairs), measured)[0].held
            is held
        )
    assert not PairedConfirmation(brief(), NOISE, seed=1, max_pairs=4).decide([]).held, (
        "and runs nothing in vain"
    )
    blind = PairedConfirmation(brief(), NOISE.model_copy(update={"blind": True}), seed=1).decide([])
    assert not blind.held and "seeds have no effect" in blind.reason


def test_limits_hold_in_screen_and_confirmation() -> None:
    limited = brief(limits={"memory": "<= 10"})
    for memory, held in ((9.0, True), (20.0, False)):
        printed = {"memory": memory}
        assert (
            confirm(PairedConfirmation(limited, NOISE, seed=1), partial(measured, metrics=printed))[
                0
            ].held
            is held
        )
        mine = [run(90.0 + i, 100 + i, metrics=printed) for i in range(3)]
        base = incumbent(100.0, 100.1, 99.9, 100.2, metrics={"memory": 9.0})
        assert SequentialScreen(limited, NOISE, 1).decide(mine, base).status == (
            "keep" if held else "discard"
        )
    noisy = [
        run(90.0 + i, 100 + i, metrics={"memory": memory})
        for i, memory in enumerate((5.0, 16.0, 10.5))
    ]
    assert isinstance(SequentialScreen(limited, NOISE, 1).decide(noisy, base), NeedRuns), (
        "over it within the noise: neither kept nor gone"
    )
    assert (
        SequentialScreen(limited, NOISE, 1)
        .decide([run(90.0, 100)], base)
        .reason.startswith("memory has a limit")
    )


def test_a_screen_costs_little_and_misses_little() -> None:
    size = acceptance.Size(empty={20: 400}, power=150, streams=0, intervals=0)
    _, power = acceptance.simulate(size, ("power", "gaussian", "ours", 3))
    assert power["trials"][0] < 2.2 and power["trials"][1] < 1.12 and power["runs"] < 4.5
    assert power["kept"][3] > 0.96 and power["kept"][2] > 0.85 and power["claimed"][2] > 0.75
    for kind in ("gaussian", "student t3", "log-normal timing", "pairing breaks", "seed-blind"):
        claims, runs = acceptance.simulate(size, ("empty", kind, "ours", 3))[1]["20"]
        assert not unlikely(claims, runs, 0.04 if kind != "seed-blind" else 1e-9)
    assert (
        acceptance.simulate(size, ("empty", "gaussian", "one lower run", 3))[1]["20"][0] > 0.85 * 80
    )


@pytest.mark.parametrize("kind", rules.DRIFTING)
def test_a_screen_costs_little_and_misses_little_where_the_machine_drifts(kind: str) -> None:
    size = acceptance.Size(empty={20: 100}, power=80, streams=0, intervals=0)
    _, power = acceptance.simulate(size, ("power", kind, "ours", 3))
    assert (
        power["trials"][0] < 2.05
        and power["trials"][1] < 1.13
        and power["kept"][2] > 0.75
        and power["kept"][3] > 0.95
    )
    claims, runs = acceptance.simulate(size, ("empty", kind, "ours", 3))[1]["20"]
    assert not unlikely(claims, runs, 0.04)


def test_one_run_ends_a_loser_and_doubt_asks_on_the_incumbents_seeds() -> None:
    base = incumbent(100.5, 99.5, 100.2, 99.8)
    rule = SequentialScreen(brief(), NOISE, 1)
    assert (
        rule.decide([run(102.0, 100)], base).reason
        == "worse than the incumbent by 2.0σ after 1 run, stopped"
    )
    assert (
        SequentialScreen(brief(goal="maximize"), NOISE, 1).decide([run(104.0, 100)], base).status
        == "keep"
    )
    assert rule.decide([], base) == NeedRuns((RunRequest("head", 100),))
    mine, wants = [run(99.4, 100)], []
    while isinstance(answer := rule.decide(mine, base), NeedRuns):
        wants += [want for want in answer.runs if want.side == "head"]
        base += [run(100.0, want.seed, 0, 1) for want in answer.runs if want.side == "base"]
        mine.append(run(99.4, wants[-1].seed))
    assert len({r.seed for r in mine}) == len(mine) <= len(KEEP) and [
        want.seed for want in wants[:3]
    ] == [101, 102, 103]
    assert {want.seed for want in wants} < {r.seed for r in base} and len(base) == max(5, len(mine))


def test_a_new_incumbent_is_not_judged_by_the_runs_that_made_it_one() -> None:
    lucky, rule = [run(90.0, 100 + i, 3, 3) for i in range(4)], SequentialScreen(brief(), NOISE, 1)
    asked = rule.decide([], lucky)
    assert [want.side for want in asked.runs] == ["base"] * FRESH + ["head"]
    fresh = [run(100.0 + i / 10, want.seed, 3, 4) for i, want in enumerate(asked.runs[:FRESH])]
    assert rule.decide([run(95.0, fresh[0].seed, 4, 4)], lucky + fresh).status == "keep"


DRIFTS = NOISE.model_copy(update={"drift": True, "dof": 12})


@settings(max_examples=60, deadline=None)
@given(st.floats(50, 150), st.lists(st.floats(50, 150), min_size=1, max_size=4), st.floats(0, 40))
def test_stored_runs_may_reject_but_never_keep_where_the_machine_drifts(
    value: float, stored: list[float], age: float
) -> None:
    rule, base = SequentialScreen(brief(metric="seconds"), DRIFTS, 1), incumbent(*stored)
    answer = rule.decide([run(value, 500, started=len(stored) + age)], base)
    if isinstance(answer, Decision):
        assert answer.status == "discard" and value > np.median(stored) - 0.5
    else:
        assert answer == NeedRuns((RunRequest("base", 500),)) and value < np.median(stored) + 0.5


def test_a_keep_where_the_machine_drifts_rests_on_runs_beside_it() -> None:
    rule, base = (
        SequentialScreen(brief(metric="seconds"), DRIFTS, 1),
        incumbent(100.5, 99.5, 100.2, 99.8),
    )
    mine = [run(96.0, 500, started=4.0)]
    assert rule.decide(mine, [*base, run(100.0, 500, 0, 1, 5.0)]).status == "keep"
    assert isinstance(rule.decide(mine, [*base, run(96.5, 500, 0, 1, 5.0)]), NeedRuns), (
        "the machine is faster, and the candidate no better"
    )
    assert rule.decide(mine, [*base, run(92.0, 500, 0, 1, 5.0)]).status == "discard"


def test_a_row_of_losers_asks_the_machine_and_a_step_begins_the_level_anew() -> None:
    base = incumbent(100.5, 99.5, 100.2, 99.8)
    row = [run(104.0 + i % 2, 600 + i, 1 + i, 1 + i, 4.0 + i) for i in range(3)]
    mine = [run(101.5, 500, 9, 9, 8.0)]

    def decide(siblings: list[Any], references: list[Any], runs: list[Any] = mine) -> Any:
        return SequentialScreen(brief(metric="seconds"), DRIFTS, 1, siblings).decide(
            runs, references
        )

    assert (
        decide([], base).status == "discard"
        and decide([run(100.2, 600, 1, 1, 4.0)], base).status == "discard"
    )
    assert decide(row, base, [run(105.0, 500, 9, 9, 8.0)]).status == "discard", (
        "no better than the row"
    )
    assert decide(row, base) == NeedRuns((RunRequest("base", 500),)), (
        "it stands out of a row that looks like a step"
    )
    assert decide(row, [*base, run(100.0, 500, 0, 9, 9.0)]).status == "discard", (
        "the row were losers after all"
    )
    slow = [*base, run(104.0, 500, 0, 9, 9.0)]
    assert level(DRIFTS, slow, row, -1).value == 104.0 != level(DRIFTS, slow, [], -1).value, (
        "a smaller surprise is enough after a row"
    )
    assert decide(row, slow).status == "keep"
    judged = SequentialScreen(
        brief(metric="seconds"), DRIFTS, 1, [*row, run(102.0, 603, 4, 4, 7.0), *mine]
    )
    assert judged.misjudged(mine, slow) == [4], (
        "better than the incumbent on the slower machine, and not looked at yet"
    )
    limited = SequentialScreen(
        brief(metric="seconds", limits={"mb": 5}), DRIFTS, 1, judged.siblings
    )
    assert limited.misjudged(mine, slow) == [], "its limit was broken whatever the machine"
    assert (
        judged.misjudged(mine, [*base, run(100.0, 500, 0, 9, 9.0)])
        == judged.misjudged(mine, base)
        == []
    )
    later = [run(102.0, 700, 10, 10, 10.0)]
    assert decide(row + mine, slow, later) == NeedRuns((RunRequest("base", 700),)), (
        "those that follow profit"
    )
    assert decide(row + mine, [*base, run(100.0, 500, 0, 9, 9.0)], later).status == "discard"


def test_a_screen_where_the_machine_drifts_goes_on_after_a_kill() -> None:
    rng = np.random.default_rng(1)
    firsts = 0
    for seed in range(200):
        rule, base = (
            SequentialScreen(brief(metric="seconds"), DRIFTS, seed),
            incumbent(101.0, 100.0, 100.7, 100.3),
        )
        mine, now = [run(99.2, 500, started=4.0)], 5.0
        while isinstance(answer := rule.decide(mine, base), NeedRuns):
            firsts += len(answer.runs) == 2 and answer.runs[0].side == "base"
            for want in answer.runs[
                : rng.integers(1, 3)
            ]:  # half of the pairs lose their second run
                value = float(rng.normal(99.6 if want.side == "base" else 99.2, 0.3))
                assert want.seed not in {r.seed for r in (mine if want.side == "head" else base)}
                (base if want.side == "base" else mine).append(
                    run(value, want.seed, int(want.side == "head"), 1, now)
                )
                now += 1
        beside = len([r for r in base if r.asked_by])
        assert len(mine) <= len(BESIDE_KEEP) and (
            beside == len(mine) - 1 or beside == len(mine) == 1
        ), "never judged on half a pair"
    assert firsts > 5


def test_an_edit_without_effect_is_told_by_equal_values_on_shared_seeds() -> None:
    """Whatever luck the incumbent's other runs had: its mean lies above what both give on the seeds they share."""
    rule, theirs = SequentialScreen(brief(), NOISE, 1), incumbent(99.0, 99.1, 104.0, 104.2)
    mine = [run(99.0, 100)]
    assert isinstance(rule.decide(mine, theirs), NeedRuns)
    answer = rule.decide([*mine, run(99.1, 101)], theirs)
    assert (
        isinstance(answer, Decision) and answer.status == "discard" and "no effect" in answer.reason
    )
    kept = rule.decide([run(94.0, 100), run(94.1, 101)], theirs)
    assert isinstance(kept, Decision) and kept.status == "keep"


def test_what_is_proven_again_earns_no_level() -> None:
    first = Claims().after(0.001)
    assert first.claimed == [1] and first.after(0.001, earns=False) == first.model_copy(
        update={"attempts": 2}
    )


@pytest.mark.parametrize("drift", [False, True])
def test_an_incumbent_that_fails_on_some_seeds_ends_no_screen_in_circles(drift: bool) -> None:
    """Another seed is asked for; where it fails on every one, the candidate is let go with the reason."""
    noise = NOISE.model_copy(update={"drift": drift})
    for failing in (1, 99):
        rule, theirs, mine, asked = (
            SequentialScreen(brief(), noise, 1),
            [run(90.0, 100 + i, 3, 3) for i in range(3)],
            [],
            0,
        )
        while isinstance(answer := rule.decide(mine, theirs), NeedRuns):
            for want in answer.runs:
                if want.side == "head":
                    mine.append(run(94.9, want.seed, 4, 4))
                elif (asked := asked + 1) <= failing:
                    theirs.append(
                        run(0.0, want.seed, 3, 4, outcome="crash", reason="Out of memory.")
                    )
                else:
                    theirs.append(run(95.0, want.seed, 3, 4))
            assert asked < 30, "it asks for ever"
        crashed = [r.seed for r in theirs if r.outcome == "crash"]
        assert len(crashed) == len(set(crashed)) and ("Out of memory" in answer.reason) is (
            failing == 99
        )


@pytest.mark.parametrize("dof", [3, 5, 20])
def test_the_standardised_gain_is_a_normal_deviate_of_equal_tail(dof: int) -> None:
    for gain in (-3.0, -1.0, 0.5, 2.0):
        assert Evidence(gain, 1.0, dof, 1, False).z == pytest.approx(
            -t.isf(1 - t.sf(gain, dof), 10**9), abs=0.02
        )
    assert all(low < high for low, high in zip(DISCARD, KEEP, strict=False))


def calibrated(measure: Any, known: Noise | None = None, **facts: Any) -> tuple[Noise, list[Any]]:
    runs: list[Any] = []
    while isinstance(said := calibrate(runs, brief(**facts), 1, known), NeedRuns):
        runs += [
            run(
                measure(len(runs) + i, said.reseed), w.seed, 0, 0, len(runs) + i, reseed=said.reseed
            )
            for i, w in enumerate(said.runs)
        ]
    return said, runs


def test_calibration_tells_noisy_exact_and_blind_apart_in_few_runs() -> None:
    noise = calibrated(lambda index, _: float(index))[0]
    assert (
        noise.runs == 4
        and noise.sigma == pytest.approx(np.std(range(4), ddof=1))
        and noise.dof == 3
    )
    assert len(calibrated(lambda index, _: 50.0 if index == 3 else index / 10)[1]) == 6, (
        "one lies far off"
    )
    assert len(calibrated(lambda index, _: float(index), known=NOISE)[1]) == 2
    exact = calibrated(lambda *_: 5.0, exact=True)[0]
    assert exact.exact and exact.runs == 2
    assert not calibrated(lambda index, _: float(index), exact=True)[0].exact, (
        "said to be exact, and is not"
    )
    assert calibrated(lambda *_: 5.0)[0].blind and not calibrated(lambda *_: 5.0)[0].exact, (
        "looks constant: not taken for exact"
    )
    reseeded, runs = calibrated(lambda index, reseed: float(index) if reseed else 5.0)
    assert reseeded.reseed and not reseeded.blind and len(runs) == 4 + 4
    one_run = [
        SequentialScreen(brief(), exact, 1).decide([run(value, 1)], incumbent(5.0)).status
        for value in (4.9, 5.0, 5.1)
    ]
    assert one_run == ["keep", "discard", "discard"]
    assert (
        runs_needed(NOISE, 1.0)
        > runs_needed(NOISE, 2.0)
        >= NOISE.reserve_pairs()
        > runs_needed(exact, 1e-9)
        == 1
    )


@given(st.lists(st.booleans(), max_size=60))
def test_levels_follow_the_published_recursion(held: list[bool]) -> None:
    claims, found = Claims(), [i for i, hit in enumerate(held, 1) if hit]
    for hit in held:
        claims = claims.after(0.0 if hit else 1.0)
    # α_t = W₀γ_t + (α − W₀)γ_{t−τ₁} + α Σ_{j≥2} γ_{t−τⱼ}, here with W₀ = α, so that the first claim's term is nothing
    ages = [len(held) + 1, *(len(held) + 1 - i for i in found[1:])]
    level = 0.1 * sum((age + 1) ** -1.5 / (zeta(1.5) - 1) for age in ages)
    assert claims.level() == pytest.approx(min(CAP, level)) and claims.claimed == found


def test_levels_of_an_empty_stream_and_of_reused_slices() -> None:
    stream = list(
        itertools.accumulate(
            range(4), lambda claims, _: claims.after(1.01 * claims.level()), initial=Claims()
        )
    )
    assert [claims.level() for claims in stream] == pytest.approx(
        [0.0219275, 0.0119358, 0.0077525, 0.0055473, 0.0042200], abs=1e-7
    ) and not stream[-1].claimed
    assert not Claims().after(0.015, level=0.01).claimed and Claims().after(0.015).claimed == [1]
    used: list[int] = []
    while len(used) < 20:
        used.append(next_slice(used, 20, 5)[0])
        assert reuse_level(0.02, used[:-1], used[-1]) == 0.02
    assert sorted(used) == list(range(20)) != used
    chosen, note = next_slice(used, 20, 5)
    assert (
        "use 21 of 20" in note
        and reuse_level(0.02, used, chosen) == 0.01
        and reuse_level(0.02, [*used, chosen], chosen) == 0.005
    )


def training(
    seed: int,
    worse: float = 0.0,
    shared: float = 0.1,
    own: float = 0.01,
    start: float = 3.0,
    end: float = 1.0,
) -> Measurement:
    """A made-up run: its curve falls from 5 to 3 nats; `shared` noise comes from the seed's data, `own` from the run itself."""
    at = np.linspace(0, end, 100)
    level = shared * np.random.default_rng(seed).normal()
    noise = own * np.random.default_rng([seed, *repr(worse).encode()]).normal(size=len(at))
    loss = 3 + 2 * np.exp(-4 * at) + level + worse + noise
    curve = list(zip((start + 100 * at).tolist(), loss.tolist(), strict=True))
    return Measurement(
        trial=Trial(number=0, commit="", seed=seed),
        outcome="ok",
        value=float(loss[-1]),
        curve=curve,
    )


FOUR = [training(seed) for seed in range(4)]


def stopped_at(
    candidate: Measurement, runs: list[Measurement] = FOUR, looser: float = 1.0
) -> float | None:
    rule = early_stop.band(runs, candidate.trial.seed, looser)
    assert rule is not None
    return early_stop.would_stop(
        rule, [(elapsed + 7, loss) for elapsed, loss in candidate.curve]
    )  # a slower start is no matter


def test_losers_stop_the_sooner_the_worse_and_winners_and_twins_run_to_the_end() -> None:
    for seed in range(4):
        plain, slight = stopped_at(training(seed, 0.5)), stopped_at(training(seed, 0.07))
        assert plain and slight and plain < slight < 80  # the window ends at 110
        assert (
            stopped_at(training(seed, -0.05)) is None and stopped_at(training(seed, -0.001)) is None
        )
    assert stopped_at(training(1, math.nan)) == stopped_at(training(1, 9.0))  # as soon as it looks


def test_the_margin_is_what_the_incumbent_still_gains_and_the_noise() -> None:
    rule = early_stop.band(FOUR, 0)
    assert rule is not None
    watch, means = early_stop.Watch(rule), []
    for elapsed, loss in FOUR[0].curve:
        watch.feed(elapsed, loss)
        means.append((elapsed - 3, watch.mean))
    margin = np.array(rule.limits) - np.interp(rule.elapsed, *np.array(means).T)
    falls = 2 * (np.exp(-4 * np.array(rule.elapsed) / 100) - np.exp(-4))
    levels = [0.1 * np.random.default_rng(seed).normal() for seed in range(4)]
    assert margin == pytest.approx(
        early_stop.SHARE * falls + early_stop.SPREADS * np.std(levels, ddof=1), abs=0.02
    )
    assert margin[0] > 1.4 * margin[-1] > 0


def test_a_first_look_is_held_against_the_run_on_its_own_seed() -> None:
    easy = training(9, shared=0.0, worse=-0.4)
    assert stopped_at(training(9, shared=0.0, worse=-0.25), [*FOUR, easy]) is not None
    assert (
        stopped_at(training(8, shared=0.0, worse=-0.25), [*FOUR, easy]) is None
    )  # no such run: the band's middle, a wider margin


@pytest.mark.parametrize(
    "runs", [[], FOUR[:1], [FOUR[0], FOUR[1].model_copy(update={"curve": FOUR[1].curve[:5]})]]
)
def test_without_two_runs_that_tell_their_progress_nothing_is_stopped(
    runs: list[Measurement],
) -> None:
    assert early_stop.band(runs, 0) is None


def test_a_curve_read_line_by_line_is_judged_as_its_thinned_copy() -> None:
    loser = training(2, 0.2)
    thin = loser.model_copy(update={"curve": loser.curve[::2]})
    assert stopped_at(thin) == pytest.approx(stopped_at(loser), abs=6)


def test_a_share_of_first_looks_is_run_to_the_end_and_its_winners_loosen_the_rule() -> None:
    rules_drawn = [
        early_stop.stop_rule(FOUR, 1, None, np.random.default_rng(seed)) for seed in range(400)
    ]
    assert 20 < sum(rule is None for rule in rules_drawn) < 65
    state = None
    for seed in range(20):
        state = early_stop.audit(state, training(seed % 4, -0.1), FOUR, kept=True)
    assert (
        state
        and (state["looks"], state["stopped"], state["lost"], state["looser"]) == (20, 0, 0, 1.0)
        and state["bound"] < 0.15
    )
    state = early_stop.audit(state, training(1, 0.3), FOUR, kept=False)
    assert (state["stopped"], state["lost"], state["looser"]) == (1, 0, 1.0)
    for _ in range(4):
        state = early_stop.audit(state, training(1, 0.3), FOUR, kept=True)
    assert state["looser"] > 1 and state["bound"] > 0.05
    looser = early_stop.stop_rule(FOUR, 1, state, np.random.default_rng(1))
    tight = early_stop.stop_rule(FOUR, 1, None, np.random.default_rng(1))
    assert looser and tight and looser.limits[0] > tight.limits[0]
