"""`autoresearch doctor`: everything a first run needs, checked one after the other, with what to do
about each lack.

Runs the brief's commands once (more often where they are quick, to see whether seeds matter).
Writes only below a temporary state folder, with the devices to itself. Ends 0 when nothing stands
in the way, 2 for the user's files, 3 for the machine.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoresearch_action import brief as briefs
from autoresearch_action.acceptance.noise import blind
from autoresearch_action.agents.relevance import names
from autoresearch_action.brief import Brief, metric_names
from autoresearch_action.commands.init import GUESSED
from autoresearch_action.errors import InputError, UserError
from autoresearch_action.isolation import Isolation, device
from autoresearch_action.isolation.sandbox import choose, remedy
from autoresearch_action.isolation.secrets import Secrets
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.workspace.git import uncommitted
from autoresearch_action.workspace.patch import PatchRefused, editable
from autoresearch_action.workspace.patterns import matches

if TYPE_CHECKING:
    from autoresearch_action.trials.pool import LocalPool
    from autoresearch_action.workspace.trees import Workspace

# Seconds that another run's hold on the device is waited for
PATIENCE = 60.0
# Seconds; a run that takes longer is not repeated
QUICK = 60.0
# Seconds of training that a try is given
TRY_BUDGET = 10.0
# Runs that must tie before seeds are said to make no difference
TIES = 4
# Of programs, which a line of nonsense breaks
CODE = frozenset(
    {
        ".py", ".pyx", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".js", ".mjs", ".ts",
        ".jl", ".r", ".java", ".rb", ".lua", ".sh", ".f90", ".zig", ".hs",
    }
)  # fmt: skip
# No language reads it; put before what is to be edited, and so many files are
CANARY, MOST_BROKEN = b")]} canary of autoresearch doctor {[(\n", 500
# By what a program imports, how it is seeded
PYTHON_SEEDS = {
    "torch": "torch.manual_seed(seed)",
    "jax": "key = jax.random.PRNGKey(seed)",
    "tensorflow": "tensorflow.random.set_seed(seed)",
    "numpy": "rng = numpy.random.default_rng(seed)",
    "": "random.seed(seed)",
}
# By the ending of its name, how a program reads the seed
OTHER_SEEDS = {
    ".sh": '"${AUTORESEARCH_SEED:-1337}"',
    ".js": "Number(process.env.AUTORESEARCH_SEED ?? 1337)",
    ".ts": "Number(process.env.AUTORESEARCH_SEED ?? 1337)",
    ".rs": 'std::env::var("AUTORESEARCH_SEED")',
    ".go": 'os.Getenv("AUTORESEARCH_SEED")',
    ".c": 'getenv("AUTORESEARCH_SEED")',
    ".cc": 'std::getenv("AUTORESEARCH_SEED")',
    ".cpp": 'std::getenv("AUTORESEARCH_SEED")',
    ".jl": 'parse(Int, get(ENV, "AUTORESEARCH_SEED", "1337"))',
    ".r": 'set.seed(as.integer(Sys.getenv("AUTORESEARCH_SEED", "1337")))',
}


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
        there = (directory / program).exists()
        advice = (
            "Mend that and ask again; docs/reference.md of this tool has every key."
            if there
            else ""
        )
        yield Finding("brief", str(error), error.exit_code, advice)
        return
    yield Finding(
        "brief", f"{program}: {brief.metric}, {brief.goal}, edits {', '.join(brief.edit)}"
    )
    yield from _metric(brief, (directory / program).read_text("utf-8", "replace"))
    if uncommitted(directory / program):
        yield Finding(
            "commit",
            f"{program} is not committed as it is here",
            2,
            f"git add {program} && git commit: HEAD is what is read.",
        )
    shown = [*names(directory)] if brief.context else []
    for pattern in brief.context:
        if not any(matches(name, [pattern]) for name in shown):
            advice = "Agents see nothing of it: mend `context`."
            yield Finding("context", f"{pattern} is no file here", advice=advice)
    sandbox = _sandbox(brief)
    yield sandbox if isinstance(sandbox, Finding) else _level(sandbox)
    yield _device()
    yield _key(secrets, brief)
    yield from _token(secrets.values, os.environ)
    if not isinstance(sandbox, Finding):
        yield from _try_run(directory, brief, sandbox, secrets)


def _metric(brief: Brief, text: str) -> Iterator[Finding]:
    """What the metric is taken for, and which way it is read."""
    kind, why = metric_names.taken_for(brief.metric, brief.measures)
    yield Finding("metric", f"{brief.metric} is measured as {kind}: {why}")
    guessed = [line.split("#")[0].strip() for line in text.split("\n") if GUESSED in line]
    usual = metric_names.goal(brief.metric)
    if guessed:
        yield Finding(
            "guesses",
            f"guessed by `init`: {', '.join(guessed)}",
            advice="Is that so? Check it, and take the remark out.",
        )
    elif usual and usual != brief.goal:
        yield Finding(
            "goal",
            f"`goal: {brief.goal}`, though a {brief.metric} is mostly to be {usual}d",
            advice=f"If less and more are mixed up here: goal: {usual}",
        )


def _sandbox(brief: Brief) -> Isolation | Finding:
    try:
        return choose(brief.sandbox)
    except UserError as error:
        return Finding("sandbox", str(error), error.exit_code)


def _level(sandbox: Isolation) -> Finding:
    told = sandbox.describe().removeprefix("Sandbox: ")
    advice = "" if sandbox.strength == "full" else f"For the full sandbox {remedy(told)}."
    return Finding("sandbox", told, advice=advice)


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
        advice = "Set ANTHROPIC_API_KEY, or run with --agent command:CMD or patches:DIR."
        return Finding("model", f"no key, and {error}", advice=advice)
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
    directory: Path, brief: Brief, sandbox: Isolation, secrets: Secrets
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
            blinded = _canary(pool, workspace) if runs[-1].outcome == "ok" else None
            again = (
                _tries(pool, workspace.base, brief, reseed=True)
                if len(runs) > 1 and not brief.exact and blind(runs)
                else []
            )
        finally:
            pool.close()
            locks.release()
    yield from _told(brief, runs)
    if blinded:
        yield blinded
    if again and (len(again) < 2 or blind(again)):
        yield Finding(
            "seeds",
            f"{len(runs) + len(again)} runs with different seeds gave the same, so nothing could be"
            " claimed",
            advice=_unseeded(directory, brief),
        )
    elif again:
        yield Finding("seeds", "literal seeds are replaced in the trial's copy")


def _canary(pool: LocalPool, workspace: Workspace) -> Finding | None:
    """What is wrong where the program runs on though every file to edit was broken; None else."""
    tree = workspace.state / "canary"
    workspace.checkout(tree, workspace.base)
    files = [path for path in tree.rglob("*") if path.suffix.lower() in CODE and path.is_file()]
    named = {path.relative_to(tree).as_posix(): path for path in files if not path.is_symlink()}
    broken = editable(named, workspace.prefix, workspace.brief)[:MOST_BROKEN]
    if not broken:
        return None
    for name in broken:
        named[name].write_bytes(CANARY + named[name].read_bytes())
    try:
        commit = workspace.commit(workspace.base, workspace.diff(tree, workspace.base), "Canary")
    except PatchRefused as why:
        return Finding("canary", f"no edit could be tried: {why}", advice="Mend `edit`.")
    budget = min(TRY_BUDGET, workspace.brief.time_budget)
    trial = Trial(number=1, commit=commit, seed=1, time_budget=budget, index=4 * TIES)
    if pool.submit(trial).result().outcome != "ok":
        return None
    return Finding(
        "canary",
        f"with all code of `edit` ({len(broken)} files) broken it runs on: another copy is read",
        2,
        "Install it editable (pip install -e .), or put the checkout's folder first (PYTHONPATH)",
    )


def _unseeded(directory: Path, brief: Brief) -> str:
    """What to do where seeds make no difference, in the program's own language."""
    words = [*(brief.run or "").split(), *(brief.evaluate or "").split(), *brief.edit]
    files = [directory / word for word in words if (directory / word).is_file()]
    source = "\n".join(file.read_text("utf-8", "replace") for file in files[:20])
    lines = next(
        (OTHER_SEEDS[end] for file in files if (end := file.suffix.lower()) in OTHER_SEEDS), ""
    )
    if any(file.suffix == ".py" for file in files):
        found = next(
            (n for n in PYTHON_SEEDS if n and re.search(rf"\b(import|from) {n}\b", source)), ""
        )
        read = 'seed = int(os.environ.get("AUTORESEARCH_SEED", "1337"))'
        lines = f"{read}\n{PYTHON_SEEDS[found]}"
    seeded = f"Seed it with AUTORESEARCH_SEED from its environment{': ' * bool(lines)}"
    return (
        f"Is it deterministic? Say `exact: true`. Is the value coarse? Print more digits, or score"
        f" more cases. Else:\n{seeded}{lines}"
    )


def _tries(pool: LocalPool, commit: str, brief: Brief, reseed: bool = False) -> list[Measurement]:
    """Runs with two seeds, more where they tie; one alone where it fails or is not quick."""
    budget = min(TRY_BUDGET, brief.time_budget)
    runs: list[Measurement] = []
    for seed in range(1, TIES + 1):
        trial = Trial(
            number=0,
            commit=commit,
            seed=seed,
            time_budget=budget,
            reseed=reseed,
            index=seed + TIES * reseed,
        )
        runs.append(pool.submit(trial).result())
        slow = runs[-1].outcome != "ok" or runs[-1].seconds > QUICK
        if slow or (len(runs) > 1 and (brief.exact or not blind(runs))):
            break
    return runs


def _mend(brief: Brief, failed: Measurement) -> str:
    """Advice for a run that failed, by how it did."""
    if " printed " in failed.reason and brief.metric in failed.reason:
        return f"Have it print `{brief.metric}: value` on a line of its own, or mend `metric`."
    return "Make this work by hand first, from a clean checkout."


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
            _mend(brief, last),
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
