"""The steps of action.yml: inputs from the environment, validated, handed to a session; errors in
annotation and summary.

`python -m autoresearch_action.action recall | research | publish | enqueue | settle`. A composite
action gives no INPUT_ variables and enforces nothing, so every input comes as AUTORESEARCH_IN_NAME
and is checked here. Only `research` runs trials, and it never holds a token.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from autoresearch_action import brief as briefs
from autoresearch_action import budget, text
from autoresearch_action.brief import Brief
from autoresearch_action.errors import EnvironmentFault, InputError, UserError
from autoresearch_action.github import event, outputs
from autoresearch_action.ledger import RunState

PREFIX = "AUTORESEARCH_IN_"


def main(step: str) -> int:
    """Run one step. Returns the exit code."""
    _forget_own_path()
    try:
        _STEPS[step](os.environ)
    except UserError as error:
        outputs.failed(step, str(error), os.environ)
        return error.exit_code
    except OSError as error:
        # No permission, no room
        outputs.failed(step, _told(error), os.environ)
        return EnvironmentFault.exit_code
    except Exception as error:
        # A bug, whose words may be anybody's: within the fence, as all that is printed
        told = f"{type(error).__name__}, a bug: please report it.\n{traceback.format_exc()}"
        outputs.failed(step, told, os.environ)
        return 1
    return 0


def _told(error: OSError) -> str:
    return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}."


def _forget_own_path() -> None:
    """The harness was started with its own folder alone for PYTHONPATH; trials are to see the
    user's.
    """
    os.environ.pop("PYTHONPATH", None)
    if theirs := os.environ.pop("AUTORESEARCH_PYTHONPATH", ""):
        os.environ["PYTHONPATH"] = theirs


class Inputs:
    """The inputs of action.yml. Raises InputError naming the input."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str = "") -> str:
        return self._environ.get(PREFIX + name.upper().replace("-", "_"), "").strip() or default

    def number(self, name: str, default: float) -> float:
        text = self.text(name, str(default))
        try:
            return float(text)
        except ValueError:
            raise InputError(f"{name}: {text[:60]!r} is not a number.") from None

    def whole(self, name: str, default: int) -> int:
        value = self.number(name, default)
        if not value.is_integer():
            raise InputError(f"{name}: {value} is not a whole number.")
        return int(value)

    def truth(self, name: str) -> bool:
        text = self.text(name, "false").lower()
        if text not in ("true", "false"):
            raise InputError(f"{name}: {text[:60]!r} is neither true nor false.")
        return text == "true"

    def lines(self, name: str) -> list[str]:
        return [line.strip() for line in self.text(name).splitlines() if line.strip()]


def state_directory(inputs: Inputs, environ: Mapping[str, str], brief_id: str) -> Path:
    """Where the ledger is: as given, else outside the workspace, by repository, brief, shard."""
    given, shard = inputs.text("state-directory"), inputs.text("shard")
    if shard and not shard.isdecimal():
        raise InputError(f"shard: {shard[:60]!r} is not a number.")
    if given:
        return Path(given).expanduser().resolve()
    # Where the next job finds it again, else where this one may write
    places = (environ.get("RUNNER_TOOL_CACHE"), environ.get("RUNNER_TEMP"), "~/.local/state")
    able = [Path(place).expanduser() for place in places if place]
    home = next((place for place in able if _can_write(place / "autoresearch")), able[0])
    repository = re.sub(r"[^\w.-]+", "-", environ.get("GITHUB_REPOSITORY", "local"))
    return (
        home
        / "autoresearch"
        / "state"
        / repository
        / (f"{brief_id}-shard-{shard}" if shard else brief_id)
    )


