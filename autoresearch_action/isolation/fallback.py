"""Isolation without bubblewrap: Landlock, or no more than a cleaned environment and a process
group.

Where user namespaces work, a command gets own ones for processes, network and IPC by util-linux's
unshare; else other processes of the same user stay visible. The tree stands where it is and all of
it can be written: what is frozen is safe in the next checkout alone. The rules are applied by
confine.py, in the process that becomes the command.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from autoresearch_action.isolation import Job, confine
from autoresearch_action.isolation.interpreters import SYSTEM, interpreters
from autoresearch_action.isolation.process import Limits, Start
from autoresearch_action.workspace.folders import remove

MARK = "AUTORESEARCH_TRIAL"
_UNSHARE = (
    "unshare", "--user", "--map-current-user", "--keep-caps", "--pid", "--fork",
    "--kill-child=KILL", "--mount-proc", "--ipc", "--uts",
)  # fmt: skip
_WRITABLE_DEVICES = (
    "/dev/null", "/dev/shm", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random",
)  # fmt: skip


class Unconfined:
    """A home of its own, a cleaned environment, limits. `why` there is no more than that."""

    strength, relocates = "none", False
    _told, _landlock = "no isolation{spaces}", False

    def __init__(self, why: str, spaces: bool = False) -> None:
        # `spaces`: namespaces of its own
        self.why, self.spaces = why, spaces

    def describe(self) -> str:
        spaces = ", own namespaces for processes and network" if self.spaces else ""
        return f"Sandbox: {self._told.format(spaces=spaces)}, because {self.why}."

    def prepare(self, folder: Path, whole: bool = False) -> None:
        """It runs as this user."""

    def command(self, job: Job, limits: Limits) -> Start:
        home = _home(job.tree)
        # Nothing crosses from one phase or trial to the next
        remove(home)
        home.mkdir()
        env = {
            **job.env,
            "HOME": str(home),
            "TMPDIR": str(home),
            "PWD": str(job.tree / job.directory),
        }
        return Start(self.argv(job, limits), env, job.tree / job.directory, mark=MARK)

    def argv(self, job: Job, limits: Limits) -> list[str]:
        rules = {
            "read": [
                *SYSTEM,
                "/etc",
                "/proc",
                "/sys",
                "/dev",
                *map(str, (*job.data, *interpreters(job))),
            ],
            "write": [str(job.tree), str(_home(job.tree)), *_WRITABLE_DEVICES],
            "landlock": self._landlock,
            # There is nothing but loopback in a network namespace of its own
            "network": job.network or self.spaces,
            "keeps": not self.spaces,
            "loopback": self.spaces and not job.network,
            "limits": {"fsize": limits.file_bytes, "nofile": limits.open_files, "core": 0},
        }
        spaces = [*_UNSHARE, *(() if job.network else ("--net",))] if self.spaces else []
        launcher = [sys.executable, "-I", "-S", str(Path(confine.__file__)), json.dumps(rules)]
        return [*spaces, *launcher, "/bin/sh", "-c", job.command]


class Reduced(Unconfined):
    """Landlock for files and TCP, no new privileges."""

    strength = "reduced"
    _told, _landlock = "reduced isolation (Landlock{spaces})", True


def _home(tree: Path) -> Path:
    return tree.with_name(f"{tree.name}.home")


def unshares() -> bool:
    """Whether an ordinary command gets namespaces of its own here."""
    words = [*_UNSHARE, "--net", "true"]
    try:
        return not subprocess.run(words, capture_output=True, timeout=20).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
