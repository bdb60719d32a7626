"""Which files matter to a brief, most of all first, and how they are shown: whole, in part or by
name.

By what the brief and its commands name, what those files import (Python by its syntax tree, other
languages by the files that their strings name), what kept changes touched and what a profile found
hot. Reads work trees; runs nothing.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_action.agents.edits import allowed
from autoresearch_action.agents.outline import excerpt, outline
from autoresearch_action.brief import Brief
from autoresearch_action.syntax import parsed

# Files that are looked at, and bytes of one
MOST_FILES, MOST_BYTES = 5_000, 1_000_000
# Characters of a file that is shown by its outline, at most
OUTLINED = 3_000
# From here on a file is worth showing in part alone
LARGE = 24_000
PASSED_OVER = ("__pycache__", "node_modules")
# What is read by people more than by the program
PROSE = (".md", ".rst", ".txt", ".html", ".css", ".lock", ".cfg", ".toml", ".ini", ".yml", ".yaml")
# What holds data more than code
DATA = (".json", ".jsonl", ".csv", ".tsv", ".xml", ".svg")
_QUOTED = re.compile(r"[\"'<]([\w./-]{2,100})[\"'>]")


@dataclass(frozen=True)
class Source:
    """A text file of the tree. `rank`: smaller is shown earlier."""

    name: str
    text: str
    editable: bool
    rank: tuple[float, int, int, str]

    @property
    def count(self) -> int:
        """Of its lines."""
        return len(self.text.splitlines())


def read_text(path: Path, most: int = MOST_BYTES) -> str | None:
    """A text file; None for a link, a binary, or one that is too large or cannot be read."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > most:
            return None
        raw = path.read_bytes()
    except OSError:
        return None
    return None if b"\0" in raw else raw.decode(errors="replace").replace("\r\n", "\n")


def names(directory: Path) -> Iterator[str]:
    """Files below `directory`, hidden ones and links passed over."""
    for folder, folders, found in os.walk(directory):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in PASSED_OVER)
        for name in sorted(found):
            path = Path(folder, name)
            if not name.startswith(".") and not path.is_symlink():
                yield path.relative_to(directory).as_posix()


def survey(
    directory: Path, brief: Brief, touched: Collection[str] = (), hot: Sequence[str] = ()
) -> list[Source]:
    """The text files of a tree, those that matter most first. `touched`: by kept changes; `hot`:
    files of a profile, the hottest first.
    """
    own = str(brief.path)
    found = [n for n, _ in zip(names(directory), range(MOST_FILES), strict=False) if n != own]
    read = {name: read_text(directory / name) for name in found}
    texts = {name: text for name, text in read.items() if text is not None}
    near, importers = _reached(texts, brief)
    told = {name for name in texts if _named(name, brief.prose)}
    context = {name for name in texts if any(_selects(p, name) for p in brief.context)}

    def rank(name: str) -> tuple[float, int, int, str]:
        first = 6.0 if name.endswith(DATA) else 4.0
        if name in near:
            first = min(2.0 + near[name] / 100, 2.99)
        if re.search(r"(^|/)tests?(/|_|\.)", name) and near.get(name) != 0:
            first = max(first, 4.5)
        if name.endswith(PROSE) and near.get(name) != 0:
            first = 5.0
        if name in told and not name.lower().startswith("readme"):
            first = min(first, 1.0)
        if name in touched:
            first = min(first, 0.9)
        if name in hot:
            first = min(first, 0.5 + hot.index(name) / 1000)
        if near.get(name) == 0:
            first = 0.2
        if name in context:
            first = 0.1
        return first, -importers[name], len(texts[name]), name

    sources = [
        Source(name, text, allowed(name, brief.edit), rank(name)) for name, text in texts.items()
    ]
    # No text, or too much of it: its name alone
    sources += [
        Source(name, "", False, (9.0, 0, 0, name)) for name, text in read.items() if text is None
    ]
    return sorted(sources, key=lambda source: source.rank)


def _selects(pattern: str, name: str) -> bool:
    return allowed(name, [pattern])


def _named(name: str, text: str) -> bool:
    return bool(re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w/])", text))


