"""What git alone does not bring into a checkout: submodules, and files that a filter (LFS) makes.

They are taken from the user's own checkout, as they lie there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from autoresearch_action.errors import InputError

LFS_POINTER = b"version https://git-lfs"


def submodules(root: Path, entries: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Their paths among a commit's entries. Raises InputError for one that is empty in `root`."""
    found = tuple(path for facts, path in entries if facts.startswith("160000 "))
    for path in found:
        if not (root / path).is_dir() or not any((root / path).iterdir()):
            raise InputError(
                f"The submodule {path} is empty: run `git submodule update --init --recursive`"
                " first."
            )
    return found


def pointers(
    root: Path, entries: Iterable[tuple[str, str]], git: Callable[..., bytes], commit: str
) -> tuple[str, ...]:
    """Files of a commit that are pointers (LFS). Raises InputError for one whose content is not in
    `root`.
    """
    if not any(path.endswith(".gitattributes") for _, path in entries):
        return ()
    listed = git("ls-tree", "-r", "-z", "-l", commit).decode("utf-8", "surrogateescape")
    found = []
    for facts, _, path in (entry.partition("\t") for entry in listed.split("\0")):
        mode, _, blob, size = facts.split() if facts else ("", "", "", "")
        small = mode.startswith("100") and size.isdigit() and int(size) < 300
        if small and git("cat-file", "blob", blob).startswith(LFS_POINTER):
            if _begins(root / path, LFS_POINTER):
                raise InputError(
                    f"{path} is a Git LFS pointer without its content: run `git lfs pull` first."
                )
            found.append(path)
    return tuple(found)


def hydrate(source: Path, target: Path) -> None:
    """Put a submodule or a file in its place."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    elif source.is_file():
        target.unlink(missing_ok=True)
        shutil.copy2(source, target)


def _begins(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return True
