"""Any other coding agent's command line: the task on its standard input, the incumbent's tree as
its folder.

The command gets CALL_LIMIT seconds. When it ends, is late or the run is cancelled, every process
that it started is ended, also those that left its session: a small supervisor between us and it
takes in orphans (Linux's child subreaper) and kills what is left. It is the user's own program and
runs with the user's rights, outside the sandbox; what may be edited is checked afterwards. Workflow
tokens and the files by which a step speaks to the workflow are taken out of its environment.
"""

from __future__ import annotations

import inspect
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from autoresearch_action.agents import AgentFailure, Context, Draft, prompt
from autoresearch_action.errors import InputError
from autoresearch_action.records import Experiment, Usage

# Seconds
CALL_LIMIT = 600.0
# Seconds that the supervisor has to end what is left
GRACE = 10.0
# Bytes kept of each stream, the last ones
OUTPUT = 65_536
# Seconds
POLL = 0.1

_WITHHELD = re.compile(r"(GITHUB|ACTIONS|RUNNER|INPUT|GH)_")

TASK = """You are in the folder of the code, as it stands now. Make the change in the files themselves; do not run the \
training, do not commit, and leave other files alone. End your output with one line that says what you changed."""


class CommandAgent:
    """See the module's head. Raises InputError when `usd_per_call` is None: no price list knows the
    command.
    """

    def __init__(
        self,
        command: str,
        usd_per_call: float | None,
        environment: Mapping[str, str] | None = None,
        limit: float = CALL_LIMIT,
    ) -> None:
        if usd_per_call is None:
            raise InputError(
                f"--agent command:{command[:80]}: give --usd-per-call, what one call costs (0 if nothing)."
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
            context, f"{prompt.history(context)}\n\nPropose the next experiment. {TASK}"
        )

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        told = prompt.failure(failed)
        if told is None or failed.proposal is None:
            return None
        draft = self._run(context, f"{told} {TASK}")
        return draft.model_copy(
            update={"description": prompt.one_line(f"{failed.proposal.description} (mended)")}
        )

    def _run(self, context: Context, question: str) -> Draft:
        usage = Usage(calls=1, usd=self.worst_usd or 0.0)
        text = "\n\n".join([*prompt.task(context.brief), f"{question}\n"])
        # Git looks upwards for a repository, and above this tree lies the user's own.
        environment = self._environment | {
            "PWD": str(context.directory),
            "GIT_CEILING_DIRECTORIES": str(Path(context.tree).parent),
        }
        code, out, err, ended = self._supervised(text, context, environment)
        if ended:
            raise AgentFailure(ended, usage)
        if code:
            last = _last_line(err) or _last_line(out)
            raise AgentFailure(
                f"{self.name} ended with exit code {code}{f': {last}' if last else ''}.",
                usage,
                fatal=code in (126, 127),
            )
        return Draft(description=_last_line(out) or f"an edit by {self.name}", usage=usage)

    def _supervised(
        self, text: str, context: Context, environment: Mapping[str, str]
    ) -> tuple[int, bytes, bytes, str]:
        """(exit code, end of its output, end of its errors, why it was ended or "")."""
        with tempfile.TemporaryFile() as task:
            task.write(text.encode(errors="replace"))
            task.seek(0)
            source = f"{inspect.getsource(_supervise)}\n_supervise()"
            words = [sys.executable, "-I", "-S", "-c", source, self.command, str(task.fileno())]
            process = subprocess.Popen(
                words,
                cwd=context.directory,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[task.fileno()],
                start_new_session=True,
            )
        assert process.stdin and process.stdout and process.stderr
        ended, end = "", time.monotonic() + self.limit
        kept = {process.stdout: b"", process.stderr: b""}
        with process, selectors.DefaultSelector() as selector:
            for stream in kept:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(POLL):
                    chunk = os.read(key.fd, OUTPUT)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    kept[key.fileobj] = (kept[key.fileobj] + chunk)[-OUTPUT:]  # type: ignore[index]
                late = time.monotonic() > end
                if not ended and (late or context.cancelled.is_set()):
                    ended = (
                        f"{self.name} did not end within {self.limit:g} s."
                        if late
                        else "The run was cancelled."
                    )
                    end = time.monotonic() + GRACE
                    # The supervisor's sign to end everything
                    process.stdin.close()
                elif ended and late:
                    break
            if ended:
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        return code, kept[process.stdout], kept[process.stderr], ended


def _supervise() -> None:
    """Runs as a program of its own (so it imports for itself): argv is the command and its standard
    input's number.

    Ends, with the command's exit code, when no descendant is left; its own standard input closed
    means: end them now.
    """
    import ctypes
    import os
    import select
    import signal
    import subprocess
    import sys
    import time

    # PR_SET_CHILD_SUBREAPER: orphans below become children of this process
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    task = int(sys.argv[2])
    child = subprocess.Popen(["/bin/sh", "-c", sys.argv[1]], stdin=task, start_new_session=True)
    os.close(task)
    while child.poll() is None and not select.select([0], [], [], 0.05)[0]:
        pass
    while True:
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
                except (OSError, ValueError, IndexError):
                    pass
        below, size = {os.getpid()}, 0
        while len(below) > size:
            size = len(below)
            below |= {pid for pid, parent in parents.items() if parent in below}
        for pid in below - {os.getpid()}:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            # A fork that raced with the walk is found in the next round; now nothing is left
            break
        time.sleep(0.01)
    code = child.returncode
    os._exit(137 if code is None else code if code >= 0 else 128 - code)


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
    return prompt.one_line(os.path.basename(plain[0]), 40) or "sh"


def _last_line(output: bytes) -> str:
    """The last line that says something, made safe."""
    lines = [prompt.one_line(line, 200) for line in output.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if re.search(r"\w", line)), "")
