"""Git as a subprocess, cut off from everything that could change what it does: no hooks, no user or
system config.
"""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from autoresearch_action.errors import EnvironmentFault

WHO = ("autoresearch", "autoresearch@users.noreply.github.com")
_SAFE = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "safe.directory=*",
    "-c", "core.fsmonitor=false",
    "-c", "core.autocrlf=false",
    "-c", "core.quotePath=false",
    "-c", "gc.auto=0",
    "-c", "protocol.file.allow=always",
)  # fmt: skip


# Letters of a conflict's marker: hardly a line of a program begins with as many of one kind
_MARK = 61


def in_the_way(name: str, is_branch: Callable[[str], object]) -> str:
    """The branch that has the name of a folder of `name`, which then can be none; "" where there is
    none.
    """
    folders = [str(folder) for folder in PurePosixPath(name).parents][:-1]
    return next(filter(is_branch, folders), "")


class GitError(EnvironmentFault):
    """A git command failed; the text is what it said."""


def environment() -> dict[str, str]:
    """The environment git runs in: PATH, a fixed identity, nothing of the user's configuration."""
    name, address = WHO
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": address,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": address,
    }


def git(
    *words: str, cwd: Path | None = None, stdin: bytes = b"", extra: Mapping[str, str] | None = None
) -> bytes:
    """Run git and return its standard output. Raises GitError with git's own words,
    EnvironmentFault without git.
    """
    try:
        done = subprocess.run(
            ["git", *_SAFE, *words],
            cwd=cwd,
            input=stdin,
            capture_output=True,
            env=environment() | dict(extra or {}),
            umask=0o022,
            # A terminal's Ctrl-C is this process's to answer
            process_group=0,
        )
    except (FileNotFoundError, NotADirectoryError):
        if cwd is not None and not cwd.is_dir():
            raise GitError(f"{cwd.name} is no folder any more") from None
        raise EnvironmentFault("git is not installed: install it and run again.") from None
    if done.returncode:
        raise GitError(done.stderr.decode("utf-8", "replace").strip() or f"git {words[0]} failed")
    return done.stdout


def uncommitted(file: Path) -> bool:
    """Whether HEAD does not hold the file as it lies there."""
    try:
        words = ("status", "--porcelain", "--ignored", "--untracked-files=all")
        return bool(git("--literal-pathspecs", *words, "--", file.name, cwd=file.parent.resolve()))
    except GitError:
        return True


def line(*words: str, cwd: Path | None = None, extra: Mapping[str, str] | None = None) -> str:
    """Like `git`, as one stripped string."""
    return git(*words, cwd=cwd, extra=extra).decode("utf-8", "surrogateescape").strip()


def merge(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """Both changes of one text, three-way; None where they conflict.

    Git takes two changes without an unchanged line between them for a conflict. In a list of
    settings, one a line, that is none: where neither side has more or fewer lines than before, each
    line keeps the one change that was made to it.
    """
    with tempfile.TemporaryDirectory(prefix="autoresearch-merge-") as folder:
        files = [Path(folder, name) for name in ("ours", "base", "theirs")]
        for file, content in zip(files, (ours, base, theirs), strict=True):
            file.write_bytes(content)
        how = ("merge-file", "-p", "--diff3", f"--marker-size={_MARK}")
        words = ["git", *_SAFE, *how, *map(str, files)]
        done = subprocess.run(words, capture_output=True, env=environment(), process_group=0)
    if done.returncode == 0:
        return done.stdout
    # Else git completes a last line that has no end
    whole = all(text.endswith(b"\n") for text in (base, ours, theirs))
    return _settled(done.stdout) if 0 < done.returncode < 128 and whole else None


def _settled(text: bytes) -> bytes | None:
    """The text with its conflicts settled line by line; None where one cannot be."""
    merged, parts = list[bytes](), list[list[bytes]]()
    for line in io.BytesIO(text):
        kind = line[:1] if line[:_MARK] == line[:1] * _MARK else b""
        if kind == b"<":
            # One of the two is a line of the text
            if parts:
                return None
            parts = [[]]
        elif parts and kind in (b"|", b"="):
            parts.append([])
        elif parts and kind == b">":
            if len(parts) != 3 or len({*map(len, parts)}) != 1:
                return None
            for ours, base, theirs in zip(*parts, strict=True):
                if base not in (ours, theirs) and ours != theirs:
                    return None
                merged.append(theirs if ours == base else ours)
            parts = []
        else:
            (parts[-1] if parts else merged).append(line)
    return None if parts else b"".join(merged)