# -- what is reached from the commands


def _reached(texts: dict[str, str], brief: Brief) -> tuple[dict[str, int], Counter[str]]:
    """(steps of import from the commands' files by file, importers by file)."""
    near: dict[str, int] = {}
    importers: Counter[str] = Counter()
    front = [*entries(texts, brief)]
    near |= dict.fromkeys(front, 0)
    while front:
        following: list[str] = []
        for name in front:
            for other in imported(name, texts):
                importers[other] += 1
                if other not in near:
                    near[other] = near[name] + 1
                    following.append(other)
        front = following
    return near, importers


def entries(texts: Collection[str], brief: Brief) -> Iterator[str]:
    """The files that the brief's commands name, as paths or as modules."""
    for command in filter(None, [brief.run, brief.evaluate, brief.check]):
        try:
            words = shlex.split(command)
        except ValueError:
            words = command.split()
        for word, before in zip(words, ["", *words], strict=False):
            plain = os.path.normpath(word)
            if plain in texts:
                yield plain
            elif before == "-m":
                yield from _module(word, "", texts)


def imported(name: str, texts: dict[str, str]) -> set[str]:
    """The files of the tree that a file names by imports or, as another program, in a string."""
    tree = parsed(texts[name]) if name.endswith((".py", ".pyi")) else None
    folder = os.path.dirname(name)
    found = set(_quoted(texts[name], folder, texts)) if len(texts[name]) < LARGE * 8 else set()
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= {*_module(alias.name, folder, texts)}
        elif isinstance(node, ast.ImportFrom):
            found |= {*_from(node, folder, texts)}
    return found - {name}


def _from(node: ast.ImportFrom, folder: str, texts: Collection[str]) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        up = folder.split("/") if folder else []
        up = up[: len(up) - node.level + 1] if node.level > 1 else up
        base = ".".join([*up, *filter(None, [base])])
    yield from _module(base, folder, texts)
    for alias in node.names:
        yield from _module(f"{base}.{alias.name}" if base else alias.name, folder, texts)


def _module(module: str, folder: str, texts: Collection[str]) -> Iterator[str]:
    path = module.replace(".", "/")
    for root in dict.fromkeys(("", "src", folder)):
        for tail in (".py", "/__init__.py", "/__main__.py"):
            file = os.path.normpath(os.path.join(root, path + tail))
            if path and file in texts:
                yield file


def _quoted(text: str, folder: str, texts: Collection[str]) -> Iterator[str]:
    for word in _QUOTED.findall(text):
        for root in (folder, ""):
            for tail in ("", ".py", ".js", ".ts", ".tsx", ".h"):
                file = os.path.normpath(os.path.join(root, word + tail))
                if file in texts and not file.endswith(PROSE + DATA):
                    yield file


# -- how they are shown


def wanted_of(name: str, others: Iterable[str], hot: Sequence[str], brief: Brief) -> list[str]:
    """What of the file `name` is worth showing whole: functions of a profile, then what the code
    in `others` names of it, then what the commands name (`python prepare.py evaluate`).
    """
    module = os.path.splitext(os.path.basename(name))[0]
    commands = " ".join(filter(None, [brief.run, brief.evaluate]))
    found = list(hot)
    for text in others:
        found += re.findall(rf"\b{re.escape(module)}\.(\w+)", text)
        for told in re.findall(
            rf"from\s+[\w.]*{re.escape(module)}\s+import\s+(\([^)]*\)|[^\n]*)", text
        ):
            found += re.findall(r"\w+", told)
    if _named(name, commands):
        found += re.findall(r"\w+", commands)
    return list(dict.fromkeys(found))


def shown(source: Source, room: int, wanted: Sequence[str]) -> tuple[str, str]:
    """(how it is shown, its text) within `room` characters: whole, in part, or by its outline."""
    if len(source.text) <= room:
        return "whole", source.text
    if wanted and room > OUTLINED:
        told = excerpt(source.text, wanted, room)
    else:
        told = outline(source.text, min(room, OUTLINED))
    if told:
        return "in part", told
    return "its beginning", source.text[: min(room, OUTLINED)]
