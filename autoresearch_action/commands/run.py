"""A session: what a command needs, put together. From options to the parts of a run, and from a
state to its views.

Owns the order of set-up (secrets away, ledger locked, brief read, base found, setup run) and the
signals. The search itself is research/search.py's.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import click

from autoresearch_action import __version__, metric_names
from autoresearch_action import brief as briefs
from autoresearch_action import ledger as ledgers
from autoresearch_action.acceptance import NeedRuns
from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.errors import EnvironmentFault, InputError, Interrupted
from autoresearch_action.isolation import device, sandbox
from autoresearch_action.isolation.process import end_all
from autoresearch_action.isolation.secrets import Secrets
from autoresearch_action.ledger import Ledger, RunState
from autoresearch_action.records import Run
from autoresearch_action.research.history import History, changed
from autoresearch_action.trials import Executor
from autoresearch_action.trials.checkpoint import shown
from autoresearch_action.trials.pool import LocalPool
from autoresearch_action.trials.setup import SETUP_LOG, run_setup
from autoresearch_action.workspace.git import uncommitted
from autoresearch_action.workspace.trees import Workspace

AT_ONCE = b"""
autoresearch: ended at once. What was done is in the ledger: the same command goes on from there, `autoresearch report` shows it.
"""
# The live view hides it
SHOW_CURSOR = b"\x1b[?25h"
# Calibration, one candidate, confirmation: the least a run can be
FIRST_RUNS = 2 + 2 + 12


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
    # False: a shard of a fleet
    claims: bool = True
    # A later step of this job holds a token that can write: no trial without the full sandbox
    require_sandbox: bool = False


def at_once() -> NoReturn:
    """End this process and all below it. Not by an exception: raised between any two steps, it can
    leave a lock held for ever.
    """
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_all()
        os.write(2, AT_ONCE)
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
    finally:
        # Whoever read what it said may have gone
        os._exit(130)


class Signals:
    """SIGINT, SIGTERM and SIGHUP as a reason to stop; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.reason = ""

    def __call__(self) -> str:
        return self.reason

    @contextmanager
    def caught(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        # But under nohup
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        old = {number: signal.signal(number, self._arrived) for number in numbers}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _arrived(self, number: int, _frame: object) -> None:
        if self.reason and number == signal.SIGINT:
            at_once()
        self.reason = f"interrupted by {signal.Signals(number).name}"


def run_session(options: Options, directory: Path) -> RunState:
    """`autoresearch run`."""
    from autoresearch_action.github import event

    signals, secrets = Signals(), Secrets.take(os.environ)
    dispatched = event.read(os.environ)
    brief = briefs.read(options.program, directory, options.brief or dispatched.brief)
    checkpoint = options.checkpoint or dispatched.checkpoint
    ledger = Ledger(options.state.resolve())
    try:
        with signals.caught():
            run_state = _run(options, directory, brief, checkpoint, ledger, secrets, signals)
    except Interrupted as interruption:
        # Nothing was begun or gone on with: the ledger is as it was
        run_state = RunState(ledger.path)
        run_state.stop_reason = str(interruption)
    finally:
        ledger.close()
    _closing_words(run_state, options.state)
    return run_state


def _run(
    options: Options,
    directory: Path,
    brief: Brief,
    checkpoint: str | None,
    ledger: Ledger,
    secrets: Secrets,
    signals: Signals,
) -> RunState:
    from autoresearch_action import report
    from autoresearch_action.agents import registry
    from autoresearch_action.report.live import View
    from autoresearch_action.research.confirmation import next_level
    from autoresearch_action.research.search import Parts, run

    state = options.state.resolve()
    budget = Budget(
        options.max_experiments,
        options.max_minutes,
        options.max_usd,
        options.gpu_usd_per_hour,
        time.monotonic,
    )
    machine = _Machine(options.slots, brief, options.require_sandbox, options.executor)
    budget.slots = len(machine.slots)
    if brief.fixed_time:
        budget.check_size(brief.time_budget, FIRST_RUNS)
    workspace = Workspace(directory, state, brief)
    agent = registry.make(
        list(options.agents),
        brief,
        key=secrets.model_key,
        usd_per_call=options.usd_per_call,
        seed=_seed(ledger.run_state),
        environment=os.environ | secrets.for_tools(),
        cuda=machine.cuda,
    )

    def interrupted() -> str:
        return signals() or budget.over()

    with (
        closing(View(brief, budget)) as view,
        machine.locked(view.note, signals, budget.seconds_left),
    ):
        view.note(machine.told)
        kind, why = metric_names.taken_for(brief.metric, brief.measures)
        view.note(f"{brief.metric} is measured as {kind}: {why}.")
        if uncommitted(directory / brief.path):
            view.note(
                f"{brief.path} is not committed as it is here: publishing reads it from the measured commit, so commit it first."
            )
        workspace.setup_hash = run_setup(workspace, secrets, view.note, interrupted)
        now = _describe(options, brief, workspace, machine)
        given = _checkpoint(checkpoint, ledger.run_state, now, options.fresh, secrets, interrupted)
        now = now.model_copy(update={"checkpoint": recorded(given)})
        # After all that can be refused: it may put a ledger aside
        _begin(ledger, now, options.fresh, view.note)
        run_state, past = ledger.run_state, History.of(state, ledger.run_state.run or now)
        try:
            if not run_state.finished:
                executor = machine.executor(brief, workspace, state, given, secrets.scrub)
                parts = Parts(
                    brief,
                    workspace,
                    agent,
                    executor,
                    ledger,
                    budget,
                    view,
                    _seed(run_state),
                    interrupted,
                    claims=options.claims,
                )
                parts = replace(
                    parts,
                    earlier=past.verdicts,
                    known=past.trees,
                    noise=past.noise,
                    audit=past.audit,
                )
                parts = replace(
                    parts, inherited=() if options.fresh else past.stack, settled=past.settled
                )
                run(replace(parts, level=next_level(state, brief.id)))
            if run_state.improved and run_state.finished:
                _branch(workspace, ledger)
        finally:
            report.write(state, run_state)
    if run_state.finished:
        # From here on the next start is another run
        ledger.append("fact", name="delivered", value=True)
    return run_state


class _Machine:
    """Where trials run: this machine's slots, sandbox and device locks, or a cluster's slots."""

    def __init__(
        self, slots: str, brief: Brief, require_sandbox: bool = False, where: str = "local"
    ) -> None:
        wanted: str = "require" if require_sandbox else brief.sandbox
        self._remote = None
        self._local: list[device.Slot] = []
        if where == "local":
            self._local = device.find_slots(slots, exclusive=brief.measures_time)
            self._isolation = sandbox.choose(wanted)
            self.slots, self.told = [slot.name for slot in self._local], self._isolation.describe()
            self.environment = device.environment(self._local) | {
                "sandbox": self._isolation.strength
            }
            self.cuda = any(slot.gpu for slot in self._local)
        else:
            from autoresearch_action.trials.cluster import RayPool

            self._remote = RayPool(where, slots, wanted, exclusive=brief.measures_time)
            self.slots, self.told, self.environment = (
                self._remote.slots,
                self._remote.told,
                self._remote.environment,
            )
            self.cuda = self._remote.cuda
        self._locks = device.Locks(self._local, exclusive=brief.measures_time and where == "local")

    @contextmanager
    def locked(
        self,
        say: Callable[[str], None],
        interrupted: Callable[[], str] = str,
        patience: float = math.inf,
    ) -> Iterator[None]:
        """Its devices are nobody else's inside. Raises Interrupted, and EnvironmentFault when the
        patience is at its end.
        """
        try:
            self._locks.acquire(say, interrupted, patience)
        except EnvironmentFault:
            if reason := interrupted():
                raise Interrupted(reason) from None
            raise
        try:
            yield
        finally:
            self._locks.release()

    def executor(
        self,
        brief: Brief,
        workspace: Workspace,
        state: Path,
        checkpoint: dict[str, str],
        scrub: Callable[[str], str],
    ) -> Executor:
        path = Path(checkpoint["path"]) if checkpoint else None
        if self._remote:
            return self._remote.open(workspace, path, scrub)
        return LocalPool(brief, workspace, self._isolation, self._local, state, path, scrub)


def recorded(given: Mapping[str, str]) -> dict[str, str]:
    """What the ledger keeps of a checkpoint: no secret of its address."""
    return {"uri": shown(given["uri"]), "sha256": given["sha256"]} if given else {}


def _checkpoint(
    uri: str | None,
    run_state: RunState,
    now: Run,
    fresh: bool,
    secrets: Secrets,
    interrupted: Callable[[], str],
) -> dict[str, str]:
    """Fetched anew for a new run: what lies at an address changes. A run that goes on keeps what it
    began with.
    """
    if not uri:
        return {}
    from autoresearch_action.trials.checkpoint import fetch

    old = run_state.run.checkpoint if run_state.run else {}
    keep = old.get("uri") == shown(uri) and not _over(
        run_state, now.model_copy(update={"checkpoint": old}), fresh
    )
    path, sha = fetch(uri, run_state.state, secrets.values, keep, interrupted)
    return {"uri": uri, "path": str(path), "sha256": sha}


def _over(run_state: RunState, now: Run, fresh: bool) -> bool:
    """Whether the ledger's run, if there is one, is not gone on with."""
    return (
        run_state.run is None
        or fresh
        or bool(run_state.facts.get("delivered") or changed(run_state.run, now))
    )


def _begin(ledger: Ledger, now: Run, fresh: bool, say: Callable[[str], None]) -> None:
    """Resume the ledger's run, or put it aside where it is over or its evidence is of something
    else, and begin `now`.
    """
    run_state, old = ledger.run_state, ledger.run_state.run
    if old and not _over(run_state, now, fresh):
        say(
            f"Resuming run {old.id}: {run_state.tried} experiments done, {len(run_state.kept)} kept."
        )
        return
    if old:
        if not fresh and not run_state.facts.get("delivered"):
            say(
                f"Run {old.id} is put aside and a new one begins, because this has changed since: {', '.join(changed(old, now))}."
            )
        elif not fresh:
            say(
                f"Run {old.id} is finished: this is a new one, which measures again first what that one kept."
            )
        ledger.restart(old.id)
        log = run_state.state / "history" / f"{old.id}-trials" / SETUP_LOG
        # The setup that has just run is the new run's
        if log.exists():
            (run_state.state / "trials").mkdir(exist_ok=True)
            log.rename(run_state.state / "trials" / SETUP_LOG)
    ledger.append("run", now)


def _seed(run_state: RunState) -> int:
    """The run's own dice: from its id once it has one, so that a resumed run goes on with the same."""
    return (
        int.from_bytes(run_state.run.id.encode()[-4:], "big")
        if run_state.run
        else int(time.time()) % 2**31
    )


def _describe(options: Options, brief: Brief, workspace: Workspace, machine: _Machine) -> Run:
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
    commits, tip = {}, workspace.base
    for patch in run_state.proven():
        number = int(patch.stem[-4:])
        tip = workspace.commit(
            tip,
            patch.read_bytes().decode("utf-8", "surrogateescape"),
            run_state.experiments[number].description,
        )
        commits[str(number)] = tip
    assert workspace.tree(tip) == confirmation.tree, (
        "the branch must be the tree that was confirmed"
    )
    name = workspace.branch(f"autoresearch/{run_state.run.brief_id}", tip)
    ledger.append("fact", name="branch", value={"name": name, "commits": commits})
    click.echo(
        f"Branch {name}: {len(commits)} commit{'s' * (len(commits) != 1)}, the confirmed code."
    )


def _closing_words(run_state: RunState, state: Path) -> None:
    confirmation = run_state.confirmation
    click.echo(f"Stopped: {run_state.stop_reason.rstrip('.')}.")
    if confirmation and run_state.finished:
        click.echo(confirmation.reason)
    if not run_state.finished:
        click.echo("Nothing is lost: the same command (without --fresh) goes on from here.")
        sys.stdout.flush()
    if run_state.run:
        click.echo(f"Read {state / 'PULL_REQUEST.md'} and {state / 'report.html'}.")


def rewrite_report(state: Path) -> None:
    """`autoresearch report`."""
    from autoresearch_action import report

    run_state = _read(state)
    if run_state.run is None:
        raise InputError(f"The ledger in {state} has no run yet: there is nothing to report.")
    report.write(state, run_state)


def publish_session(
    state: Path, dry_run: bool, environment: Mapping[str, str] = os.environ
) -> None:
    """`autoresearch publish`."""
    from autoresearch_action.github.pull_request import publish
    from autoresearch_action.report import body

    if dry_run and not environment.get("GITHUB_TOKEN") and not environment.get("GH_TOKEN"):
        run_state = _read(state)
        told = (
            body.title(run_state)
            if run_state.improved
            else body.verdict_line(run_state)
            if run_state.run
            else "nothing yet"
        )
        click.echo(
            f"Dry run: {told}\nWith GITHUB_TOKEN and GITHUB_REPOSITORY set it also says what would change on GitHub."
        )
        return
    click.echo(publish(state, environment, dry_run).describe())


def _read(state: Path) -> RunState:
    if not (state / "ledger.jsonl").exists():
        raise InputError(f"{state} holds no ledger: `autoresearch run` makes one.")
    return ledgers.read(state)


def measure_noise(
    program: Path, directory: Path, state: Path, pairs: int, max_minutes: float
) -> str:
    """`autoresearch measure`: run the base on `2 × pairs` seeds and say what they tell."""
    from autoresearch_action.acceptance.noise import calibrate, derive, forecast
    from autoresearch_action.records import Measurement, Trial

    # Refuses what is no number of minutes
    Budget(1, max_minutes, 0.0)
    secrets, state = Secrets.take(os.environ), (state / "measure").resolve()
    brief = briefs.read(program, directory)
    machine = _Machine("auto", brief)
    with closing(Ledger(state)), machine.locked(click.echo):
        workspace = Workspace(directory, state, brief)
        workspace.setup_hash = run_setup(workspace, secrets, click.echo)
        executor = machine.executor(brief, workspace, state, {}, secrets.scrub)
        runs: list[Measurement] = []

        def measure(seed: int, reseed: bool) -> None:
            done = executor.submit(
                Trial(
                    number=0,
                    commit=workspace.base,
                    seed=seed,
                    reseed=reseed,
                    purpose="baseline",
                    index=len(runs) + 1,
                )
            )
            runs.append(done.result())
            last = runs[-1]
            if last.outcome != "ok":
                raise InputError(f"The program does not run: {last.reason}\n{last.tail}".strip())
            click.echo(f"run {len(runs)}: {brief.metric} {last.value:.6g}, {last.seconds:.1f} s")

        try:
            while isinstance(noise := calibrate(runs, brief), NeedRuns):
                for want in noise.runs:
                    measure(want.seed, noise.reseed)
            while len(runs) < 2 * pairs and not noise.exact:
                measure(derive(len(runs), "measure"), noise.reseed)
                again = calibrate(runs, brief)
                noise = again if isinstance(again, Noise) else noise
        finally:
            executor.close()
    return forecast(
        noise, brief, sum(run.seconds for run in runs) / len(runs), max_minutes, len(machine.slots)
    )
