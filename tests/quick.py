"""A run in this process whose trials take no time: the real loop, proof, ledger, proposals and git, and a formula for a program."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import tiny

from autoresearch_action import brief as briefs
from autoresearch_action.agents import AgentFailure, Context, Draft, Exhausted
from autoresearch_action.budget import Budget
from autoresearch_action.ledger import Ledger, RunState
from autoresearch_action.records import Experiment, Measurement, Trial, Usage
from autoresearch_action.research.context import Parts
from autoresearch_action.research.history import Inheritance
from autoresearch_action.research.run import run
from autoresearch_action.workspace.trees import Workspace

Formula = Callable[[dict[str, float], Trial], float]


class Executor:
    """Every trial takes `seconds` by its own word; its value is the formula's, of the literals in train.py at its commit."""

    slots: Sequence[str] = ("cpu:0", "cpu:1")

    def __init__(self, workspace: Workspace, formula: Formula, seconds: float) -> None:
        self.workspace, self.formula, self.seconds, self.now = workspace, formula, seconds, 0.0

    def submit(self, trial: Trial, slot: str | None = None) -> Future[Measurement]:
        source = self.workspace._git("show", f"{trial.commit}:train.py").decode()
        literals = {
            name: float(value)
            for name, value in re.findall(r"^([A-Z]+) = ([-\d.]+)", source, re.MULTILINE)
        }
        value = self.formula(literals, trial)
        future: Future[Measurement] = Future()
        self.now += self.seconds
        facts = {
            "metrics": {"val_bpb": value},
            "started": self.now,
            "seconds": self.seconds,
            "clock": self.seconds,
        }
        future.set_result(
            Measurement.model_validate({"trial": trial, "outcome": "ok", "value": value} | facts)
        )
        return future

    def takes_another(self, slot: str) -> bool:
        return False

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class Agent:
    """Proposes its edits one after the other, each for `usd`; a `patient` one waits for an incumbent that they apply on."""

    name = "script"
    reads_profiles = False

    def __init__(
        self, edits: Sequence[tuple[str, str]], usd: float = 0.0, patient: bool = False
    ) -> None:
        self.patient = patient
        self.edits, self.worst_usd, self._lock, self.calls = list(edits), usd, threading.Lock(), 0

    def propose(self, context: Context) -> Draft:
        known = {e.description for e in [*context.history, *context.pending]}
        file = context.directory / "train.py"
        with self._lock:
            chosen = next(
                (
                    edit
                    for edit in self.edits
                    if _name(edit) not in known and edit[0] in file.read_text()
                ),
                None,
            )
            if chosen is None and self.edits and self.patient:
                time.sleep(0.02)
                raise AgentFailure("")
            if chosen is None:
                raise Exhausted("all edits have been tried")
            self.edits.remove(chosen)
            self.calls += 1
        file.write_text(file.read_text().replace(*chosen))
        return Draft(description=_name(chosen), usage=Usage(calls=1, usd=self.worst_usd))

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        return None


def _name(edit: tuple[str, str]) -> str:
    return edit[1].split("\n")[-1]


class View:
    def update(self, run_state: RunState, running: object) -> None: ...

    def note(self, text: str) -> None: ...


def repository(home: Path, source: str, **keys: str) -> Path:
    """A repository whose train.py is `source`; `keys` go to the front matter."""
    front = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in keys.items())
    tiny.repository(home, program=tiny.PROGRAM.replace("goal:", f"{front}goal:", 1))
    (home / "train.py").write_text(source)
    tiny.commit(home)
    return home


def go(
    home: Path,
    agent: Agent,
    formula: Formula,
    interrupted: Callable[[RunState], str] = lambda _: "",
    seconds: float = 1.0,
    max_experiments: int = 10,
    max_usd: float = 10.0,
    gpu_usd_per_hour: float = 0.0,
    inherited: Inheritance | None = None,
    **parts: Any,
) -> RunState:
    """Begin or go on with the run in HOME/.autoresearch."""
    state = home / ".autoresearch"
    brief = briefs.read(Path("program.md"), home)
    workspace, ledger = Workspace(home, state, brief), Ledger(state)
    budget = Budget(max_experiments, 60.0, max_usd, gpu_usd_per_hour, slots=2)
    executor = Executor(workspace, formula, seconds)
    try:
        return run(
            Parts(
                brief,
                workspace,
                agent,
                executor,
                ledger,
                budget,
                View(),
                1,
                lambda: interrupted(ledger.run_state),
                inherited or Inheritance(),
                **parts,
            )
        )
    finally:
        ledger.close()
