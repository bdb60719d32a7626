"""What a candidate may reach: the one interface that every way of shutting a command in implements.

A backend says how a command is started (`command`); to start and watch it is sandbox.py's and
process.py's, limits on time, memory and output among it. Adding a backend is one new file here and
one line in `sandbox.choose`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autoresearch_action.isolation.process import Limits, Start

# Where a job sees its `cache`
CACHE = Path("/tmp/compiled")


@dataclass(frozen=True)
class Job:
    """One command to start. `mount_at` is where the tree stands inside, if the backend relocates
    it.
    """

    command: str
    tree: Path
    mount_at: Path
    # Working directory relative to the tree
    directory: Path
    env: Mapping[str, str] = field(default_factory=dict)
    # Another path that leads to the tree, if the backend relocates it
    alias: Path | None = None
    # What stands at these paths of the tree, read-only
    readonly: Mapping[str, Path] = field(default_factory=dict)
    # Read-only, at their own paths
    data: Sequence[Path] = ()
    # What stands there in place of a folder of `data`
    decoys: Mapping[Path, Path] = field(default_factory=dict)
    # What compilers write to, at CACHE
    cache: Path | None = None
    # Files and folders that stay out of sight wherever they would be seen
    hidden: Sequence[Path] = ()
    network: bool = False
    # "": none; else the card's number
    gpu: str = ""
    cores: Sequence[int] = ()


class Isolation(Protocol):
    """One way of shutting a command in."""

    @property
    def strength(self) -> str:
        """As a measurement says it: full, reduced or none."""
        ...

    @property
    def relocates(self) -> bool:
        """Whether a job's tree stands at its `mount_at`, and its `readonly`, `decoys`, `cache` and
        `hidden` hold; else the tree is where it is, and can be written.
        """
        ...

    def describe(self) -> str:
        """For people, in one sentence."""
        ...

    def prepare(self, folder: Path, whole: bool = False) -> None:
        """Let whoever the command runs as write into a folder; `whole`: to all that is in it."""
        ...

    def command(self, job: Job, limits: Limits) -> Start:
        """How the job is started here, called once for each start: open files in it are the
        caller's to close.
        """
        ...
