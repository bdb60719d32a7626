"""Where interpreters live, the system's and the user's: the folders that a sandbox must show so
that `python train.py` finds its own.

Follows PATH, virtual environments (pyvenv.cfg), conda, pyenv and uv. Never a folder so wide that it
would show more than an installation: not a home, not `/`, not the repository itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from autoresearch_action.isolation import Job

# Of the system, where they are there
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt/rocm", "/nix/store",
    "/gnu/store",
)  # fmt: skip
COVERED = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/gnu/store")
MARKS = ("pyvenv.cfg", "conda-meta", "lib", "libexec", "shims", "versions")


def interpreters(job: Job) -> list[Path]:
    """What the job's own programs need to see beside the system's folders."""
    path, virtual = job.env.get("PATH", ""), job.env.get("VIRTUAL_ENV", "")
    made = [str(job.readonly[name]) for name in job.readonly if Path(name).name == ".venv"]
    return prefixes(path, virtual, job.mount_at, job.mount_at / job.directory, tuple(made))


@lru_cache(maxsize=64)
def prefixes(
    path: str, virtual: str, root: Path, directory: Path, made: tuple[str, ...] = ()
) -> list[Path]:
    """Existing folders, outermost first. `path` is PATH, `virtual` VIRTUAL_ENV, `root` the
    repository, `made` the environments of setup: what they lean on is shown, they themselves are.
    """
    home = Path(os.path.expanduser("~"))
    found: list[Path] = []
    queue = [Path(entry) for entry in path.split(os.pathsep) if entry.startswith("/")]
    queue += [Path(virtual) / "bin"] if virtual else []
    queue += [folder / ".venv" / "bin" for folder in {root, directory}]
    for environment in made:
        queue += _behind(Path(environment) / "bin")
    seen: set[Path] = set()
    while queue:
        folder = queue.pop(0)
        # … or out of this user's reach: Path.is_dir would raise
        if folder in seen or not os.path.isdir(folder):
            continue
        seen.add(folder)
        prefix = _installation(folder)
        if _narrow(prefix, home, root):
            found.append(prefix)
        elif _narrow(folder, home, root):
            found.append(folder)
        queue += _behind(folder)
    for folder in (home / ".pyenv", home / ".local" / "share" / "uv"):
        if any(str(folder) in str(p) for p in seen) and os.path.isdir(folder):
            found.append(folder)
    return _outermost(found)


def _installation(folder: Path) -> Path:
    """The installation that a folder of programs belongs to."""
    if folder.name in ("bin", "condabin", "shims", "Scripts") and any(
        os.path.exists(folder.parent / mark) for mark in MARKS
    ):
        return folder.parent
    return folder


def _behind(folder: Path) -> list[Path]:
    """Folders of programs that this one leans on: the venv's base interpreter, and what `python`
    links to.
    """
    more = []
    try:
        text = (folder.parent / "pyvenv.cfg").read_text("utf-8", "replace")
        more += [
            Path(line.partition("=")[2].strip())
            for line in text.splitlines()
            if line.split("=")[0].strip() == "home"
        ]
    except OSError:
        pass
    for name in ("python", "python3"):
        link = folder / name
        if os.path.exists(link):
            more.append(Path(os.path.realpath(link)).parent)
            if link.is_symlink():
                more.append((folder / os.readlink(link)).parent)
    return more


def _narrow(folder: Path, home: Path, root: Path) -> bool:
    wide = {
        Path("/"),
        home,
        home / ".local",
        home / ".cache",
        home / ".config",
        *home.parents,
        root,
        *root.parents,
    }
    covered = any(folder == Path(c) or Path(c) in folder.parents for c in COVERED)
    return folder not in wide and not covered and len(folder.parts) > 2


def _outermost(folders: Iterable[Path]) -> list[Path]:
    kept: list[Path] = []
    for folder in sorted(set(folders), key=lambda f: len(f.parts)):
        if not any(outer in folder.parents for outer in kept):
            kept.append(folder)
    return kept
