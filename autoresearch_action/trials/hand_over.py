"""From `run` to `evaluate`: the new files of the one are moved into the checkout of the other.

What goes is data by its name: a suffix on the list, or a file that the brief names; and in neither
case what an interpreter, a compiler or a tool of the scorer's could take for code or for its
settings, in any letter case and wherever in a name the suffix stands, nor a name that a shell could
take for more than one. What is in a file is not looked at: a scorer that unpickles runs it. A file
that the scorer's checkout already has is never replaced.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from autoresearch_action.workspace.patterns import matches

DATA = {
    ".json", ".jsonl", ".ndjson", ".geojson", ".txt", ".csv", ".tsv", ".log", ".dat", ".data",
    ".bin", ".raw", ".npy", ".npz", ".mat", ".pt", ".pt2", ".ckpt", ".safetensors", ".onnx",
    ".tflite", ".gguf", ".ggml", ".model", ".vocab", ".ubj", ".h5", ".hdf5", ".nc", ".parquet",
    ".arrow", ".feather", ".orc", ".avro", ".msgpack", ".cbor", ".pb", ".db", ".sqlite", ".gz",
    ".xz", ".bz2", ".zst", ".lz4", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif",
    ".tiff", ".ppm", ".pgm", ".wav", ".flac", ".mp3", ".ogg", ".mp4", ".pdf",
}  # fmt: skip
# Whatever the brief allows: code, what is compiled from it, settings by their suffix
NEVER_HANDED = {
    ".py", ".pyi", ".pyc", ".pyo", ".pyd", ".pyw", ".pyx", ".pyz", ".pth", "._pth", ".egg", ".whl",
    ".so", ".dll", ".dylib", ".o", ".a", ".obj", ".lib", ".rlib", ".rmeta", ".gch", ".pch", ".exe",
    ".com", ".bat", ".cmd", ".ps1", ".psm1", ".psd1", ".sh", ".bash", ".zsh", ".fish", ".bats",
    ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx", ".node", ".vue", ".svelte",
    ".coffee", ".wasm", ".rb", ".rake", ".gemspec", ".ru", ".pl", ".pm", ".pmc", ".t", ".php",
    ".phpt", ".phar", ".lua", ".luac", ".r", ".jl", ".jar", ".class", ".war", ".beam", ".go", ".rs",
    ".c", ".cc", ".cpp", ".cxx", ".m", ".mm", ".h", ".hpp", ".cu", ".cuh", ".awk", ".tcl", ".ipynb",
    ".conf", ".config", ".mk", ".mak", ".ninja", ".cmake", ".gradle", ".gyp", ".gypi", ".dist-info",
    ".egg-info", ".egg-link", ".props", ".targets", ".proj", ".csproj", ".vcxproj", ".sln",
    ".bazel", ".bzl", ".cabal", ".sbt", ".cs", ".fs", ".vb", ".swift", ".kt", ".kts", ".scala",
    ".groovy", ".dart", ".hs", ".ml", ".mli", ".ex", ".exs", ".erl", ".clj", ".cljs", ".cr", ".d",
    ".zig", ".nim", ".nix", ".f90", ".f95", ".asm", ".s", ".hh", ".hxx", ".inc", ".inl", ".ipp",
    ".tpp", ".cppm", ".ixx", ".modulemap",
}  # fmt: skip
# … and what a tool takes for its own by the whole name
NEVER_NAMED = {
    "makefile", "gnumakefile", "kbuild", "justfile", "rakefile", "gemfile", "dockerfile",
    "procfile", "cmakelists.txt", "cmakecache.txt", "compile_flags.txt",
    "meson.build", "meson_options.txt", "conanfile.txt", "go.mod", "go.sum", "go.work",
    "package.json", "package-lock.json", "npm-shrinkwrap.json", "pnpm-workspace.yaml", "deno.json",
    "deno.jsonc", "jsconfig.json", "jasmine.json", "cypress.json", "nodemon.json", "nx.json",
    "project.json", "turbo.json", "lerna.json", "angular.json", "vcpkg.json", "composer.json",
    "phpunit.xml", "phpunit.xml.dist", "requirements.txt", "constraints.txt", "environment.yml",
    "environment.yaml", "matplotlibrc", "pylintrc", "__pycache__", "node_modules", "pipfile",
    "snakefile", "vagrantfile", "sconstruct", "sconscript", "wscript", "jamroot", "jamfile", "dune",
    "dune-project", "dune-workspace", "cabal.project", "stack.yaml", "package.yaml", "pom.xml",
    "build.xml", "global.json", "cmakepresets.json", "cmakeuserpresets.json", "setup.cfg",
    "pyvenv.cfg", "distutils.cfg", "pytest.ini", "tox.ini", "mypy.ini", "php.ini", "cargo.lock",
    "uv.lock", "rust-toolchain", "gradle.properties", "taskfile.yml", "taskfile.yaml",
    "compose.yml", "compose.yaml", "docker-compose.yml", "docker-compose.yaml", "dvc.yaml",
}  # fmt: skip
# … or by a part of it: pytest runs what stands in test*.txt
_TAKEN = re.compile(
    r"conftest.*|test.*\.(?:txt|rst|md)|tsconfig.*\.json|(?:jupyter|ipython)_.*config\.json"
    r"|(?:pyproject|cargo|rust-toolchain|rustfmt|clippy|uv|ruff|pixi|poetry|bunfig|pytest|project"
    r"|manifest|juliaproject|localpreferences|pyrefly)\.toml"
)
# One word to a shell, no option to a program, nothing hidden
_SHAPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+=@-]*")
MOST_BYTES, MOST_FILES = 16 << 30, 10_000
# Files or folders that are made read-only one by one: bubblewrap takes 9,000 words
MOUNTS = 2_000
# Folders in one another that are looked into
DEEPEST = 50


class TooMuch(Exception):
    """`run` made more than is handed over; the text says what, in one sentence."""


def hand_over(
    source: Path,
    target: Path,
    prefix: str,
    allowed: Sequence[str] = (),
    but: str | None = None,
) -> list[str]:
    """Move the new data below `prefix` of one checkout into another, with them what the patterns
    `allowed` name, `but` what matches that. Returns what is to be read-only there: files, and the
    topmost of new folders for all that is in them. Raises TooMuch.
    """
    handed: dict[str, None] = {}
    # By folder: the topmost one above it, or itself, that `run` made
    fresh: dict[Path, Path | None] = {}
    total = count = 0
    if (source / prefix).resolve() != source.resolve() / prefix:
        raise TooMuch("`run` put a link in the place of its working directory.")
    for path in _made(source / prefix, target / prefix, allowed):
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
    """New files of `run` that were not handed over, below `prefix`, as they can be shown; leftovers
    of tools aside.
    """
    found = []
    for folder, names, files in _walk(source / prefix):
        names[:] = [name for name in names if name != "__pycache__" and name[0] != "."]
        paths = (Path(folder, name) for name in sorted(files) if name[0] != ".")
        found += [path for path in paths if not os.path.lexists(target / path.relative_to(source))]
    return [ascii(path.relative_to(source / prefix).as_posix())[1:-1][:100] for path in found]


def _walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    depth = len(top.parts) + DEEPEST
    for folder, names, files in os.walk(top):
        if len(Path(folder).parts) >= depth:
            names.clear()
        yield folder, names, files


def _made(top: Path, target: Path, allowed: Sequence[str]) -> Iterator[Path]:
    """Files that may be handed over by their names, folder by folder; no link to a folder is
    followed, of the source or of the target.
    """
    for folder, names, files in _walk(top):
        there = target / Path(folder).relative_to(top)
        names[:] = [
            name
            for name in names
            if _fit(name) and not Path(folder, name).is_symlink() and _enters(there / name)
        ]
        for path in (Path(folder, name) for name in sorted(filter(_fit, files))):
            named = matches(path.relative_to(top).as_posix(), allowed)
            if named or path.suffix.lower() in DATA:
                yield path


def _enters(folder: Path) -> bool:
    """Whether it is a folder of the scorer's checkout, or can be made one."""
    return not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink())


def _plain(facts: os.stat_result) -> bool:
    """Whether it is a file under one name that is no program."""
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and not facts.st_mode & 0o111


def _topmost(folder: Path, target: Path, known: dict[Path, Path | None]) -> Path | None:
    """The highest of a folder and those above it that is not in the target; None where all are."""
    if folder not in known:
        above = _topmost(folder.parent, target, known) if folder.parts else None
        known[folder] = above or (None if os.path.lexists(target / folder) else folder)
    return known[folder]


def _fit(name: str) -> bool:
    """Whether nothing but data, or a folder of them, is called so."""
    low = name.lower()
    taken = low in NEVER_NAMED or _TAKEN.fullmatch(low) or not _SHAPE.fullmatch(name)
    return not taken and NEVER_HANDED.isdisjoint(PurePosixPath(low).suffixes)
