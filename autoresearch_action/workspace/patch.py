"""Which patches are allowed: decided on their text, before anything is applied.

Paths are relative to the repository's root; `edit` patterns are gitignore patterns anchored at the
working directory (`train.py` is the one at its top, `**/train.py` any). The workspace looks at the
resulting trees once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from autoresearch_action.brief import Brief

NEVER = (".git", ".github/workflows", ".gitmodules", ".gitattributes")
_HEADER = re.compile(r'^diff --git (?:"a/((?:[^"\\]|\\.)*)" "b/((?:[^"\\]|\\.)*)"|a/(.*) b/(.*))$')
_MODE = re.compile(r"^(?:old mode|new mode|new file mode|deleted file mode) (\d{6})$")


class PatchRefused(Exception):
    """The patch may not be used; the text says why, in one sentence."""


def check_patch(patch: str, prefix: str, brief: Brief) -> list[str]:
    """The paths a git-format patch touches. Raises PatchRefused for anything that may not be
    touched.
    """
    paths: list[str] = []
    in_header = False
    for line in patch.split("\n"):
        found = _HEADER.match(line)
        if found:
            in_header = True
            old, new = (
                (_unquote(found[1]), _unquote(found[2]))
                if found[1] is not None
                else (found[3], found[4])
            )
            paths += dict.fromkeys((old, new))
        elif line.startswith("@@"):
            in_header = False
        elif in_header:
            _check_header(line, paths[-1])
            if line.startswith(("--- ", "+++ ")):
                paths += _named(line)
    if not paths:
        raise PatchRefused("The patch names no file (it must be a git-format diff).")
    paths = list(dict.fromkeys(paths))
    allowed = set(editable(paths, prefix, brief))
    for path in paths:
        if path not in allowed:
            raise PatchRefused(
                f"{path[:200]} is not in `edit` ({', '.join(brief.edit)}): it stays as it is."
            )
    return paths


def _check_header(line: str, path: str) -> None:
    mode = _MODE.match(line)
    if mode and mode[1] not in ("100644",) and not line.startswith("deleted"):
        raise PatchRefused(
            f"{path}: links, submodules, executables and changes of mode are not allowed."
        )
    if line.startswith(("GIT binary patch", "Binary files")):
        raise PatchRefused(f"{path}: a binary change is not allowed.")
    if line.startswith(("rename ", "copy ")):
        raise PatchRefused(f"{path}: renames are not allowed; delete and add instead.")


def _named(line: str) -> list[str]:
    name = line[4:].split("\t")[0]
    name = _unquote(name[1:-1]) if name.startswith('"') and name.endswith('"') else name
    return [] if name == "/dev/null" else [name[2:] if name[:2] in ("a/", "b/") else name]


def _unquote(text: str) -> str:
    """Git's C-style quoting of a path."""
    raw = re.sub(
        rb"\\(?:([0-7]{3})|(.))",
        lambda m: (
            bytes([int(m[1], 8) & 255]) if m[1] else {b"n": b"\n", b"t": b"\t"}.get(m[2], m[2])
        ),
        text.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")


def editable(paths: Iterable[str], prefix: str, brief: Brief) -> list[str]:
    """Those of `paths` that the brief allows to be edited."""
    never = {*NEVER, (PurePosixPath(prefix) / brief.path).as_posix()}
    return [
        path
        for path in paths
        if _inside(path, prefix, never) and matches(_relative(path, prefix), tuple(brief.edit))
    ]


def _inside(path: str, prefix: str, never: set[str]) -> bool:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\n" in path:
        return False
    if any(part.lower() in (".git", "git~1") for part in parts):
        return False
    low = path.lower()
    if any(low == name.lower() or low.startswith(f"{name.lower()}/") for name in never):
        return False
    return not prefix or path.startswith(f"{prefix}/")


def _relative(path: str, prefix: str) -> str:
    return path[len(prefix) + 1 :] if prefix else path


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether gitignore `patterns`, the last match winning, name `path` (gitignore(5), anchored at
    the top).
    """
    named = False
    for pattern in patterns:
        negated, body = pattern.startswith("!"), pattern.removeprefix("!")
        if _pattern(body).fullmatch(path):
            named = not negated
    return named


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    body, out, at = text.strip("/"), "", 0
    while at < len(body):
        if body.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif body.startswith("/**", at) and at + 3 == len(body):
            out, at = out + "/.*", at + 3
        elif body[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif body[at] == "?":
            out, at = out + "[^/]", at + 1
        elif body[at] == "[" and (end := body.find("]", at + 2)) > 0:
            inside = body[at + 1 : end].replace("\\", "\\\\")
            out, at = out + "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]", end + 1
        elif body[at] == "\\" and at + 1 < len(body):
            out, at = out + re.escape(body[at + 1]), at + 2
        else:
            out, at = out + re.escape(body[at]), at + 1
    return re.compile(out + ("/.*" if text.endswith("/") else "(?:/.*)?"), re.DOTALL)
