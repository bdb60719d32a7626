"""`autoresearch run`: from its options to the parts of a run, and from its end to the views.

Owns the order of set-up: secrets away, ledger locked, brief read, base found, devices locked, setup
run. The order of a run is research/run.py's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from autoresearch_action import __version__, report
from autoresearch_action import brief as briefs
from autoresearch_action.agents import Agent, registry
from autoresearch_action.brief import Brief, metric_names
from autoresearch_action.budget import Budget
from autoresearch_action.commands import resume
from autoresearch_action.commands.machine import Machine
from autoresearch_action.commands.signals import Signals
from autoresearch_action.errors import EnvironmentFault, Interrupted
from autoresearch_action.github import event
from autoresearch_action.isolation.secrets import Secrets
from autoresearch_action.ledger import Ledger, RunState
from autoresearch_action.records import Run
from autoresearch_action.report.live import View
from autoresearch_action.research.claim_record import next_level
from autoresearch_action.research.context import Parts
from autoresearch_action.research.history import inheritance
from autoresearch_action.research.run import run
from autoresearch_action.research.stack import stacked
from autoresearch_action.trials.setup import run_setup
from autoresearch_action.workspace.git import uncommitted
from autoresearch_action.workspace.trees import Workspace

# Calibration, one candidate, confirmation: the least a run can be
FIRST_RUNS = 2 + 2 + 12
UNCOMMITTED = (
    "is not committed as it is here: publishing reads it from the measured commit, so commit it"
    " first."
)


@dataclass(frozen=True)
class Options:
    """The options of `autoresearch run`, as the command line gives them."""

    program: Path
    brief: str | None
    agents: tuple[str, ...]
    max_experiments: int
    max_minutes: float
    max_usd: float
    gpu_usd_per_hour: float
    usd_per_call: float | None
    effort: str | None
    slots: str
    executor: str
    checkpoint: str | None
    state: Path
    fresh: bool
    # False: a shard of a fleet
    claims: bool = True
    # A later step of this job holds a token that can write: no trial without the full sandbox
    require_sandbox: bool = False


def run_session(options: Options, directory: Path) -> RunState:
    """Run, or go on with, what the options say. Raises UserError."""
    signals, secrets = Signals(), Secrets.take(os.environ)
    dispatched = event.read(os.environ)
    brief = briefs.read(options.program, directory, event.prose(options.brief, os.environ))
    ledger = Ledger(options.state.resolve())
    try:
        session = _Session(options, directory, brief, ledger, secrets, signals)
        with signals.caught():
            run_state = session.run(options.checkpoint or dispatched.checkpoint)
    except Interrupted as interruption:
        # Nothing was begun or gone on with: the ledger is as it was
        run_state = RunState(ledger.path)
        run_state.stop_reason = str(interruption)
    finally:
        ledger.close()
    _closing_words(run_state, options.state)
    return run_state


@dataclass
class _Session:
    """One start of a run on this machine."""

    options: Options
    directory: Path
    brief: Brief
    ledger: Ledger
    secrets: Secrets
    signals: Signals

    def __post_init__(self) -> None:
        options, self.state = self.options, self.options.state.resolve()
        self.budget = Budget(
            options.max_experiments,
            options.max_minutes,
            options.max_usd,
            options.gpu_usd_per_hour,
            time.monotonic,
        )

    def interrupted(self) -> str:
        return self.signals() or self.budget.over_reason()

    def run(self, checkpoint: str | None) -> RunState:
        options, brief, budget = self.options, self.brief, self.budget
        machine = Machine(options.slots, brief, options.require_sandbox, options.executor)
        budget.slots = len(machine.slots)
        if brief.fixed_time:
            budget.check_size(brief.time_budget, FIRST_RUNS)
        workspace = Workspace(self.directory, self.state, brief)
        agent = self._agent(machine)
        with (
            closing(View(brief, budget)) as view,
            machine.locked(view.note, self.signals, budget.seconds_left),
        ):
            view.note(machine.told)
            kind, why = metric_names.taken_for(brief.metric, brief.measures)
            view.note(f"{brief.metric} is measured as {kind}: {why}.")
            if uncommitted(self.directory / brief.path):
                view.note(f"{brief.path} {UNCOMMITTED}")
            workspace.setup_hash = run_setup(workspace, self.secrets, view.note, self.interrupted)
            now = _describe(options, brief, workspace, machine)
            given = self._checkpoint(checkpoint, now)
            now = now.model_copy(update={"checkpoint": resume.recorded(given)})
            # After all that can be refused: it may put a ledger aside
            resume.begin(self.ledger, now, options.fresh, view.note)
            try:
                self._research(workspace, machine, agent, view, given, now)
            finally:
                report.write(self.state, self.ledger.run_state)
        if self.ledger.run_state.finished:
            # From here on the next start is another run
            self.ledger.append("fact", name="delivered", value=True)
        return self.ledger.run_state

    def _agent(self, machine: Machine) -> Agent:
        return registry.make(
            list(self.options.agents),
            self.brief,
            key=self.secrets.model_key,
            usd_per_call=self.options.usd_per_call,
            effort=self.options.effort,
            seed=resume.dice(self.ledger.run_state),
            environment=os.environ | self.secrets.for_tools(),
            cuda=machine.cuda,
        )

    def _checkpoint(self, uri: str | None, now: Run) -> dict[str, str]:
        fresh, values = self.options.fresh, self.secrets.values
        return resume.checkpoint(uri, self.ledger.run_state, now, fresh, values, self.interrupted)

    def _research(
        self,
        workspace: Workspace,
        machine: Machine,
        agent: Agent,
        view: View,
        checkpoint: Mapping[str, str],
        now: Run,
    ) -> None:
        run_state, scrub = self.ledger.run_state, self.secrets.scrub
        if not run_state.finished:
            parts = Parts(
                brief=self.brief,
                workspace=workspace,
                agent=agent,
                executor=machine.executor(self.brief, workspace, self.state, checkpoint, scrub),
                ledger=self.ledger,
                budget=self.budget,
                view=view,
                seed=resume.dice(run_state),
                interrupted=self.interrupted,
                inherited=inheritance(self.state, run_state.run or now, self.options.fresh),
                claims=self.options.claims,
                level=next_level(self.state, self.brief.id),
            )
            run(parts)
        if run_state.improved and run_state.finished:
            _branch(workspace, self.ledger)


def _describe(options: Options, brief: Brief, workspace: Workspace, machine: Machine) -> Run:
    now = time.time()
    return Run(
        id=time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f"-{os.urandom(2).hex()}",
        started=now,
        base=workspace.base,
        branch=workspace.branch_name,
        repository=os.environ.get("GITHUB_REPOSITORY", ""),
        working_directory=workspace.prefix or ".",
        program=str(brief.path),
        brief_id=brief.id,
        brief_hash=brief.hash,
        prose=brief.prose,
        metric=brief.metric,
        goal=brief.goal,
        contract=brief.contract,
        agents=list(options.agents),
        budget={
            name: getattr(options, name)
            for name in ("max_experiments", "max_minutes", "max_usd", "gpu_usd_per_hour")
        },
        frozen=workspace.frozen(workspace.base),
        data=workspace.setup_hash,
        environment=machine.environment | {"autoresearch": __version__},
        visibility=brief.visibility,
        holdout=workspace.mentions("AUTORESEARCH_SPLIT"),
    )


def _branch(workspace: Workspace, ledger: Ledger) -> None:
    """Leave the proven stack as a branch in the user's repository."""
    run_state = ledger.run_state
    confirmation = run_state.confirmation
    assert confirmation is not None and run_state.run is not None
    patches = {
        int(patch.stem.rpartition("-")[2]): patch.read_bytes() for patch in run_state.proven()
    }
    changes = (
        (patch.decode("utf-8", "surrogateescape"), run_state.experiments[number].description)
        for number, patch in patches.items()
    )
    commits = dict(zip(map(str, patches), stacked(workspace, changes), strict=True))
    tip = [*commits.values()][-1]
    assert workspace.tree(tip) == confirmation.tree, "the branch must be what was confirmed"
    name = workspace.branch(f"autoresearch/{run_state.run.brief_id}", tip)
    ledger.append("fact", name="branch", value={"name": name, "commits": commits})
    count = f"{len(commits)} commit{'s' * (len(commits) != 1)}"
    click.echo(f"Branch {name}: {count}, the confirmed code.")


def refuse_blank(run_state: RunState) -> None:
    """Raises EnvironmentFault for a run that has ended and could ask nobody or use no answer."""
    confirmation = run_state.confirmation
    if run_state.finished and confirmation and not confirmation.held and run_state.blank:
        raise EnvironmentFault(confirmation.reason)


def _closing_words(run_state: RunState, state: Path) -> None:
    confirmation = run_state.confirmation
    click.echo(f"Stopped: {run_state.stop_reason.rstrip('.')}.")
    if confirmation and run_state.finished and not run_state.blank:
        click.echo(confirmation.reason)
    if not run_state.finished:
        click.echo("Nothing is lost: the same command (without --fresh) goes on from here.")
        sys.stdout.flush()
    if run_state.run:
        click.echo(f"Read {state / 'PULL_REQUEST.md'} and {state / 'report.html'}.")
