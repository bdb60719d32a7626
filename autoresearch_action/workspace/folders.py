"""Folders that untrusted code has written into: deleted whatever was left, never through a link."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path


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
