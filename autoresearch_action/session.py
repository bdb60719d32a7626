"""A session: what a command needs, put together. From options to the parts of a run, and from a state to its views.

Owns the order of set-up (secrets away, ledger locked, brief read, base found, setup run) and the signals.
The search itself is loop.py's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from autoresearch_action import __version__
from autoresearch_action import brief as briefs
from autoresearch_action import ledger as ledgers
from autoresearch_action.acceptance import Ask
from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.checkpoint import shown
from autoresearch_action.errors import InputError
from autoresearch_action.ledger import DamagedLedger, Ledger, Study
from autoresearch_action.records import Proposal, Run, Verdict
from autoresearch_action.trials import Executor, device
from autoresearch_action.trials.pool import LocalPool
from autoresearch_action.trials.sandbox import Sandbox
from autoresearch_action.trials.secrets import Secrets
from autoresearch_action.trials.setup import run_setup
from autoresearch_action.trials.workspace import Workspace

FIRST_RUNS = 2 + 2 + 12  # calibration, one candidate, confirmation: the least a run can be
MAX_RUNS = 20  # earlier runs that are read
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
    claims: bool = True  # False: a shard of a fleet
    require_sandbox: bool = False  # a later step of this job holds a token that can write: no trial without the full sandbox


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
    from autoresearch_action.github import event

    signals, secrets = Signals(), Secrets.take(os.environ)
    dispatched = event.read(os.environ)
    brief = briefs.read(options.program, directory, options.brief or dispatched.brief)
    checkpoint = options.checkpoint or dispatched.checkpoint
    ledger = Ledger(options.state.resolve())
    try:
        with signals.caught():
            study = _run(options, directory, brief, checkpoint, ledger, secrets, signals)
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
    from autoresearch_action.proof import next_level
    from autoresearch_action.report.live import View

    state = options.state.resolve()
    budget = Budget(options.max_experiments, options.max_minutes, options.max_usd, options.gpu_usd_per_hour, time.monotonic)
    machine = _Machine(options.slots, brief, options.require_sandbox, options.executor)
    budget.slots = len(machine.slots)
    if brief.timed:
        budget.check_size(brief.time_budget, FIRST_RUNS)
    workspace = Workspace(directory, state, brief)
    agent = registry.make(
        list(options.agents),
        brief,
        key=secrets.model_key,
        usd_per_call=options.usd_per_call,
        seed=_seed(ledger.study),
        environment=os.environ | secrets.for_tools(),
        cuda=machine.cuda,
    )
    inherited = _begin(ledger, workspace, brief, options.fresh)  # after all that can be refused: it may put a ledger aside
    study = ledger.study
    past = Past.of(state, workspace.base)
    view = View(brief, budget)
    try:
        view.note(machine.told)
        if study.run:
            view.note(f"Resuming run {study.run.id}: {study.tried} experiments done, {len(study.kept)} kept.")
        machine.locks.acquire(view.note, signals, budget.seconds_left)
        workspace.setup_hash = run_setup(workspace, secrets.for_setup(brief.setup_env), view.note)
        given = _checkpoint(checkpoint, state, secrets)
        if study.run is None:
            ledger.append("run", _describe(options, brief, workspace, machine, given))
        if not study.finished:
            executor = machine.executor(brief, workspace, state, given, secrets.scrub)
            parts = Parts(brief, workspace, agent, executor, ledger, budget, view, _seed(study), lambda: signals() or budget.over())
            parts = replace(parts, earlier=past.verdicts, known=past.trees, inherited=inherited, level=next_level(state, brief.id))
            run(replace(parts, claims=options.claims, noise=past.noise_for(study), audit=past.audit))
        if study.improved and study.finished:
            _branch(workspace, ledger)
    finally:
        machine.locks.release()
        view.close()
        if study.run:
            report.write(state, study)
    if study.finished:
        ledger.append("fact", name="delivered", value=True)  # from here on the next start is another run
    return study


class _Machine:
    """Where trials run: this machine's slots, sandbox and device locks, or a cluster's slots."""

    def __init__(self, slots: str, brief: Brief, require_sandbox: bool = False, where: str = "local") -> None:
        wanted: str = "require" if require_sandbox else brief.sandbox
        self._remote = None
        self._local: list[device.Slot] = []
        if where == "local":
            self._local = device.find_slots(slots, exclusive=brief.timing)
            self._sandbox = Sandbox(wanted)
            self.slots, self.told = [slot.name for slot in self._local], self._sandbox.describe()
            self.environment = device.environment(self._local) | {"sandbox": self._sandbox.level}
            self.cuda = any(slot.gpu for slot in self._local)
        else:
            from autoresearch_action.trials.remote import RayPool

            self._remote = RayPool(where, slots, wanted, exclusive=brief.timing)
            self.slots, self.told, self.environment = self._remote.slots, self._remote.told, self._remote.environment
            self.cuda = self._remote.cuda
        self.locks = device.Locks(self._local, exclusive=brief.timing and where == "local")

    def executor(
        self, brief: Brief, workspace: Workspace, state: Path, checkpoint: dict[str, str], scrub: Callable[[str], str]
    ) -> Executor:
        path = Path(checkpoint["path"]) if checkpoint else None
        if self._remote:
            return self._remote.open(workspace, path, scrub)
        return LocalPool(brief, workspace, self._sandbox, self._local, state, path, scrub)


def _checkpoint(uri: str | None, state: Path, secrets: Secrets) -> dict[str, str]:
    if not uri:
        return {}
    from autoresearch_action.checkpoint import fetch

    path, sha = fetch(uri, state, secrets.values)
    return {"uri": uri, "path": str(path), "sha256": sha}


def _begin(ledger: Ledger, workspace: Workspace, brief: Brief, fresh: bool) -> tuple[Proposal, ...]:
    """Resume the ledger, or put it aside when it is finished or speaks of another base; its stack goes first then."""
    run, study, state = ledger.study.run, ledger.study, ledger.path.parent
    if run is None:
        newest = _earlier(state)[-1:]
        return _stack(newest[0]) if newest and not fresh else ()
    same = run.base == workspace.base and run.brief_hash == brief.hash
    if same and not study.facts.get("delivered") and not fresh:
        return ()
    inherited = _stack(study) if not fresh else ()
    ledger.restart(run.id)
    return inherited


def _earlier(state: Path) -> list[Study]:
    """The newest earlier runs, oldest first. One whose ledger is damaged costs only itself."""
    studies = []
    for path in sorted((state / "history").glob("*.jsonl"))[-MAX_RUNS:]:
        try:
            study = Study.of(path)
            for number in list(study.statuses)[-MAX_EARLIER:]:
                study.experiments[number]  # folded here, so that what is damaged is met here
            studies.append(study)
        except (DamagedLedger, OSError) as error:
            click.echo(f"An earlier run is left out: {error}", err=True)
    return studies


def _stack(study: Study) -> tuple[Proposal, ...]:
    """The kept changes of a run that is over, where their patches are still there."""
    return tuple(p for number in study.kept if (p := study.experiments[number].proposal) and p.patch)


@dataclass(frozen=True)
class Past:
    """What earlier runs of this brief left: verdicts (newest last), trees tried on this very base, noise, the audit."""

    verdicts: tuple[Verdict, ...]
    trees: dict[str, str]
    studies: tuple[Study, ...]

    @classmethod
    def of(cls, state: Path, base: str) -> Past:
        verdicts: list[Verdict] = []
        trees: dict[str, str] = {}
        studies = _earlier(state)
        for study in studies:
            numbers = [number for number in study.statuses if number]
            verdicts += [v for number in numbers[-MAX_EARLIER:] if (v := study.experiments[number].verdict)]
            if study.run and study.run.base == base:
                trees |= {tree: f"#{number} of run {study.run.id}" for tree, number in study.trees.items()}
        return cls(tuple(verdicts[-MAX_EARLIER:]), trees, tuple(studies))

    @property
    def audit(self) -> Mapping[str, object] | None:
        """The newest audit of early stops: each goes on from the one before."""
        return next((study.facts["audit"] for study in reversed(self.studies) if study.facts.get("audit")), None)

    def noise_for(self, study: Study) -> Noise | None:
        """The noise of an earlier run with equal device, base, brief and data."""
        for other in reversed(self.studies):
            if other.run and study.run and other.facts.get("noise") and _alike(other.run) == _alike(study.run):
                return Noise.model_validate(other.facts["noise"])
        return None


def _alike(run: Run) -> tuple[object, ...]:
    return run.base, run.frozen, run.data, run.brief_hash, run.checkpoint, run.environment


def _seed(study: Study) -> int:
    """The run's own dice: from its id once it has one, so that a resumed run goes on with the same."""
    return int.from_bytes(study.run.id.encode()[-4:], "big") if study.run else int(time.time()) % 2**31


