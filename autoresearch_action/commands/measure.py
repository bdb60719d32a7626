"""`autoresearch measure`: how noisy the brief's metric is, and what a gain of a size takes.

Runs the base alone; its own ledger lies beside the run's, and nothing is decided on it.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click

from autoresearch_action import brief as briefs
from autoresearch_action.acceptance import NeedRuns
from autoresearch_action.acceptance.forecast import forecast
from autoresearch_action.acceptance.noise import Noise, calibrate, derive
from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.commands.machine import Machine
from autoresearch_action.errors import InputError
from autoresearch_action.isolation.secrets import Secrets
from autoresearch_action.ledger import Ledger
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.trials import Executor
from autoresearch_action.trials.setup import run_setup
from autoresearch_action.workspace.trees import Workspace


def measure_noise(
    program: Path, directory: Path, state: Path, pairs: int, max_minutes: float
) -> str:
    """Run the base on `2 × pairs` seeds and say what they tell."""
    # Refuses what is no number of minutes
    Budget(1, max_minutes, 0.0)
    secrets, state = Secrets.take(os.environ), (state / "measure").resolve()
    brief = briefs.read(program, directory)
    machine = Machine("auto", brief)
    with closing(Ledger(state)), machine.locked(click.echo):
        workspace = Workspace(directory, state, brief)
        workspace.setup_hash = run_setup(workspace, secrets, click.echo)
        executor = machine.executor(brief, workspace, state, {}, secrets.scrub)
        try:
            baseline = _Baseline(brief, workspace.base, executor)
            noise = baseline.noise(2 * pairs)
        finally:
            executor.close()
    seconds = sum(run.seconds for run in baseline.runs) / len(baseline.runs)
    return forecast(noise, brief, seconds, max_minutes, len(machine.slots))


class _Baseline:
    """Runs of the base, one after the other."""

    def __init__(self, brief: Brief, commit: str, executor: Executor) -> None:
        self.brief, self.commit, self.executor = brief, commit, executor
        self.runs: list[Measurement] = []

    def noise(self, count: int) -> Noise:
        """Of so many runs, or of the one or two that an exact metric needs. Raises InputError."""
        while isinstance(noise := calibrate(self.runs, self.brief), NeedRuns):
            for request in noise.runs:
                self._run(request.seed, noise.reseed)
        while len(self.runs) < count and not noise.exact:
            self._run(derive(len(self.runs), "measure"), noise.reseed)
            again = calibrate(self.runs, self.brief)
            noise = again if isinstance(again, Noise) else noise
        return noise

    def _run(self, seed: int, reseed: bool) -> None:
        index = len(self.runs) + 1
        trial = Trial(number=0, commit=self.commit, seed=seed, reseed=reseed, index=index)
        run = self.executor.submit(trial).result()
        self.runs.append(run)
        if run.outcome != "ok":
            raise InputError(f"The program does not run: {run.reason}\n{run.tail}".strip())
        told = f"{self.brief.metric} {run.value:.6g}, {run.seconds:.1f} s"
        click.echo(f"run {index}: {told}")
