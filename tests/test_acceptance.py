"""The rules hold what they state: error rates, exact tests, and as few runs as possible, over random streams.

Covers calibration, screen, confirmation and the stream of claims, exactly where that can be had, else by seeded simulation.
The full tables are benchmark/acceptance.py's and, for early stops on real curves, benchmark/curves.py's. Not covered: the order of
calls (research/search.py, confirmation.py).
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import zeta
from scipy.stats import binom, permutation_test, ttest_ind

from autoresearch_action.acceptance import NeedRuns, RunRequest, early_stop
from autoresearch_action.acceptance.belief import Effect, Prior
from autoresearch_action.acceptance.claims import CAP, Claims, next_slice, reuse_level
from autoresearch_action.acceptance.confirm import PairedConfirmation, trained_longer
from autoresearch_action.acceptance.forecast import runs_needed
from autoresearch_action.acceptance.keep import Situation, WorthOfRuns, worth
from autoresearch_action.acceptance.lineage import Code, Lineage
from autoresearch_action.acceptance.noise import Noise, calibrate
from autoresearch_action.acceptance.sign_flip import interval, stagewise
from autoresearch_action.acceptance.two_sample import Plan, p_value, plan
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


def decided(
    mine: list[Any], base: list[Any], noise: Noise = NOISE, waiting: bool = True, **facts: Any
) -> Any:
    """What the rule answers where another idea is waiting, or none."""
    lineage = Lineage(noise, [Code(base)], -1)
    situation = Situation(1, lineage, Prior(1.0), waiting=waiting, now=20.0)
    return WorthOfRuns(brief(**facts), noise, 1, situation).decide(mine, base)


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


BASE = (100.5, 99.5, 100.2, 99.8)


def test_one_run_ends_a_loser_and_keeps_a_plain_gain() -> None:
    loser = decided([run(104.0, 100)], incumbent(*BASE))
    assert loser.status == "discard"
    assert loser.reason.startswith("worse: ")
    kept = decided([run(94.0, 100)], incumbent(*BASE))
    assert kept.status == "keep"
    assert "that it is a gain" in kept.reason


def test_doubt_is_not_worth_a_run_while_ideas_wait_and_costs_nothing_while_none_does() -> None:
    mine = [run(99.1, 100)]
    busy = decided(mine, incumbent(*BASE))
    assert busy.status == "discard"
    assert busy.reason.startswith("inconclusive: ")
    assert isinstance(decided(mine, incumbent(*BASE), waiting=False), NeedRuns)


def test_a_broken_limit_is_a_discard_whatever_the_gain() -> None:
    base = incumbent(*BASE, metrics={"memory": 9.0})
    mine = [run(90.0, 100, metrics={"memory": 20.0})]
    assert decided(mine, base, limits={"memory": "<= 10"}).status == "discard"


def test_an_edit_without_effect_is_told_by_equal_values_on_shared_seeds() -> None:
    theirs = incumbent(99.0, 99.1, 104.0, 104.2)
    assert isinstance(decided([run(99.0, 100)], theirs), NeedRuns)
    answer = decided([run(99.0, 100), run(99.1, 101)], theirs)
    assert "no effect" in answer.reason


def test_shared_seeds_make_an_effect_sharper() -> None:
    base = incumbent(101.2, 98.9, 100.4, 99.5)
    paired = NOISE.model_copy(update={"shared": 0.95})
    alone, together = (
        Lineage(noise, [Code(base)], -1).fit([run(100.7, 100)]).effect for noise in (NOISE, paired)
    )
    assert alone.estimate == pytest.approx(-0.7, abs=0.01)
    assert together.estimate == pytest.approx(0.5, abs=0.15)
    assert together.variance < alone.variance / 4


def test_the_worth_of_a_look_is_the_expected_gain_of_deciding_after_it() -> None:
    belief, rng = Prior(1.0).given(Effect(0.5, 1.0)), np.random.default_rng(1)
    effects = rng.choice(belief_grid(), size=4000, p=belief.weights)
    seen = effects + rng.normal(size=4000)
    keeps = [Prior(1.0).given(Effect(0.5, 1.0), Effect(y, 1.0)).mean > 0.1 for y in seen]
    assert worth(belief, 1.0, 0.1) == pytest.approx(np.mean((effects - 0.1) * keeps), abs=0.12)


def belief_grid() -> Any:
    from autoresearch_action.acceptance.belief import GRID

    return GRID


@settings(max_examples=20, deadline=None)
@given(st.lists(NUMBERS, min_size=8, max_size=8))
def test_the_labels_test_is_scipys_permutation_and_welch_tests(values: list[float]) -> None:
    base, head = np.array(values[:4]), np.array(values[4:])
    choices = permutation_test(
        (head, base), lambda a, b: np.mean(a) - np.mean(b), alternative="greater", n_resamples=99999
    ).pvalue
    spread = base.var() + head.var() > 1e-12
    means = ttest_ind(head, base, equal_var=False, alternative="greater").pvalue if spread else 0.0
    assert float(p_value(base, head)) == pytest.approx(max(choices, means), abs=1e-6)


def test_a_change_that_only_makes_runs_alike_is_no_gain() -> None:
    rng = np.random.default_rng(1)
    base, head = rng.normal(size=(20000, 4)), 0.05 * rng.normal(size=(20000, 4))
    assert not unlikely(int((p_value(base, head) <= 0.025).sum()), 20000, 0.025)


def test_a_plain_effect_is_planned_with_few_runs_and_a_close_one_with_more() -> None:
    plain, close = (plan(NOISE, gain, 0.5, 0.022, 60.0) for gain in (8.0, 1.5))
    assert plain == Plan(base=4, head=4)
    assert close
    assert close.runs > 8
    assert plan(NOISE, 8.0, 0.5, 0.022, 60.0, most=6) is None


def test_edits_that_do_nothing_are_seldom_claimed() -> None:
    size = acceptance.Size(empty={20: 100}, power=5, streams=0, intervals=0)
    for kind in ("gaussian", "student t3", "log-normal timing", "pairing breaks", "seed-blind"):
        claims, runs = acceptance.simulate(size, ("empty", kind, "ours", 3))[1]["20"]
        assert not unlikely(claims, runs, 0.04 if kind != "seed-blind" else 1e-9)


def test_what_is_proven_again_earns_no_level() -> None:
    first = Claims().after(0.001)
    assert first.claimed == [1] and first.after(0.001, earns=False) == first.model_copy(
        update={"attempts": 2}
    )


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
    one_run = [decided([run(value, 1)], incumbent(5.0), exact).status for value in (4.9, 5.0, 5.1)]
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


def test_gross_losers_stop_soon_and_small_ones_winners_and_twins_run_to_the_end() -> None:
    for seed in range(4):
        # The window ends at 110
        assert (stopped_at(training(seed, 0.5)) or 110) < 30
        assert stopped_at(training(seed, 0.2)) is None
        assert (
            stopped_at(training(seed, -0.05)) is None and stopped_at(training(seed, -0.001)) is None
        )
    assert stopped_at(training(1, math.nan)) == stopped_at(training(1, 9.0))  # as soon as it looks


def recorded() -> list[list[Measurement]]:
    """Runs of each incumbent of the recorded curves."""
    groups: dict[str, list[Measurement]] = {}
    told = json.loads(
        gzip.decompress((Path(acceptance.__file__).parent / "results/curves.json.gz").read_bytes())
    )
    for run in told["runs"]:
        if run["kind"] == "incumbent":
            groups.setdefault(str(run["changes"]), []).append(
                Measurement(
                    trial=Trial(number=0, commit="", seed=run["seed"]),
                    outcome="ok",
                    value=run["bpb"],
                    curve=[tuple(point) for point in run["curve"]],
                )
            )
    return list(groups.values())


def test_an_incumbent_that_is_run_again_on_a_busy_machine_is_not_stopped() -> None:
    rng, groups, stopped = np.random.default_rng(1), recorded(), 0
    for place in range(200):
        group = groups[place % len(groups)]
        runs = [group[index] for index in rng.permutation(len(group))]
        rule, slow = early_stop.band(runs[1:5], runs[0].trial.seed), rng.uniform(0.6, 1)
        assert rule is not None
        (began, _), (ended, _) = runs[0].curve[0], runs[0].curve[-1]
        curve = [(began + (at - began) / slow, loss) for at, loss in runs[0].curve]
        seen = [point for point in curve if point[0] <= ended]
        stopped += early_stop.would_stop(rule, seen) is not None
    assert stopped <= 4


def test_the_margin_is_what_the_incumbent_still_gains_and_the_noise() -> None:
    """Beside where the incumbent would stand at half of its speed."""
    rule = early_stop.band(FOUR, 0)
    assert rule is not None
    watch, means = early_stop.Watch(rule), []
    for elapsed, loss in FOUR[0].curve:
        watch.feed(elapsed, loss)
        means.append((elapsed - 3, watch.mean))
    whole = np.array(rule.elapsed) * early_stop.SLOWEST >= rule.elapsed[0]
    at = np.array(rule.elapsed)[whole]
    margin = np.array(rule.limits)[whole] - np.interp(early_stop.SLOWEST * at, *np.array(means).T)
    falls = 2 * (np.exp(-4 * at / 100) - np.exp(-4))
    levels = [0.1 * np.random.default_rng(seed).normal() for seed in range(4)]
    assert margin == pytest.approx(
        early_stop.SHARE * falls + early_stop.SPREADS * np.std(levels, ddof=1), abs=0.03
    )


def test_a_first_look_is_held_against_the_run_on_its_own_seed() -> None:
    easy = training(9, shared=0.0, worse=-0.4)
    assert stopped_at(training(9, shared=0.0, worse=0.1), [*FOUR, easy]) is not None
    assert (
        stopped_at(training(8, shared=0.0, worse=0.1), [*FOUR, easy]) is None
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
    state = early_stop.audit(state, training(1, 0.8), FOUR, kept=False)
    assert (state["stopped"], state["lost"], state["looser"]) == (1, 0, 1.0)
    for _ in range(4):
        state = early_stop.audit(state, training(1, 0.8), FOUR, kept=True)
    assert state["looser"] > 1 and state["bound"] > 0.05
    looser = early_stop.stop_rule(FOUR, 1, state, np.random.default_rng(1))
    tight = early_stop.stop_rule(FOUR, 1, None, np.random.default_rng(1))
    assert looser and tight and looser.limits[0] > tight.limits[0]