def _describe(options: Options, brief: Brief, workspace: Workspace, machine: _Machine, checkpoint: dict[str, str]) -> Run:
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
        contract=brief.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        | ({"time-budget": brief.time_budget} if brief.timed else {}),  # what all are equal in, default or not
        agents=list(options.agents),
        budget={name: getattr(options, name) for name in ("max_experiments", "max_minutes", "max_usd", "gpu_usd_per_hour")},
        frozen=workspace.frozen(workspace.base),
        data=workspace.setup_hash,
        environment=machine.environment | {"autoresearch": __version__},
        checkpoint={"uri": shown(checkpoint["uri"]), "sha256": checkpoint["sha256"]} if checkpoint else {},
        visibility=brief.visibility,
        holdout=workspace.mentions("AUTORESEARCH_SPLIT"),
    )


def _branch(workspace: Workspace, ledger: Ledger) -> None:
    """Leave the proven stack as a branch in the user's repository."""
    study = ledger.study
    confirmation = study.confirmation
    assert confirmation is not None and study.run is not None
    commits, tip = {}, workspace.base
    for patch in study.proven():
        number = int(patch.stem[-4:])
        tip = workspace.commit(tip, patch.read_bytes().decode("utf-8", "surrogateescape"), study.experiments[number].description)
        commits[str(number)] = tip
    assert workspace.tree(tip) == confirmation.tree, "the branch must be the tree that was confirmed"
    name = workspace.branch(f"autoresearch/{study.run.brief_id}", tip)
    ledger.append("fact", name="branch", value={"name": name, "commits": commits})
    click.echo(f"Branch {name}: {len(commits)} commit{'s' * (len(commits) != 1)}, the confirmed code.")


