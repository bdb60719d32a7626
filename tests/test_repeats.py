"""A seed that picks one of a few folds: what the search saw is no proof, and a draw counts once."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick
import tiny
from scipy.stats import binom

from autoresearch_action.acceptance import NeedRuns
from autoresearch_action.acceptance.confirm import PairedConfirmation
from autoresearch_action.acceptance.noise import Noise, calibrate
from autoresearch_action.acceptance.repeats import coarse
from autoresearch_action.brief import Brief
from autoresearch_action.records import Trial

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmark"))
import rules

BRIEF = Brief.model_validate({"run": "true"})
NOISE = Noise(sigma=1.0, dof=3, mean=100.0, runs=4)


class Odd(rules.World):
    """Folds whose values differ a little from run to run (`jitter`), or are shares of 20 (`coarse`)."""

    odd = ""

    def measure(self, code: rules.Code, seed: int) -> float:
        value = super().measure(code, seed)
        if self.odd == "jitter":
            return value + 1e-5 * float(self.rng.standard_normal())
        return round(20 / (1 + math.exp(100 - value))) / 20


def claims(kind: str, odd: str, runs: int) -> int:
    """How many whole runs of 15 edits that only move the dice end in a claim."""
    found = 0
    for index in range(runs):
        world = (Odd if odd else rules.World)(kind, np.random.default_rng([7, index]), 15)
        world.odd = odd
        found += rules.ours(world, [0.0] * 15, rules.Night()).claimed
    return found


@pytest.mark.parametrize("odd", ["", "jitter", "coarse"])
@pytest.mark.parametrize("kind", rules.FOLDS)
@pytest.mark.parametrize("runs", [100, pytest.param(1_000, marks=pytest.mark.battery)])
def test_edits_that_only_move_the_dice_are_not_claimed_on_folds(
    kind: str, odd: str, runs: int
) -> None:
    assert claims(kind, odd, runs) <= binom.ppf(0.999, runs, 0.04)


def test_a_true_gain_is_still_claimed_where_folds_are_many() -> None:
    held = sum(
        rules.ours(
            rules.World("twenty folds", np.random.default_rng([7, index]), 6),
            [0.0] * 5 + [3.0],
            rules.Night(),
        ).claimed
        for index in range(40)
    )
    assert held >= 20


def test_a_side_that_is_always_the_same_tells_no_draws() -> None:
    """A base that never reaches its target prints its limit for every seed."""

    def one(side: str, seed: int) -> Any:
        value = 6.0 if side == "base" else 4.0 + math.sin(seed) / 10
        return rules.Run(0, seed, side, 0, False, value, 0.0)

    seen = ([one("base", seed) for seed in range(4)], [one("head", 7)])
    rule, runs = PairedConfirmation(BRIEF, NOISE, seed=1, seen=seen), []
    while isinstance(said := rule.decide(runs), NeedRuns):
        runs += [one(want.side, want.seed) for want in said.runs]
    assert said.held, said.reason


def measured(side: str, seed: int, folds: int) -> Any:
    value = 100 + math.sin(seed % folds + 1) - 3 * (side == "head")
    return rules.Run(0, seed, side, 0, False, value, 0.0)


def test_the_sentence_says_that_the_draws_were_seen() -> None:
    seen = ([measured("base", seed, 5) for seed in range(4)], [measured("head", 7, 5)])
    rule, runs = PairedConfirmation(BRIEF, NOISE, seed=1, seen=seen), []
    while isinstance(said := rule.decide(runs), NeedRuns):
        runs += [measured(want.side, want.seed, 5) for want in said.runs]
    assert not said.held
    assert "values repeat over seeds" in said.reason
    assert "of 7 fresh seeds" in said.reason
    assert "differs by −3" in said.reason


def test_calibration_says_that_values_repeat_or_jump() -> None:
    def notes(*values: float) -> str:
        runs = [
            rules.Run(0, seed, "base", 0, False, value, 0.0) for seed, value in enumerate(values)
        ]
        said = calibrate(runs, BRIEF)
        assert isinstance(said, Noise)
        return "; ".join([said.describe(), *said.notes])

    assert "values repeat over seeds" in notes(0.981231, 0.973122, 0.981231, 0.990417, 0.977, 0.97)
    assert "repeat" not in notes(0.95, 0.9, 0.95, 1.0, 0.9, 0.85)
    assert "power of ten" in notes(0.989, 0.99, 989.0, 0.985, 0.986, 0.987)
    assert "power of ten" not in notes(0.989, 0.99, 0.2, 0.985, 0.986, 0.987)


def test_coarse_values_tie_before_seeds_are_said_to_have_no_effect() -> None:
    """Passes of 20 near one: two, three or four equal values are no wonder."""
    values = iter([1.0] * 5 + [0.95, 1.0, 0.95, 0.9, 1.0])
    runs: list[Any] = []
    while isinstance(said := calibrate(runs, BRIEF), NeedRuns):
        runs += [
            rules.Run(0, want.seed, "base", 0, said.reseed, next(values), 0.0) for want in said.runs
        ]
    assert not said.blind


@pytest.mark.parametrize(
    ("values", "is_coarse"),
    [
        ((0.95, 1.0, 0.9), True),
        ((0.8333, 0.8667, 0.9), True),
        ((5 / 6, 13 / 15, 0.9), True),
        ((94.2, 95.1, 93.9), True),
        ((3.0, 4.0, 5.0), True),
        ((0.987123, 0.991231, 0.98881), False),
        ((12345678.0, 12345999.0, 12345777.0), False),
        ((0.987123, 0.987123), False),
        ((math.nan, 1.0), False),
    ],
)
def test_what_ties_by_chance(values: tuple[float, ...], is_coarse: bool) -> None:
    assert coarse(values) is is_coarse


@pytest.mark.parametrize("salt", [4, 9, 10])
def test_a_whole_run_on_folds_ends_without_a_claim_and_says_why(tmp_path: Path, salt: int) -> None:
    """The real loop and proof; of dice that would be claimed if the seen draws counted."""

    def formula(literals: dict[str, float], trial: Trial) -> float:
        return random.Random(f"{salt} {literals} {trial.seed % 5}").gauss(1.0, 0.02)

    home = tiny.repository(tmp_path / "home")
    edits = [("LR = 0.1", f"LR = 0.1{index}") for index in range(1, 10)]
    ended = quick.go(home, quick.Agent(edits), formula)
    assert ended.kept
    assert not ended.improved
    assert ended.confirmation
    assert "values repeat over seeds" in ended.confirmation.reason
