"""Kinds of objectives, each in a whole run: the time to reach a value, censored where it was not reached."""

from __future__ import annotations

from pathlib import Path

import tiny
from test_loop import events, run

from autoresearch_action.agents.edits import comparable

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
