"""Kinds of objectives, each in a whole run: the time to reach a value, censored where it was not reached."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import quick
import studies
import tiny
from test_loop import events, run

from autoresearch_action.agents.edits import comparable
from autoresearch_action.github import outputs
from autoresearch_action.records import Trial
from autoresearch_action.report import body

PROGRAM = """---
edit: [train.py]
run: /usr/bin/python3 train.py
metric: seconds_to_target
goal: minimize
timeout: 20
---
Reach the target sooner. A run that does not reach it prints its whole time and `censored: 1`.
"""
TRAIN = """import os, random
SPEED = 1.0
LIMIT = 6.0
dice = random.Random(int(os.environ["AUTORESEARCH_SEED"]))
needed = 8.0 / SPEED + dice.gauss(0, 0.1)
print(f"seconds_to_target: {min(needed, LIMIT):.4f}")
print(f"censored: {int(needed > LIMIT)}")
"""


def test_a_base_that_never_reaches_the_target_is_not_blind_and_can_be_beaten(
    tmp_path: Path,
) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM, train__py=TRAIN)
    tiny.patch(
        home,
        tmp_path / "ideas" / "1.diff",
        ("SPEED = 1.0", "SPEED = 1.2"),
        subject="Still not there",
    )
    tiny.patch(
        home, tmp_path / "ideas" / "2.diff", ("SPEED = 1.0", "SPEED = 2.0"), subject="Twice as fast"
    )
    run(home, "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5")
    verdicts = {event["description"]: event for event in events(home, "verdict")}
    assert (
        verdicts["baseline"]["metrics"]["censored"] == 1
        and "no effect" not in verdicts["baseline"]["reason"]
    )
    assert (
        verdicts["Still not there"]["status"] == "discard"
        and verdicts["Twice as fast"]["status"] == "keep"
    )
    (confirmation,) = events(home, "confirmation")
    assert (
        confirmation["held"]
        and confirmation["baseline"] == 6.0
        and 3.5 < confirmation["best"] < 4.5
    )


def test_a_quick_base_does_not_cut_the_window_short(tmp_path: Path) -> None:
    """A base of one second, 300 s for all: neither the clock nor the wall ends a trial before."""
    home, trials = tiny.repository(tmp_path / "home", program=WINDOW.replace(" 8", " 300")), []

    def formula(literals: dict[str, float], trial: Trial) -> float:
        trials.append(trial)
        return 1.0 + literals["LR"] + random.Random(trial.seed).gauss(0, 0.01)

    quick.go(home, quick.Agent([("LR = 0.1", "LR = 0.05")]), formula)
    (clocks,) = {trial.clock_limit for trial in trials if trial.number}
    assert clocks == 300
    assert min(trial.limits["run"] for trial in trials if trial.number) == 330


@pytest.mark.parametrize("scored", [True, False])
def test_a_claim_by_the_programs_own_word_is_told_from_a_scored_one(
    tmp_path: Path, scored: bool
) -> None:
    contract = {"run": "x"} | ({"evaluate": "y"} if scored else {})
    run_state = studies.make(tmp_path / "state", contract=contract)
    assert outputs.research(run_state)["improved"] == ("true" if scored else "self-reported")
    assert ("(self-reported)" in body.title(run_state)) is not scored
    lost = studies.make(tmp_path / "lost", held=False, contract=contract)
    assert outputs.research(lost)["improved"] == "false"


def test_the_pull_request_says_what_the_metric_is_taken_for_and_why(tmp_path: Path) -> None:
    by_name = studies.make(tmp_path / "name", metric="total_µs")
    assert (
        "metric",
        "total_µs, measured as time: by its name; `measures: quality` says otherwise",
    ) in (body.judged(by_name))
    contract = {"run": "x", "measures": "quality"}
    said = dict(body.judged(studies.make(tmp_path / "said", metric="total_µs", contract=contract)))
    assert said["metric"] == "total_µs, measured as quality: `measures: quality` says so"


def test_what_moves_the_loss_itself_is_read_off_a_patch() -> None:
    head = "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n"
    assert comparable(
        f"{head}-LR = 0.1  # of the loss\n+LR = 0.2  # before the schedule\n the loss\n"
    )
    for line in (
        "SEQUENCE = 64",
        "loss = F.cross_entropy(x, y, label_smoothing=0.1)",
        "WARMDOWN_RATIO = 0.3",
        "x = F.dropout(x, 0.1)",
    ):
        assert not comparable(f"{head}-LR = 0.1\n+{line}\n")


WINDOW = """---
edit: [train.py]
run: /usr/bin/python3 train.py
evaluate: /usr/bin/python3 score.py
metric: val_bpb
time-budget: 8
---
Lower the loss.
"""
BURN = "\nimport time\nuntil = time.process_time() + 0.5\nwhile time.process_time() < until:\n    pass\n"


def test_the_window_is_the_cap_and_not_the_base_s_own_clock(tmp_path: Path) -> None:
    """A base that uses a twentieth of its window allows a candidate that uses a tenth of it."""
    home = tiny.repository(tmp_path / "home", program=WINDOW)
    wider = ("WIDTH = 4\n", f"WIDTH = 6\n{BURN}")
    tiny.patch(home, tmp_path / "ideas" / "1.diff", wider, subject="Wider, for longer")
    run(home, "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5")
    verdicts = {event["description"]: event for event in events(home, "verdict")}
    assert verdicts["Wider, for longer"]["status"] == "keep", verdicts["Wider, for longer"]
    (confirmation,) = events(home, "confirmation")
    assert confirmation["held"], confirmation["reason"]
