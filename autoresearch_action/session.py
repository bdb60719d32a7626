"""A session: what a command needs, put together. From options to the parts of a run, and from a state to its views.

Owns the order of set-up (secrets away, ledger locked, brief read, base found, setup run) and the signals.
The search itself is loop.py's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from autoresearch_action import __version__
from autoresearch_action import brief as briefs
from autoresearch_action import ledger as ledgers
from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.errors import InputError
from autoresearch_action.ledger import Ledger, Study
from autoresearch_action.records import Proposal, Run, Verdict
from autoresearch_action.trials.secrets import Secrets
from autoresearch_action.trials.workspace import Workspace

FIRST_RUNS = 2 + 2 + 12  # calibration, one candidate, confirmation: the least a run can be
MAX_EARLIER = 500  # verdicts of earlier runs that agents are shown


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
    slots: str
    executor: str
    checkpoint: str | None
    state: Path
    fresh: bool


class Signals:
    """SIGINT and SIGTERM as a reason to stop; a second one ends the process at once."""

    def __init__(self) -> None:
        self.reason = ""

    def __call__(self) -> str:
        return self.reason

    @contextmanager
    def caught(self) -> Iterator[None]:
        old = {number: signal.signal(number, self._arrived) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _arrived(self, number: int, _frame: object) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = f"interrupted by {signal.Signals(number).name}"


def run_session(options: Options, directory: Path) -> Study:
    """`autoresearch run`."""
    from autoresearch_action.github import event, outputs

    signals, secrets = Signals(), Secrets.take(os.environ)
    dispatched = event.read(os.environ)
    brief = briefs.read(options.program, directory, options.brief or dispatched.brief)
    checkpoint = options.checkpoint or dispatched.checkpoint
    ledger = Ledger(options.state)
    try:
        with signals.caught():
            study = _run(options, directory, brief, checkpoint, ledger, secrets, signals)
            outputs.write(study, os.environ)
    finally:
        ledger.close()
    _closing_words(study, options.state)
    return study


def _run(
    options: Options, directory: Path, brief: Brief, checkpoint: str | None, ledger: Ledger, secrets: Secrets, signals: Signals
) -> Study:
    from autoresearch_action import report
    from autoresearch_action.agents import registry
    from autoresearch_action.loop import Parts, run
    from autoresearch_action.report.live import View
    from autoresearch_action.trials.device import find_slots
    from autoresearch_action.trials.pool import LocalPool
    from autoresearch_action.trials.sandbox import Sandbox

    state = options.state.resolve()
    budget = Budget(options.max_experiments, options.max_minutes, options.max_usd, options.gpu_usd_per_hour, time.monotonic)
    slots = find_slots(options.slots, exclusive=brief.timing)
    budget.slots = len(slots)
    if brief.timed:
        budget.check_size(brief.time_budget, FIRST_RUNS)
    sandbox = Sandbox(brief.sandbox)
    workspace = Workspace(directory, state, brief)
    inherited = _begin(ledger, workspace, brief, options.fresh)
    study = ledger.study
    agent = registry.make(list(options.agents), brief, key=secrets.model_key, usd_per_call=options.usd_per_call, seed=_seed(study))
    earlier, known = _earlier(state, workspace.base)
    view = View(brief, budget)
    view.note(sandbox.describe())
    workspace.setup(sandbox, secrets.for_setup(brief.setup_env))
    given: dict[str, str] = {}
    if checkpoint:
        from autoresearch_action.checkpoint import fetch

        path, sha = fetch(checkpoint, state)
        given = {"uri": checkpoint, "path": str(path), "sha256": sha}
    if study.run is None:
        ledger.append("run", _describe(options, brief, workspace, sandbox, slots, given))
    executor = LocalPool(brief, workspace, sandbox, slots, state, checkpoint=Path(given["path"]) if given else None)
    parts = Parts(brief, workspace, agent, executor, ledger, budget, view, _seed(study), signals, earlier, known, inherited)
    try:
        study = run(parts)
    finally:
        view.close()
        if study.experiments:
            report.write(state, study)
    if study.improved:
        _branch(workspace, study)
    return study


def _begin(ledger: Ledger, workspace: Workspace, brief: Brief, fresh: bool) -> tuple[Proposal, ...]:
    """Resume the ledger, or put it aside when it is finished or speaks of another base; its stack goes first then."""
    run, study = ledger.study.run, ledger.study
    if run is None:
        return ()
    same = run.base == workspace.base and run.brief_hash == brief.hash
    if same and not study.finished and not fresh:
        return ()
    inherited = tuple(p for number in study.kept if (p := study.experiments[number].proposal)) if not fresh else ()
    ledger.restart(run.id)
    return inherited


def _earlier(state: Path, base: str) -> tuple[tuple[Verdict, ...], dict[str, str]]:
    """Verdicts of earlier runs, newest last, and the trees that were tried on this very base."""
    verdicts: list[Verdict] = []
    known: dict[str, str] = {}
    for path in sorted((state / "history").glob("*.jsonl"))[-20:]:
        study = Study.of(path)
        numbers = [number for number in study.statuses if number]
        verdicts += [v for number in numbers[-MAX_EARLIER:] if (v := study.experiments[number].verdict)]
        if study.run and study.run.base == base:
            known |= {tree: f"#{number} of run {study.run.id}" for tree, number in study.trees.items()}
    return tuple(verdicts[-MAX_EARLIER:]), known


def _seed(study: Study) -> int:
    """The run's own dice: from its id once it has one, so that a resumed run goes on with the same."""
    return int.from_bytes(study.run.id.encode()[-4:], "big") if study.run else int(time.time()) % 2**31


