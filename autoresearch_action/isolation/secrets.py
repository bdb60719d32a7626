"""Secrets: taken out of the environment and out of /proc before the first trial, and scrubbed from
what is written.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field

from autoresearch_action.brief.secret_names import is_secret
from autoresearch_action.errors import InputError
from autoresearch_action.isolation import confine

MODEL_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
WRITE_TOKENS = re.compile(r"^(GITHUB|GH|ACTIONS|RUNNER)_|_GITHUB_", re.IGNORECASE)
# Characters; shorter values are no secrets and would blot out ordinary text
SHORTEST = 8
HIDDEN = "***"


@dataclass
class Secrets:
    """Values by name. They are nowhere else in this process's environment once taken."""

    values: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Secrets:
        """Move every variable whose name speaks of a secret out of `environ` and out of this
        process's /proc files.
        """
        found = {name: value for name, value in environ.items() if value and is_secret(name, value)}
        for name in found:
            del environ[name]
        if environ is os.environ:
            _wipe(found)
            try:
                confine.hide()
            except OSError:
                # A kernel that forbids it; the sandbox hides the process all the same
                pass
        return cls(found)

    @property
    def model_key(self) -> str | None:
        return next(
            (self.values[name] for name in MODEL_KEYS if self.values.get(name, "").strip()), None
        )

    def for_setup(self, names: Iterable[str]) -> dict[str, str]:
        """What `setup` alone may see. Raises InputError for a name that is not set."""
        chosen = {}
        for name in names:
            value = self.values.get(name) or os.environ.get(name)
            if not value:
                raise InputError(
                    f"`setup-env` names {name}, which is not set here: set it, or take it out."
                )
            chosen[name] = value
        return chosen

    def for_tools(self) -> dict[str, str]:
        """What a coding agent's own program may see: keys of models, never a token that can write
        to the repository.
        """
        return {name: value for name, value in self.values.items() if not WRITE_TOKENS.search(name)}

    def scrub(self, text: str) -> str:
        """`text` without any secret's value, nor any line of one."""
        parts = {
            part
            for value in self.values.values()
            for part in (value, *value.splitlines())
            if len(part) >= SHORTEST
        }
        for part in sorted(parts, key=len, reverse=True):
            text = text.replace(part, HIDDEN)
        return text


def _wipe(found: dict[str, str]) -> None:
    """Overwrite the values in the memory that /proc/self/environ shows: unsetting a variable leaves
    them there.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
        start, end = int(fields[47]), int(fields[48])
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
    except (OSError, IndexError, ValueError):
        return
    if not 0 < start < end or len(block) > end - start:
        return
    for name, value in found.items():
        entry = os.fsencode(f"{name}={value}")
        at = block.find(entry)
        if at >= 0:
            ctypes.memset(start + at, 0, len(entry))
