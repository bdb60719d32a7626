"""From `run` to `evaluate`: the new files of the one are moved into the checkout of the other.

What goes is data: nothing that can be imported, run or compiled, and nothing that a tool takes for
its settings by its name alone; in any letter case, and wherever in a name the suffix stands. A file
that the scorer's checkout already has is never replaced.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

NEVER_HANDED = {
    ".py", ".pyi", ".pyc", ".pyo", ".pyd", ".pyx", ".pyz", ".pth", ".egg", ".whl", ".so",
    ".dll", ".dylib", ".o", ".a", ".exe", ".com", ".bat", ".cmd", ".ps1", ".sh", ".bash",
    ".zsh", ".fish", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx", ".node",
    ".wasm", ".rb", ".pl", ".pm", ".php", ".lua", ".r", ".jl", ".jar", ".class", ".war", ".go",
    ".rs", ".c", ".cc", ".cpp", ".cxx", ".h", ".hpp", ".cu", ".cuh", ".awk", ".tcl", ".zip",
    ".ini", ".cfg", ".conf", ".config", ".toml", ".lock", ".mk", ".cmake", ".gradle",
    ".properties", ".dist-info", ".egg-info", ".egg-link", ".props", ".targets", ".proj", ".csproj",
    ".vcxproj", ".sln", ".bazel", ".bzl", ".cabal", ".sbt", ".cs", ".fs", ".vb", ".swift", ".kt",
    ".kts", ".scala", ".groovy", ".dart", ".hs", ".ml", ".mli", ".ex", ".exs", ".erl", ".clj",
    ".cljs", ".cr", ".d", ".zig", ".nim", ".f90", ".f95", ".asm", ".s", ".hh", ".hxx", ".inc",
    ".inl", ".ipp", ".tpp", ".cppm", ".ixx", ".modulemap",
}  # fmt: skip
NEVER_NAMED = {
    "makefile", "gnumakefile", "justfile", "rakefile", "gemfile", "dockerfile", "procfile",
    "cmakelists.txt", "meson.build", "go.mod", "go.sum", "go.work", "package.json",
    "package-lock.json", "npm-shrinkwrap.json", "pnpm-workspace.yaml", "tsconfig.json",
    "jsconfig.json", "deno.json", "deno.jsonc", "composer.json", "requirements.txt",
    "constraints.txt", "environment.yml", "environment.yaml", "matplotlibrc", "__pycache__",
    "pipfile", "snakefile", "vagrantfile", "sconstruct", "sconscript", "wscript", "jamroot",
    "jamfile", "dune", "dune-project", "dune-workspace", "cabal.project", "stack.yaml",
    "package.yaml", "rust-toolchain", "pom.xml", "build.xml", "global.json", "cmakepresets.json",
    "cmakeuserpresets.json", "ipython_config.json", "jupyter_config.json",
    "jupyter_nbconvert_config.json",
}  # fmt: skip
MOST_BYTES, MOST_FILES = 16 << 30, 10_000
# Files or folders that are made read-only one by one: bubblewrap takes 9,000 words
MOUNTS = 2_000


class TooMuch(Exception):
    """`run` made more than is handed over; the text says what, in one sentence."""


def hand_over(source: Path, target: Path, prefix: str, but: str | None = None) -> list[str]:
    """Move the new files below `prefix` of one checkout into another, `but` what matches that.
    Returns what is to be read-only there: files, and the topmost of new folders for all that is in
    them. Raises TooMuch.
    """
    handed: dict[str, None] = {}
    # By folder: the topmost one above it, or itself, that `run` made
    fresh: dict[Path, Path | None] = {}
    total = count = 0
    for path in _made(source / prefix):
        name = path.relative_to(source)
        place, facts = target / name, path.lstat()
        if os.path.lexists(place) or not _plain(facts):
            continue
        if but and path.relative_to(source / prefix).match(but):
            continue
        total, count = total + facts.st_size, count + 1
        if total > MOST_BYTES or count > MOST_FILES:
            raise TooMuch(
                f"`run` made more than {MOST_BYTES >> 30} GiB or {MOST_FILES:,} files to hand over."
            )
        top = _topmost(name.parent, target, fresh)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, place)
        place.chmod(0o644)
        handed[(top or name).as_posix()] = None
    if len(handed) > MOUNTS:
        raise TooMuch(
            f"`run` made more than {MOUNTS:,} files beside one another to hand over: make them in a"
            " folder."
        )
    return list(handed)


def left_behind(source: Path, target: Path, prefix: str) -> list[str]:
    """New files of `run` that were not handed over, below `prefix`; leftovers of tools aside."""
    found = []
    for folder, names, files in os.walk(source / prefix):
        names[:] = [name for name in names if name != "__pycache__" and name[0] != "."]
        paths = (Path(folder, name) for name in sorted(files) if name[0] != ".")
        found += [path for path in paths if not os.path.lexists(target / path.relative_to(source))]
    return [path.relative_to(source / prefix).as_posix() for path in found]


def _made(top: Path) -> Iterator[Path]:
    """Files that may be handed over by their names, folder by folder; links to folders are not
    followed.
    """
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if _data(name) and not Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted(filter(_data, files)))


def _plain(facts: os.stat_result) -> bool:
    """Whether it is a file under one name that is no program."""
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and not facts.st_mode & 0o111


def _topmost(folder: Path, target: Path, known: dict[Path, Path | None]) -> Path | None:
    """The highest of a folder and those above it that is not in the target; None where all are."""
    if folder not in known:
        above = _topmost(folder.parent, target, known) if folder.parts else None
        known[folder] = above or (None if os.path.lexists(target / folder) else folder)
    return known[folder]


def _data(name: str) -> bool:
    """Whether a file or folder of this name may be handed over."""
    name = name.lower()
    special = name.startswith((".", "conftest")) or name in NEVER_NAMED
    return not special and NEVER_HANDED.isdisjoint(PurePosixPath(name).suffixes)
