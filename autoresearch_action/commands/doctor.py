"""`autoresearch doctor`: everything a first run needs, checked one after the other, with what to do
about each lack.

Runs the brief's commands once (more often where they are quick, to see whether seeds matter).
Writes only below a temporary state folder, with the devices to itself. Ends 0 when nothing stands
in the way, 2 for the user's files, 3 for the machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoresearch_action import brief as briefs
from autoresearch_action.acceptance.noise import blind
from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError, UserError
from autoresearch_action.isolation import device
from autoresearch_action.isolation.sandbox import Sandbox
from autoresearch_action.isolation.secrets import Secrets
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.workspace.git import uncommitted

if TYPE_CHECKING:
    from autoresearch_action.trials.pool import LocalPool

# Seconds that another run's hold on the device is waited for
PATIENCE = 60.0
# Seconds; a run that takes longer is not repeated
QUICK = 60.0
# Seconds of training that a try is given
TRY_BUDGET = 10.0
SEED_LINES = 'seed = int(os.environ.get("AUTORESEARCH_SEED", "1337"))\ntorch.manual_seed(seed)'


@dataclass(frozen=True)
class Finding:
    """One check: `code` 0 when it is well, else what the process would end with; `advice` for
    people.
    """

    name: str
    text: str
    code: int = 0
    advice: str = ""


def doctor(directory: Path, program: Path) -> int:
    """Print every finding as it comes. Returns the exit code."""
    secrets = Secrets.take(os.environ)
    worst = 0
    for finding in _examine(directory, program, secrets):
        mark = (
            click.style("ok  ", fg="green")
            if not finding.code and not finding.advice
            else click.style("note", fg="yellow")
        )
        mark = click.style("FAIL", fg="red") if finding.code else mark
        click.echo(
            f"{mark} {finding.name}: {finding.text}"
            + (f"\n     {finding.advice}" if finding.advice else "")
        )
        worst = worst or finding.code
    click.echo(
        "Nothing stands in the way: `autoresearch run`."
        if not worst
        else "Mend what is marked FAIL and ask again."
    )
    return worst


def _examine(directory: Path, program: Path, secrets: Secrets) -> Iterator[Finding]:
    try:
        brief = briefs.read(program, directory)
    except UserError as error:
        yield Finding(
            "brief", str(error), error.exit_code, "`autoresearch init` writes one that works."
        )
        return
    yield Finding(
        "brief", f"{program}: {brief.metric}, {brief.goal}, edits {', '.join(brief.edit)}"
    )
    if uncommitted(directory / program):
        yield Finding(
            "commit",
            f"{program} is not committed as it is here",
            2,
            f"git add {program} && git commit: HEAD is what is read.",
        )
    sandbox = _sandbox(brief)
    yield sandbox if isinstance(sandbox, Finding) else _level(sandbox)
    yield _device()
    yield _key(secrets, brief)
    yield from _token(secrets.values, os.environ)
    if isinstance(sandbox, Sandbox):
        yield from _try_run(directory, brief, sandbox, secrets)


def _sandbox(brief: Brief) -> Sandbox | Finding:
    try:
        return Sandbox(brief.sandbox)
    except UserError as error:
        return Finding("sandbox", str(error), error.exit_code, "sudo apt install bubblewrap")


def _level(sandbox: Sandbox) -> Finding:
    advice = (
        ""
        if sandbox.level == "full"
        else "sudo apt install bubblewrap; in a container, allow user namespaces."
    )
    return Finding("sandbox", sandbox.describe().removeprefix("Sandbox: "), advice=advice)


def _device() -> Finding:
    cards = device.gpus()
    if cards:
        return Finding("device", f"{len(cards)} GPU{'s' * (len(cards) > 1)}, one slot each")
    return Finding(
        "device",
        f"no GPU; {len(os.sched_getaffinity(0))} processor cores",
        advice="Fine for a try; nvidia-smi shows GPUs.",
    )


def _key(secrets: Secrets, brief: Brief) -> Finding:
    if secrets.model_key:
        return Finding("model", "a key is set; --agent claude is the default")
    from autoresearch_action.agents.optuna import OptunaAgent

    try:
        OptunaAgent(brief, 1)
    except InputError as error:
        return Finding(
            "model", f"no key, and {error}", error.exit_code, "Or set ANTHROPIC_API_KEY."
        )
    return Finding(
        "model",
        "no key; --agent optuna is the default",
        advice="Set ANTHROPIC_API_KEY to let a model propose.",
    )


def _token(secret: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[Finding]:
    token, repository = (
        secret.get("GITHUB_TOKEN") or secret.get("GH_TOKEN"),
        environ.get("GITHUB_REPOSITORY"),
    )
    if not token or not repository:
        yield Finding(
            "github",
            "no token here",
            advice="Only `publish` needs GITHUB_TOKEN and GITHUB_REPOSITORY.",
        )
        return
    from autoresearch_action.github.api import allowed

    for name, text, advice in allowed(token, repository, environ):
        yield Finding(name, text, 3 if advice else 0, advice)


def _try_run(
    directory: Path, brief: Brief, sandbox: Sandbox, secrets: Secrets
) -> Iterator[Finding]:
    """The brief's commands, once; where that is quick, with another seed, and with literal seeds
    replaced as a run would.
    """
    from autoresearch_action.trials.pool import LocalPool
    from autoresearch_action.trials.setup import run_setup
    from autoresearch_action.workspace.trees import Workspace

    with tempfile.TemporaryDirectory() as folder:
        try:
            workspace = Workspace(directory, Path(folder), brief)
            workspace.setup_hash = run_setup(workspace, secrets, click.echo)
            slots = device.find_slots("1", exclusive=brief.measures_time)
            locks = device.Locks(slots, exclusive=brief.measures_time)
            locks.acquire(click.echo, str, PATIENCE)
        except UserError as error:
            yield Finding("repository", str(error), error.exit_code)
            return
        pool = LocalPool(brief, workspace, sandbox, slots, Path(folder), scrub=secrets.scrub)
        try:
            runs = _tries(pool, workspace.base, brief)
            again = (
                _tries(pool, workspace.base, brief, reseed=True)
                if len(runs) == 2 and not brief.exact and blind(runs)
                else []
            )
        finally:
            pool.close()
            locks.release()
    yield from _told(brief, runs)
    if again and (len(again) < 2 or blind(again)):
        yield Finding(
            "seeds",
            "seeds make no difference, so nothing could be claimed",
            advice=f"Add to the program:\n{SEED_LINES}",
        )
    elif again:
        yield Finding("seeds", "literal seeds are replaced in the trial's copy")


def _tries(pool: LocalPool, commit: str, brief: Brief, reseed: bool = False) -> list[Measurement]:
    """Runs with two seeds; one alone where it fails or is not quick."""
    budget = min(TRY_BUDGET, brief.time_budget)
    runs: list[Measurement] = []
    for seed in (1, 2):
        trial = Trial(
            number=0,
            commit=commit,
            seed=seed,
            time_budget=budget,
            reseed=reseed,
            index=seed + 2 * reseed,
        )
        runs.append(pool.submit(trial).result())
        if runs[-1].outcome != "ok" or runs[-1].seconds > QUICK:
            break
    return runs


def _told(brief: Brief, runs: list[Measurement]) -> Iterator[Finding]:
    last = runs[-1]
    if absent := [path for path in (*brief.data, *brief.evaluate_data) if not path.exists()]:
        yield Finding(
            "data",
            f"{absent[0]} is not there",
            advice="A trial sees nothing there: mend `data`, or let `setup` make it.",
        )
    if brief.decoy and not brief.decoy.is_dir() and device.gpus():
        yield Finding(
            "decoy",
            f"{brief.decoy} is not there",
            advice="Without it what a change compiles counts as its time.",
        )
    if last.outcome != "ok":
        yield Finding(
            "run",
            f"{last.reason}\n{last.tail}".strip(),
            2,
            "Make this work by hand first, from a clean checkout.",
        )
        return
    values = ", ".join(f"{run.value:.6g}" for run in runs)
    yield Finding("run", f"{brief.metric}: {values} ({last.seconds:.1f} s)")
    if unprinted := [name for name in brief.limits if name not in last.metrics]:
        yield Finding(
            "limits",
            f"`limits` names {unprinted[0]}, which the base does not print",
            2,
            "Print it, or take the limit out.",
        )
    if last.self_reported:
        yield Finding(
            "scorer",
            "self-reported",
            advice="Give `evaluate`: frozen code that scores what `run` leaves behind.",
        )
