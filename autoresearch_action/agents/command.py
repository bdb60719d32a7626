"""Any other coding agent's command line: the task on its standard input, the incumbent's tree as
its folder.

The command gets CALL_LIMIT seconds. When it ends, is late or the run is cancelled, every process
that it started is ended, also those that left its session (process.py). It is the user's own
program and runs with the user's rights, outside the sandbox; what may be edited is checked
afterwards. Workflow tokens and the files by which a step speaks to the workflow are taken out of
its environment.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from autoresearch_action.agents import AgentFailure, Context, Draft, prompt
from autoresearch_action.agents.digest import digest
from autoresearch_action.agents.numbers import one_line
from autoresearch_action.errors import InputError
from autoresearch_action.isolation.log import Log
from autoresearch_action.isolation.process import Ended, Limits, Process, Start
from autoresearch_action.records import Experiment, Usage

# Seconds
CALL_LIMIT = 600.0
# Bytes of standard error that are looked at, the last ones
OUTPUT = 65_536
CANCELLED = "The run was cancelled."
# $0 is the command. Its process group is ended when the other end of the pipe $1 is closed: by us,
# whatever way we go.
GUARD = """(cat /proc/self/fd/$1; kill -KILL -$$) >/dev/null 2>&1 & exec /bin/sh -c "$0" """

_WITHHELD = re.compile(r"(GITHUB|ACTIONS|RUNNER|INPUT|GH)_")

TASK = (
    "You are in the folder of the code, as it stands now. Make the change in the files themselves;"
    " do not run the training, do not commit, and leave other files alone. End your output with one"
    " line that says what you changed."
)


class CommandAgent:
    """See the module's head. Raises InputError when `usd_per_call` is None: no price list knows the
    command.
    """

    reads_profiles = True

    def __init__(
        self,
        command: str,
        usd_per_call: float | None,
        environment: Mapping[str, str] | None = None,
        limit: float = CALL_LIMIT,
    ) -> None:
        if usd_per_call is None:
            raise InputError(
                f"--agent command:{command[:80]}: give --usd-per-call, what one call costs (0 if"
                " nothing)."
            )
        self.command, self.limit = command, limit
        self.name = f"command:{_program(command)}"
        self.worst_usd: float | None = usd_per_call
        given = os.environ if environment is None else environment
        self._environment = {
            name: value for name, value in given.items() if not _WITHHELD.match(name)
        }
        word = command.split()[0]
        if re.fullmatch(r"[\w.+-]+|/[\w./+-]+", word) and not _found(word, self._environment):
            raise InputError(f"--agent command:{command[:80]}: there is no program {word} here.")

    def propose(self, context: Context) -> Draft:
        return self._run(
            context, f"{digest(context)}\n\nPropose experiment #{context.number}. {TASK}"
        )

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        told = prompt.failure(failed)
        if told is None or failed.proposal is None:
            return None
        draft = self._run(context, f"{told} {TASK}")
        return draft.model_copy(
            update={"description": one_line(f"{failed.proposal.description} (mended)", 260)}
        )

    def _run(self, context: Context, question: str) -> Draft:
        usage = Usage(calls=1, usd=self.worst_usd or 0.0)
        rules = prompt.rules(context.brief, context.history)
        text = "\n\n".join([rules, prompt.contract(context.brief), f"{question}\n"])
        # Git looks upwards for a repository, and above this tree lies the user's own.
        environment = self._environment | {
            "PWD": str(context.directory),
            "GIT_CEILING_DIRECTORIES": str(Path(context.tree).parent),
        }
        ended, out, err = self._started(text, context, environment)
        if ended.reason:
            late = f"{self.name} did not end within {self.limit:g} s."
            raise AgentFailure(CANCELLED if ended.reason == CANCELLED else late, usage)
        # As a shell says it of a command that a signal has ended
        code = ended.code if ended.code >= 0 else 128 - ended.code
        if code:
            last = _last_line(err) or _last_line(out)
            raise AgentFailure(
                f"{self.name} ended with exit code {code}{f': {last}' if last else ''}.",
                usage,
                fatal=code in (126, 127),
            )
        return Draft(description=_last_line(out) or f"an edit by {self.name}", usage=usage)

    def _started(
        self, text: str, context: Context, environment: Mapping[str, str]
    ) -> tuple[Ended, bytes, bytes]:
        """How the command ended, and the ends of its output and of its errors."""
        watched, ours = os.pipe()
        # It may say what is secret
        log = Log(Path(os.devnull))
        with (
            os.fdopen(ours, "wb"),
            os.fdopen(watched, "rb"),
            tempfile.TemporaryFile() as task,
            tempfile.TemporaryFile() as errors,
        ):
            task.write(text.encode(errors="replace"))
            task.seek(0)
            how = Start(
                ["/bin/sh", "-c", GUARD, self.command, str(watched)],
                environment,
                context.directory,
                files=(watched,),
                stdin=task.fileno(),
                stderr=errors.fileno(),
                mark="AUTORESEARCH_AGENT",
            )
            limits = Limits(seconds=self.limit, processes=1 << 22)
            ended = Process.start(how, limits, log, until=_cancelled(context)).wait()
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - OUTPUT))
            return ended, bytes(log.tail), errors.read()


def _cancelled(context: Context) -> Callable[[], str]:
    return lambda: CANCELLED if context.cancelled.is_set() else ""


def _found(word: str, environment: Mapping[str, str]) -> bool:
    """Whether a shell would find this first word of a command: a program, a builtin or a keyword of
    its own.
    """
    asked = ["/bin/sh", "-c", f"command -v -- {shlex.quote(word)}"]
    return (
        subprocess.run(
            asked, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
        == 0
    )


def _program(command: str) -> str:
    """The name of a command's program, for people."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    plain = [word for word in words if not re.match(r"\w+=", word)] or ["sh"]
    return one_line(os.path.basename(plain[0]), 40) or "sh"


def _last_line(output: bytes) -> str:
    """The last line that says something, made safe."""
    lines = [one_line(line, 200) for line in output.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if re.search(r"\w", line)), "")
