"""Which patches are allowed, decided on their text before anything is applied; and which files may
be edited at all.

A patch is read in one form alone, the one that our own `git diff` writes; whatever else git would
accept is refused, so that our reading of it is git's. Paths are relative to the repository's root.
Whoever applies a patch looks at the resulting trees once more.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from autoresearch_action.brief import Brief
from autoresearch_action.text import visible
from autoresearch_action.workspace.patterns import matches

# Of a path, and of one name in it (bytes, as file systems count)
LONGEST_PATH, LONGEST_NAME = 1_000, 255
# Blanks but the plain one, and what some file system or reader takes for more than a letter
_UNFIT = re.compile(r'[\\:"]|(?! )\s')
# How Windows shortens names that begin with .git
SHORTENED = re.compile(r"gi[^/]*~\d")
PLAIN = ("100644", "100755")
NOWHERE = "/dev/null"
_MODE = re.compile(r"(new|deleted) file mode (\d{6})")
_INDEX = re.compile(r"index ([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: (\d{6}))?")
_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?: .*)?", re.DOTALL)
_NO_END = "\\ No newline at end of file"


class PatchRefused(Exception):
    """The patch may not be used; the text says why, in one sentence."""


class Touched(NamedTuple):
    """One file of a patch, with its lines added and removed."""

    path: str
    added: int
    removed: int


def check_patch(patch: str, prefix: str, brief: Brief) -> list[str]:
    """The paths a git-format patch touches. Raises PatchRefused for anything that may not be
    touched.
    """
    paths = [touched.path for touched in read(patch)]
    allowed = set(editable(paths, prefix, brief))
    for path in paths:
        if path not in allowed:
            raise PatchRefused(
                f"{shown(path)} is not in `edit` ({', '.join(brief.edit)}): it stays as it is."
            )
    return paths


def shown(path: str) -> str:
    """A path for a sentence."""
    return visible(" ".join(path.split()))[:200] or "A file without a name"


# -- which files may be edited


def editable(paths: Iterable[str], prefix: str, brief: Brief) -> list[str]:
    """Those of `paths` that the brief allows to be edited."""
    program = folded((PurePosixPath(prefix) / brief.path).as_posix())
    start = f"{prefix}/" if prefix else ""
    return [
        path
        for path in paths
        if path.startswith(start)
        and ordinary(path)
        and folded(path) != program
        and matches(path[len(start) :], brief.edit)
    ]


def ordinary(path: str) -> bool:
    """Whether a file of this name can be edited anywhere: no `.git*` at any depth (`.github` too),
    nothing that some file system takes for one, nothing that does not look like what it is.
    """
    if len(path.encode("utf-8", "surrogatepass")) > LONGEST_PATH:
        return False
    if visible(path) != path or _UNFIT.search(path):
        return False
    return unicodedata.is_normalized("NFC", path) and all(map(_ordinary_name, path.split("/")))


def _ordinary_name(name: str) -> bool:
    low = folded(name)
    if not name or name[-1] in " ." or len(name.encode()) > LONGEST_NAME:
        return False
    return not low.startswith(".git") and not SHORTENED.match(low)


def folded(path: str) -> str:
    """The path as a file system reads it that minds neither case nor Unicode's forms."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


# -- how a patch is read


def read(patch: str) -> list[Touched]:
    """What a patch in git's canonical form touches. Raises PatchRefused for every other form."""
    if "\0" in patch:
        raise PatchRefused("The patch holds NUL bytes: binary changes are not allowed.")
    if not patch.endswith("\n"):
        raise PatchRefused("The patch names no file, or ends within a line.")
    found = list(_Reader(patch.split("\n")[:-1]).files())
    if len({touched.path for touched in found}) < len(found):
        raise PatchRefused("The patch names a file twice.")
    return found


class _Reader:
    """The lines of one patch, taken one after the other."""

    def __init__(self, lines: list[str]) -> None:
        self.lines, self.at = lines, 0

    def files(self) -> Iterator[Touched]:
        while self.at < len(self.lines):
            yield self._file()

    def _next(self) -> str:
        return self.lines[self.at] if self.at < len(self.lines) else ""

    def _take(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        found = expression.fullmatch(self._next())
        self.at += found is not None
        return found

    def _refuse(self, where: str) -> PatchRefused:
        line = self._next()
        if line.startswith(("rename ", "copy ", "similarity ", "dissimilarity ")):
            return PatchRefused(f"{where}: renames are not allowed; delete and add instead.")
        if line.startswith(("GIT binary patch", "Binary files")):
            return PatchRefused(f"{where}: a binary change is not allowed.")
        if line.startswith(("old mode ", "new mode ")):
            return PatchRefused(f"{where}: a change of mode is not allowed.")
        told = f"{shown(line)[:80]!r}" if line else "it ends too early"
        return PatchRefused(
            f"{where}: this is no diff as `git diff` writes it (line {self.at + 1}: {told})."
        )

    def _file(self) -> Touched:
        path = _path(self._next())
        if path is None:
            raise self._refuse("The patch")
        self.at += 1
        where, kind = shown(path), ""
        if mode := self._take(_MODE):
            kind = mode[1]
            if mode[2] not in (PLAIN if kind == "deleted" else PLAIN[:1]):
                raise PatchRefused(f"{where}: links, submodules and executables are not allowed.")
        index = self._take(_INDEX)
        if index and index[3] and (kind or index[3] not in PLAIN):
            raise PatchRefused(f"{where}: links and submodules are not allowed.")
        added = removed = 0
        if self._next().startswith("--- "):
            self._names(path, kind, where)
            while self._next().startswith("@@"):
                more, less = self._hunk(where)
                added, removed = added + more, removed + less
            if not added and not removed:
                raise self._refuse(where)
        elif not kind or not index:
            # An empty file that comes or goes is a mode and an index line alone
            raise self._refuse(where)
        if (kind == "new" and removed) or (kind == "deleted" and added):
            raise PatchRefused(f"{where}: a {kind} file has lines of another one.")
        return Touched(path, added, removed)

    def _names(self, path: str, kind: str, where: str) -> None:
        # Git ends a name with a blank in it by a tab
        end = "\t" if " " in path else ""
        old, new = f"a/{path}{end}", f"b/{path}{end}"
        for line in (
            f"--- {NOWHERE if kind == 'new' else old}",
            f"+++ {NOWHERE if kind == 'deleted' else new}",
        ):
            if self._next() != line:
                raise self._refuse(where)
            self.at += 1

    def _hunk(self, where: str) -> tuple[int, int]:
        """(lines added, lines removed)"""
        head = self._take(_HUNK)
        if head is None:
            raise self._refuse(where)
        old, new = (1 if count is None else int(count) for count in (head[2], head[4]))
        added = removed = 0
        while old > 0 or new > 0:
            mark = self._next()[:1]
            if not mark or mark not in " +-":
                raise self._refuse(where)
            old, new = old - (mark in " -"), new - (mark in " +")
            added, removed = added + (mark == "+"), removed + (mark == "-")
            self.at += 1
            if self._next() == _NO_END:
                self.at += 1
        if old or new:
            raise self._refuse(where)
        return added, removed


def _path(line: str) -> str | None:
    """The name in `diff --git a/NAME b/NAME`; quoted ones hold what no editable name does."""
    names = line.removeprefix("diff --git ")
    half = len(names) // 2
    name = names[2:half]
    return name if name and line == f"diff --git a/{name} b/{name}" else None
