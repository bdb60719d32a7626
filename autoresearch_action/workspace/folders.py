"""Folders that untrusted code has written into: read within limits and deleted whatever was left,
never through a link.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

from autoresearch_action.errors import InputError

OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def content(state: Path, *parts: str, most: int) -> bytes | None:
    """The file below `state`, at most `most` bytes long; None where it is not there. Raises
    InputError for a link, a device or a longer one.
    """
    name, opened = "/".join(parts), list[int]()
    try:
        opened.append(os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in parts[:-1]:
            opened.append(os.open(part, OPEN | os.O_DIRECTORY, dir_fd=opened[-1]))
        opened.append(os.open(parts[-1], OPEN, dir_fd=opened[-1]))
        facts = os.fstat(opened[-1])
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"{name} of the state folder is no plain file.")
        if facts.st_size > most:
            raise InputError(
                f"{name} of the state folder has {facts.st_size:,} bytes: too large, {most:,} are"
                " the most."
            )
        with os.fdopen(opened.pop(), "rb") as file:
            raw = file.read(most + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR):
            raise InputError(f"{name} of the state folder is a link, or no plain file.") from None
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return raw[:most]


def put(copy: Path, name: str, raw: bytes | None) -> None:
    """A file below a folder of our own; none where there is nothing."""
    if raw is not None:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(raw)


def remove(tree: Path) -> None:
    """Delete a folder whatever modes were left in it; links are not followed."""

    def mend(function: object, path: str, _: object) -> None:
        parent = os.path.dirname(path)
        os.chmod(parent, stat.S_IRWXU)
        if not os.path.islink(path):
            os.chmod(path, stat.S_IRWXU)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, onerror=mend)
        else:
            os.unlink(path)

    if tree.is_symlink() or tree.is_file():
        tree.unlink()
    elif tree.exists():
        try:
            shutil.rmtree(tree, onerror=mend)
        except (RecursionError, OSError):
            # Folders in one another deeper than Python goes, or than a path is long
            for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
                subprocess.run([*command, "--", str(tree)], capture_output=True)
            if tree.exists():
                raise


def remove_git(tree: Path) -> None:
    """Whatever is named .git below `tree`: `git clean` passes it over."""
    for folder, names, files in os.walk(tree):
        for name in {".git"} & {*names, *files}:
            remove(Path(folder) / name)
        names[:] = [name for name in names if name != ".git"]


def altered(folder: Path) -> bool:
    """Whether a folder that is there is closed to its owner or carries attributes, links aside."""
    try:
        mode = folder.lstat().st_mode
        held = os.listxattr(folder, follow_symlinks=False)
    except OSError:
        return False
    closed = mode & stat.S_IRWXU != stat.S_IRWXU
    return stat.S_ISDIR(mode) and (closed or any(not n.startswith("security.") for n in held))


def link(source: str, target: str) -> None:
    """The same file under a second name, or a copy where the file system cannot."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