def _describe(options: Options, brief: Brief, workspace: Workspace, sandbox: Any, slots: Any, checkpoint: dict[str, str]) -> Run:
    from autoresearch_action.trials.device import environment

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
        contract=brief.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        agents=list(options.agents),
        budget={name: getattr(options, name) for name in ("max_experiments", "max_minutes", "max_usd", "gpu_usd_per_hour")},
        frozen=workspace.frozen(workspace.base),
        data=workspace.setup_hash,
        environment=environment(slots) | {"sandbox": sandbox.level, "autoresearch": __version__},
        checkpoint=checkpoint,
        visibility=brief.visibility,
    )


def _branch(workspace: Workspace, study: Study) -> None:
    """Leave the proven stack as a branch in the user's repository."""
    confirmation = study.confirmation
    assert confirmation is not None and study.run is not None
    commits = [study.experiments[number].commit for number in confirmation.numbers]
    name = f"autoresearch/{study.run.brief_id}"
    workspace.branch(name, commits, [study.experiments[number].description for number in confirmation.numbers])
    click.echo(f"Branch {name}: {len(commits)} commit{'s' * (len(commits) != 1)}, the confirmed code.")


def _closing_words(study: Study, state: Path) -> None:
    confirmation = study.confirmation
    click.echo(f"Stopped: {study.stop_reason}.")
    if confirmation and study.finished:
        click.echo(confirmation.reason)
    if not study.finished:
        click.echo("Nothing is lost: the same command goes on from here.")
        sys.stdout.flush()
    click.echo(f"Read {state / 'PULL_REQUEST.md'} and {state / 'report.html'}.")


def rewrite_report(state: Path) -> None:
    """`autoresearch report`."""
    from autoresearch_action import report

    report.write(state, _read(state))


def publish_session(state: Path, dry_run: bool, environment: Mapping[str, str] = os.environ) -> None:
    """`autoresearch publish`."""
    from autoresearch_action.github.pull_request import publish

    result = publish(state, dry_run=dry_run, env=environment)
    click.echo(result.describe())


def _read(state: Path) -> Study:
    if not (state / "ledger.jsonl").exists():
        raise InputError(f"{state} holds no ledger: `autoresearch run` makes one.")
    return ledgers.read(state)


def measure_noise(program: Path, directory: Path, state: Path, pairs: int, max_minutes: float) -> str:
    """`autoresearch measure`: run the base on `2 × pairs` seeds and say what they tell."""
    raise NotImplementedError