def _closing_words(study: Study, state: Path) -> None:
    confirmation = study.confirmation
    click.echo(f"Stopped: {study.stop_reason.rstrip('.')}.")
    if confirmation and study.finished:
        click.echo(confirmation.reason)
    if not study.finished:
        click.echo("Nothing is lost: the same command goes on from here.")
        sys.stdout.flush()
    click.echo(f"Read {state / 'PULL_REQUEST.md'} and {state / 'report.html'}.")


def rewrite_report(state: Path) -> None:
    """`autoresearch report`."""
    from autoresearch_action import report

    study = _read(state)
    if study.run is None:
        raise InputError(f"The ledger in {state} has no run yet: there is nothing to report.")
    report.write(state, study)


def publish_session(state: Path, dry_run: bool, environment: Mapping[str, str] = os.environ) -> None:
    """`autoresearch publish`."""
    from autoresearch_action.github.pull_request import publish
    from autoresearch_action.report import body

    if dry_run and not environment.get("GITHUB_TOKEN") and not environment.get("GH_TOKEN"):
        study = _read(state)
        told = body.title(study) if study.improved else body.verdict_line(study) if study.run else "nothing yet"
        click.echo(f"Dry run: {told}\nWith GITHUB_TOKEN and GITHUB_REPOSITORY set it also says what would change on GitHub.")
        return
    click.echo(publish(state, environment, dry_run).describe())


def _read(state: Path) -> Study:
    if not (state / "ledger.jsonl").exists():
        raise InputError(f"{state} holds no ledger: `autoresearch run` makes one.")
    return ledgers.read(state)


def measure_noise(program: Path, directory: Path, state: Path, pairs: int, max_minutes: float) -> str:
    """`autoresearch measure`: run the base on `2 × pairs` seeds and say what they tell."""
    from autoresearch_action.acceptance.noise import calibrate, derive, forecast
    from autoresearch_action.records import Measurement, Trial

    secrets = Secrets.take(os.environ)
    brief = briefs.read(program, directory)
    machine = _Machine("auto", brief)
    ledger = Ledger((state / "measure").resolve())
    try:
        workspace = Workspace(directory, (state / "measure").resolve(), brief)
        workspace.setup_hash = run_setup(workspace, secrets.for_setup(brief.setup_env), click.echo)
        executor = machine.executor(brief, workspace, (state / "measure").resolve(), {}, secrets.scrub)
        runs: list[Measurement] = []

        def measure(seed: int, reseed: bool) -> None:
            done = executor.submit(
                Trial(number=0, commit=workspace.base, seed=seed, reseed=reseed, purpose="baseline", index=len(runs) + 1)
            )
            runs.append(done.result())
            last = runs[-1]
            if last.outcome != "ok":
                raise InputError(f"The program does not run: {last.reason}\n{last.tail}".strip())
            click.echo(f"run {len(runs)}: {brief.metric} {last.value:.6g}, {last.seconds:.1f} s")

        try:
            while isinstance(noise := calibrate(runs, brief), Ask):
                for want in noise.runs:
                    measure(want.seed, noise.reseed)
            while len(runs) < 2 * pairs and not noise.exact:
                measure(derive(len(runs), "measure"), noise.reseed)
                again = calibrate(runs, brief)
                noise = again if isinstance(again, Noise) else noise
        finally:
            executor.close()
    finally:
        ledger.close()
    return forecast(noise, brief, sum(run.seconds for run in runs) / len(runs), max_minutes, len(machine.slots))
