"""SEARCH/REPLACE edits, and which files they may touch.

A search text must occur once: exactly, else line by line without trailing blanks, else with another
indentation (the replacement is then indented alike). What may be edited in the end is the
workspace's to enforce; the list here is what an agent is shown. Also whether a patch leaves
training losses comparable.
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from autoresearch_action.records import Record
from autoresearch_action.workspace.patch import ordinary
from autoresearch_action.workspace.patterns import matches

# Lines of a file that are shown where a search text is not found
MOST_NEAR = 30
# What these change moves the training loss itself or its course, so that it cannot be held against
# another's.
INCOMPARABLE = re.compile(
    r"seq|context|block_size|ctx|token|loss|smooth|drop|warm|cool|anneal|sched|final|decay_frac|aux"
)


class Edit(Record):
    """Replace `search` by `replace` in `file` (relative to the working directory); an empty search
    makes a new file.
    """

    file: str
    search: str
    replace: str


def comparable(patch: str) -> bool:
    """Whether a patch's lines, comments aside, say nothing that moves the training loss itself or
    its course.
    """
    changed = (
        line[1:].partition("#")[0]
        for line in patch.split("\n")
        if re.match(r"[+-](?![+-]{2} )", line)
    )
    return not any(INCOMPARABLE.search(line.lower()) for line in changed)


class EditRefused(Exception):
    """An edit that does not apply; the text is one sentence that also helps a model to mend it.
    `near`: the lines of the file that look most like the ones searched for, as they are.
    """

    def __init__(self, reason: str, near: str = "") -> None:
        super().__init__(reason)
        self.near = near


def apply(directory: Path, edits: Sequence[Edit], patterns: Sequence[str]) -> list[str]:
    """Apply all of them or none. Returns the files changed. Raises EditRefused."""
    if not edits:
        raise EditRefused("There was no edit.")
    texts: dict[str, str] = {}
    endings: dict[str, str] = {}
    for edit in edits:
        file = _inside(directory, edit.file, patterns)
        if file not in texts:
            texts[file], endings[file] = _read(directory / file)
        texts[file] = _replaced(
            texts[file], edit, file, exists=(directory / file).exists() or bool(texts[file])
        )
    changed = [file for file, text in texts.items() if text != _read(directory / file)[0]]
    if not changed:
        raise EditRefused("The edits leave every file as it was.")
    for file in changed:
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(texts[file].replace("\n", endings[file]).encode())
    return changed


def _inside(directory: Path, file: str, patterns: Sequence[str]) -> str:
    name = os.path.normpath(file.strip().removeprefix("./")).replace(os.sep, "/")
    if not allowed(name, patterns):
        raise EditRefused(f"{file[:100]} may not be edited; only {', '.join(patterns)} may.")
    if not (directory / name).resolve().is_relative_to(directory.resolve()):
        raise EditRefused(f"{file[:100]} lies outside the working directory.")
    return name


def _read(path: Path) -> tuple[str, str]:
    """(text with \\n line ends, the line end it is written with); a missing file is empty."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return "", "\n"
    except (UnicodeDecodeError, IsADirectoryError):
        raise EditRefused(f"{path.name} is no UTF-8 text file.") from None
    return (
        (text.replace("\r\n", "\n"), "\r\n")
        if text.count("\r\n") * 2 > text.count("\n")
        else (text, "\n")
    )


def _replaced(text: str, edit: Edit, file: str, exists: bool) -> str:
    search, new = edit.search.replace("\r\n", "\n"), edit.replace.replace("\r\n", "\n")
    if not search.strip():
        if exists:
            raise EditRefused(f"The search text for {file} is empty, and the file exists.")
        return new
    if text.count(search) == 1:
        return text.replace(search, new)
    if text.count(search) > 1:
        raise EditRefused(
            f"The search text occurs {text.count(search)} times in {file}: give more lines"
            f" around it: {_short(search)}"
        )
    lines, wanted = text.split("\n"), search.strip("\n").split("\n")
    for tolerant in (_ends, _indents):
        places = [
            n
            for n in range(len(lines) - len(wanted) + 1)
            if tolerant(lines[n : n + len(wanted)]) == tolerant(wanted)
        ]
        if len(places) > 1:
            raise EditRefused(
                f"The search text occurs {len(places)} times in {file}: give more lines around"
                f" it: {_short(search)}"
            )
        if places:
            found = lines[places[0] : places[0] + len(wanted)]
            body = new.strip("\n").split("\n") if new.strip("\n") else []
            if tolerant is _indents:
                body = _indented(body, _margin(found), _margin(wanted))
            return "\n".join([*lines[: places[0]], *body, *lines[places[0] + len(wanted) :]])
    place = _nearest(lines, wanted)
    near = lines[place : place + min(len(wanted), MOST_NEAR)] if place is not None else []
    told = f"; the nearest lines begin at {place + 1}" if place is not None else ""
    raise EditRefused(
        f"The search text does not occur in {file}: {_short(search)}{told}", "\n".join(near)
    )


def _ends(lines: list[str]) -> list[str]:
    return [line.rstrip() for line in lines]


def _indents(lines: list[str]) -> list[str]:
    return textwrap.dedent("\n".join(_ends(lines))).split("\n")


def _margin(lines: list[str]) -> str:
    return os.path.commonprefix([re.match(r"[ \t]*", line)[0] for line in lines if line.strip()])  # type: ignore[index]


def _indented(lines: list[str], margin: str, old: str) -> list[str]:
    return [margin + line.removeprefix(old) if line.strip() else "" for line in lines]


def _short(text: str) -> str:
    line = text.strip().split("\n")[0]
    return f"`{line[:80]}`"


def _nearest(lines: list[str], wanted: list[str]) -> int | None:
    """Where in the file the lines begin that look most like the ones searched for."""
    longest = max(wanted, key=lambda line: len(line.strip()))
    stripped = [line.strip() for line in lines[:20_000]]
    near = difflib.get_close_matches(longest.strip(), stripped, n=1, cutoff=0.6)
    return max(0, stripped.index(near[0]) - wanted.index(longest)) if near else None


def allowed(name: str, patterns: Sequence[str]) -> bool:
    """Whether `patterns` select the file `name`, relative to the working directory."""
    return ordinary(name) and matches(name, patterns)


def editable(directory: Path, patterns: Sequence[str]) -> list[str]:
    """The files under `directory` that `patterns` select, sorted; links and hidden folders are
    passed over.
    """
    return sorted(name for name in _files(directory, patterns) if allowed(name, patterns))


def _files(directory: Path, patterns: Sequence[str]) -> Iterator[str]:
    plain = [pattern.strip("/") for pattern in patterns]
    if not any(
        re.search(r"[*?\[!\\]", pattern) or (directory / pattern).is_dir() for pattern in plain
    ):
        yield from {name for name in plain if (directory / name).is_file()}
        return
    for folder, folders, files in os.walk(directory):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name not in ("__pycache__", "node_modules")
        ]
        for file in files:
            path = Path(folder, file)
            if not path.is_symlink():
                yield path.relative_to(directory).as_posix()
