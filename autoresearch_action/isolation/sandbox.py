"""Which isolation this machine has, and the start of a command in it.

What each backend shuts out is its own file's: bubblewrap.py (full), fallback.py (reduced, none).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.isolation import Isolation, Job, confine, fallback
from autoresearch_action.isolation.bubblewrap import Bubblewrap
from autoresearch_action.isolation.log import Log
from autoresearch_action.isolation.process import Limits, Process


def choose(wanted: str = "auto") -> Isolation:
    """The strongest that this machine has; `wanted` as the brief's `sandbox`: auto, require or
    none. Raises EnvironmentFault where `require` cannot be met.
    """
    if wanted == "none":
        return fallback.Unconfined("sandbox: none")
    full = Bubblewrap()
    why = full.fault()
    if not why:
        return full
    if wanted == "require":
        raise EnvironmentFault(f"`sandbox: require`, but {why}: {remedy(why)}.")
    kind = fallback.Reduced if confine.landlock_abi() > 0 else fallback.Unconfined
    return kind(why, spaces=fallback.unshares())


def remedy(why: str) -> str:
    """What makes the full sandbox work where it does not."""
    if "not installed" in why:
        return "`sudo apt install bubblewrap`"
    if "apparmor" in why:
        return "give bwrap an AppArmor profile, as .github/install-bubblewrap.sh does"
    return "allow user namespaces (in a container, by its security options)"


def start(isolation: Isolation, job: Job, limits: Limits, log: Log) -> Process:
    """Start the job. Its standard output and error are one stream; standard input is empty."""
    how = isolation.command(job, limits)
    try:
        with _on(job.cores):
            return Process.start(how, limits, log, disk=job.tree)
    finally:
        for file in how.files:
            os.close(file)


@contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """What this thread starts meanwhile stays on these cores."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores or before)
        yield
    finally:
        os.sched_setaffinity(0, before)
