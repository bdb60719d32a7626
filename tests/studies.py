"""Ledgers made up for the reports: as many experiments as wanted, with words as hostile as wanted."""

from __future__ import annotations

from pathlib import Path

from autoresearch_action.ledger import Ledger, RunState
from autoresearch_action.records import (
    Confirmation,
    Measurement,
    Proposal,
    Run,
    Trial,
    Usage,
    Verdict,
)

PATCH = "diff --git a/train.py b/train.py\nindex 1111111..2222222 100644\n--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-LR = 0.1\n+LR = 0.2\n"


def make(
    state: Path,
    count: int = 20,
    words: str = "Raise the rate",
    *,
    held: bool = True,
    every: int = 7,
    **run: object,
) -> RunState:
    """A finished run: number n is kept where n % `every` == 1; `words` stand wherever a model or a program may write."""
    ledger = Ledger(state)
    facts = {
        "id": "20261125-010203-abcd",
        "started": 1.0,
        "base": "a" * 40,
        "branch": "main",
        "brief_id": "program",
        "prose": f"# {words}",
    }
    facts |= {
        "contract": {"edit": ["train.py"], "run": "python train.py", "evaluate": "python score.py"},
        "environment": {"sandbox": "full"},
    }
    ledger.append("run", Run.model_validate(facts | run))
    ledger.append("session", started=1.0)
    value = 2.0
    base = Measurement(
        trial=Trial(number=0, commit="a" * 40, seed=1),
        outcome="ok",
        value=value,
        metrics={"val_bpb": value},
        seconds=10.0,
    )
    ledger.measured(base)
    noise = {"sigma": 0.01, "dof": 3, "mean": value, "runs": 4}
    ledger.append("fact", name="noise", value=noise)
    ledger.append(
        "verdict",
        Verdict(
            number=0,
            status="keep",
            reason="baseline",
            description="baseline",
            agent="",
            metrics={"val_bpb": value},
        ),
    )
    for number in range(1, count + 1):
        keep = number % every == 1
        value -= 0.01 if keep else 0.0
        commit = f"{number:040x}"
        usage = Usage(calls=1, input_tokens=100, output_tokens=50, usd=0.01)
        proposal = Proposal(
            parent="a" * 40,
            patch=PATCH,
            agent="claude",
            description=words,
            hypothesis=words,
            expected=words,
            usage=usage,
        )
        ledger.propose(number, proposal, commit, f"{number:040x}")
        shown = value if keep else value + 0.01
        run_ = Measurement(
            trial=Trial(number=number, commit=commit, seed=1),
            outcome="ok",
            value=shown,
            metrics={"val_bpb": shown},
            seconds=10.0,
            tail=words,
        )
        ledger.measured(run_)
        ledger.append("verdict", Verdict(
            number=number, status="keep" if keep else "discard", reason=words, description=words, agent="claude", commit=commit,
            metrics={"val_bpb": shown, "peak_vram_mb": 2048.0}, seconds=10.0, usd=0.01, estimate=0.01 if keep else -0.01, spread=0.005, runs=1,
        ))  # fmt: skip
    confirmation = Confirmation(
        held=held, baseline=2.0, best=value, estimate=2.0 - value, low=0.9 * (2.0 - value), high=1.1 * (2.0 - value), adjusted=2.0 - value,
        pairs=7, p_value=0.008, level=0.02, test="sign-flip randomisation test", over="seeds", reason="Holds." if held else f"Nothing held: {words}",
        tree="b" * 40, numbers=[1], notes=["hold-out use 1 of 20"],
    )  # fmt: skip
    if held:
        (state / "proven").mkdir(exist_ok=True)
        (state / "proven" / "01-0001.diff").write_text(PATCH)
    for number, commit, middle in ((0, "a" * 40, 2.0), (1, f"{1:040x}", value)):
        for seed in range(7):
            trial = Trial(
                number=number, commit=commit, seed=seed, stage="confirm", attempt="b" * 40
            )
            printed = {"val_bpb": middle + 0.001 * seed, "peak_vram_mb": 2048.0 + 9 * number + seed}
            ledger.measured(
                Measurement(trial=trial, outcome="ok", value=printed["val_bpb"], metrics=printed)
            )
    ledger.append("confirmation", confirmation)
    ledger.append("stop", reason="all experiments are done", finished=True)
    run_state = ledger.run_state
    ledger.close()
    return run_state