def _can_write(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _place(inputs: Inputs, environ: Mapping[str, str]) -> tuple[Brief, str | None, Path]:
    """(brief, its prose if given, state folder); the process is in the working directory
    afterwards.
    """
    directory = Path(environ.get("GITHUB_WORKSPACE", ".")) / inputs.text("working-directory", ".")
    if not directory.is_dir():
        given = f"working-directory: {inputs.text('working-directory')}"
        raise InputError(f"{given} is not there; was the repository checked out?")
    os.chdir(directory)
    prose = event.prose(inputs.text("brief"), environ)
    brief = briefs.read(Path(inputs.text("program", "program.md")), Path.cwd(), prose)
    return brief, prose, state_directory(inputs, environ, brief.id)


def recall(environ: Mapping[str, str]) -> None:
    """What earlier runs of this brief found, from the memory branch into the state folder. Never
    fails the job.
    """
    from autoresearch_action.github import memory

    try:
        brief, _, state = _place(Inputs(environ), environ)
        if environ.get("GITHUB_TOKEN", "").strip():
            print(f"{memory.recall(state, brief.id, environ)} earlier runs of {brief.id} recalled.")
    except InputError:
        # The research says it
        return
    except (EnvironmentFault, OSError) as error:
        told = _told(error) if isinstance(error, OSError) else str(error)
        outputs.annotate("warning", f"Earlier runs are not known here: {told}")


def research(environ: Mapping[str, str]) -> None:
    """The research step: one session in the working directory."""
    from autoresearch_action.commands.run import Options, refuse_blank, run_session

    inputs = Inputs(environ)
    brief, prose, state = _place(inputs, environ)
    state.mkdir(parents=True, exist_ok=True)
    agents = _agents(inputs)
    if inputs.text("merge"):
        agents = _merged(inputs, brief, state)
        if not agents:
            return
    outputs.place(state, brief.id, inputs.text("shard"), environ)
    options = Options(
        program=brief.path,
        brief=prose,
        agents=tuple(agents),
        max_experiments=inputs.whole("max-experiments", budget.EXPERIMENTS),
        max_minutes=inputs.number("max-minutes", budget.MINUTES),
        max_usd=inputs.number("max-usd", budget.USD),
        gpu_usd_per_hour=inputs.number("gpu-usd-per-hour", 0),
        usd_per_call=inputs.number("usd-per-call", 0) if inputs.text("usd-per-call") else None,
        effort=inputs.text("effort") or None,
        slots="auto",
        executor="local",
        checkpoint=inputs.text("checkpoint") or None,
        state=state,
        fresh=False,
        claims=not inputs.text("shard"),
        require_sandbox=inputs.truth("publish"),
    )
    with outputs.fenced():
        run_state = run_session(options, Path.cwd())
    outputs.write(run_state, environ)
    refuse_blank(run_state)


def _merged(inputs: Inputs, brief: Brief, state: Path) -> list[str]:
    """The agent that proposes what the shards kept; none where they kept nothing."""
    from autoresearch_action.research.fleet import gather
    from autoresearch_action.workspace.trees import Workspace

    folder, target = Path(inputs.text("merge")), state / "merged"
    if not folder.is_dir():
        raise InputError(f"merge: {folder} is not there; did any shard upload its artifact?")
    count = gather(
        folder,
        Workspace(Path.cwd(), state, brief),
        target,
        lambda text: outputs.annotate("warning", text),
    )
    kept, shards = f"{count} kept change{'s' * (count != 1)}", [*folder.glob("*/ledger.jsonl")]
    print(f"{kept} of {len(shards)} shards to measure again.")
    return [f"patches:{target}"] if count else []


def _agents(inputs: Inputs) -> list[str]:
    """The agent lines, with the model put into those that name none."""
    model, specs = inputs.text("model"), inputs.lines("agent")
    if not specs and model:
        specs = ["claude"]
    return [f"claude:{model}" if spec == "claude" and model else spec for spec in specs]


def publish(environ: Mapping[str, str]) -> None:
    """The publishing step: the ledger to the memory branch, the pull request, and whatever comes of
    it, the queue.
    """
    from autoresearch_action.github.pull_request import PullRequestOptions
    from autoresearch_action.github.pull_request import publish as deliver

    dry_run, given = (
        PullRequestOptions.of(environ).dry_run,
        environ.get("AUTORESEARCH_STATE", "").strip(),
    )
    try:
        if not given or not (Path(given) / "ledger.jsonl").exists():
            raise InputError(
                f"state-directory: {given or 'nothing'} holds no ledger; did the research job"
                " upload its artifact?"
            )
        state = Path(given).resolve()
        done = deliver(state, environ, dry_run, partial(_remember, environ))
        with outputs.fenced():
            print(done.describe())
        outputs.annotate("notice", done.words)
        outputs.summarize(done.summary(), environ)
    finally:
        if not dry_run:
            settle(environ)


def _remember(environ: Mapping[str, str], run_state: RunState, claimed: bool) -> str:
    """The run on the memory branch: the address of its picture. What is proven is published even
    where that cannot be written.
    """
    from autoresearch_action.github import memory

    try:
        return memory.save(run_state, environ, claimed)
    except EnvironmentFault as error:
        kept = (
            "The ledger and the state of the claims are in this job's artifact alone: the"
            " next run will not know of them."
        )
        outputs.annotate("warning", told := f"{error} {kept}")
        outputs.summarize(f"> [!WARNING]\n> {text.inline(told, 1_000)}\n", environ)
        return ""


def enqueue(environ: Mapping[str, str]) -> None:
    """A dispatched checkpoint is written down, so that a run in progress cannot drop it."""
    from autoresearch_action.github import queue

    try:
        ticket = queue.enqueue(environ)
        print(f"Queued as {ticket}." if ticket else "Nothing to queue.")
    except EnvironmentFault as error:
        # The research goes on all the same
        outputs.annotate(
            "warning",
            "Not queued: should this run be cancelled while it waits, dispatch its checkpoint"
            f" again. {error}",
        )


def settle(environ: Mapping[str, str]) -> None:
    """This run's checkpoint leaves the queue, and one that was left behind is sent on its way.
    Never fails the job.
    """
    from autoresearch_action.github import queue

    try:
        if told := queue.settle(environ):
            outputs.annotate("notice", told)
    except EnvironmentFault as error:
        outputs.annotate("warning", f"The queue of checkpoints was not looked after: {error}")


_STEPS = {
    "recall": recall,
    "research": research,
    "publish": publish,
    "enqueue": enqueue,
    "settle": settle,
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in _STEPS:
        sys.exit(main(sys.argv[1]))
    print(f"autoresearch: give a step: {', '.join(_STEPS)}.", file=sys.stderr)
    sys.exit(InputError.exit_code)
