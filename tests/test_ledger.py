"""The journal on disk: whole lines or none, one writer, and a fold that stays small however long it grows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.ledger import CACHE, Ledger, RunState, read
from autoresearch_action.ledger import run_state as states
from autoresearch_action.records import Confirmation, Measurement, Proposal, Trial, Usage, Verdict

PATCH = "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"


def measured(number: int, seed: int = 1, **more: object) -> Measurement:
    trial = Trial.model_validate(
        {
            "number": number,
            "commit": f"c{number}",
            "seed": seed,
            "stage": more.pop("stage", "search"),
        }
    )
    return Measurement(
        trial=trial,
        outcome="ok",
        value=1.0 / (1 + number),
        seconds=2.0,
        metrics={"loss": float("nan")},
        **more,
    )


def fill(ledger: Ledger, number: int, status: str = "discard") -> None:
    proposal = Proposal(parent="base", patch=PATCH, agent="optuna", description=f"idea {number}")
    ledger.propose(number, proposal, f"c{number}", f"tree{number}")
    ledger.measured(measured(number))
    ledger.append(
        "verdict",
        Verdict(
            number=number, status=status, reason="why", description="d", agent="optuna", usd=0.5
        ),
    )


@pytest.mark.parametrize("block", [states.BLOCK, 1000, 7])
def test_an_experiment_is_the_fold_of_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """However the file is cut into blocks as it is read."""
    monkeypatch.setattr(states, "BLOCK", block)
    ledger = Ledger(tmp_path)
    ledger.measured(measured(0))
    fill(ledger, 1, "keep")
    fill(ledger, 2)
    ledger.append("ask", ask=7, worst=0.25)
    ledger.spent("claude", Usage(calls=1, usd=1.5), ask=6)
    ledger.measured(measured(1, stage="confirm"))
    ledger.append("confirmation", Confirmation(held=True, tree="abc", estimate=0.02))
    ledger.append("stop", reason="done", finished=True)
    ledger.close()

    run_state = read(tmp_path)
    assert list(run_state.experiments) == [0, 1, 2]
    assert run_state.kept == [1]
    assert run_state.next_number == 3
    first = run_state.experiments[1]
    assert first.proposal
    assert first.proposal.patch == PATCH
    assert first.verdict
    assert first.verdict.status == "keep"
    assert len(first.runs) == 1
    assert len(run_state.confirm_runs["confirm", ""]) == 1
    assert run_state.usd == 1.75
    assert run_state.device_seconds == 8.0
    assert run_state.trees == {"tree1": 1, "tree2": 2}
    assert run_state.improved
    assert run_state.confirmation
    assert run_state.confirmation.tree == "abc"
    assert run_state.finished
    assert run_state.first > 0
    assert run_state.last >= run_state.first
    line = json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[3])
    assert line["event"] == "verdict"
    assert {
        "number",
        "status",
        "reason",
        "description",
        "agent",
        "metrics",
        "patch",
        "started",
        "seconds",
        "usd",
    } <= line.keys()


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    fill(ledger, 1)
    ledger.close()
    whole = (tmp_path / "ledger.jsonl").read_bytes()
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"event":"verdict","number":2,"status":"ke')
    assert list(read(tmp_path).experiments) == [1]
    ledger = Ledger(tmp_path)
    fill(ledger, 2)
    ledger.close()
    assert (tmp_path / "ledger.jsonl").read_bytes().startswith(whole)
    assert list(read(tmp_path).experiments) == [1, 2]


def test_a_last_line_that_no_version_began_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"garbage")
    with pytest.raises(EnvironmentFault, match="Nothing was changed"):
        Ledger(tmp_path)
    assert path.read_bytes() == b"garbage"
    path.write_bytes(b"\0" * 40)  # a machine that went down left room that it had not filled
    Ledger(tmp_path).close()
    assert path.read_bytes() == b""


def test_kill_9_loses_at_most_the_line_being_written(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests')\n"
        "from test_ledger import *\n"
        "ledger = Ledger(Path(sys.argv[1])); n = ledger.run_state.next_number\n"
        "while True:\n    fill(ledger, n); print(n, flush=True); n += 1\n"
    )
    told: list[int] = []
    for rounds in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, tmp_path],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": "."},
        )
        assert process.stdout
        for _ in range(20 + rounds):
            told.append(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        run_state = read(tmp_path)
        assert all(run_state.experiments[number].verdict for number in told)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(EnvironmentFault, match="Another run"):
        Ledger(tmp_path)
    ledger.close()
    Ledger(tmp_path).close()


def test_a_finished_ledger_is_put_aside_with_its_patches(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    fill(ledger, 1, "keep")
    ledger.restart("night-1")
    assert ledger.run_state.next_number == 1
    assert not ledger.run_state.kept
    fill(ledger, 1)
    old = RunState.of(tmp_path / "history" / "night-1.jsonl")
    assert old.kept == [1]
    assert old.patch(1) == PATCH
    ledger.close()


def test_a_long_ledger_is_indexed_without_being_held(tmp_path: Path) -> None:
    """20,000 experiments: counts are right, memory is an index, an experiment is folded when asked for."""
    ledger = Ledger(tmp_path)
    fill(ledger, 1)
    ledger.close()
    path = tmp_path / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("wb") as file:
        for number in range(1, 20_001):
            for line in lines:
                file.write(
                    line.replace(b'"number":1', b'"number":%d' % number).replace(
                        b"tree1", b"tree%d" % number
                    )
                )
    tracemalloc.start()
    run_state = read(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(run_state.experiments) == 20_000
    assert len(run_state.statuses) == 20_000
    assert run_state.trees["tree777"] == 777
    assert run_state.experiments[12_345].verdict is not None
    assert len(run_state.recent()) <= 302
    assert len(run_state.experiments._cache) <= CACHE
    assert held < 20_000 * 800, "the index must stay far below the ledger's own size"


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"run","at":1}',
        b'{"event":"run"',
        b'{"event":"stack","numbers":5}',
        b'{"event":"verdict","number":1}',
        b'{"event":"fact"}',
        b'{"event":"ask","at":1.0,"ask":3,"worst":0.1}{"event":"spend","at":2.0,"ask":3}',
        b'{"event":"ask","at":1.0,"ask":3,"worst":1-1}',
    ],
)
def test_a_damaged_line_is_said_and_nothing_is_overwritten(tmp_path: Path, line: bytes) -> None:
    ledger = Ledger(tmp_path)
    fill(ledger, 1)
    ledger.close()
    whole = ledger.path.read_bytes() + line + b"\n"
    ledger.path.write_bytes(whole)
    with pytest.raises(EnvironmentFault, match="is damaged"):
        Ledger(tmp_path)
    assert ledger.path.read_bytes() == whole


def test_a_damaged_trial_is_said_when_it_is_met(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b'{"event":"trial","number":1,"seconds":1}\n')
    with pytest.raises(EnvironmentFault, match="byte 0: this line is damaged"):
        read(tmp_path).experiments[1]
