"""What a model may do before it submits: read the incumbent's tree and the ledger, and edit the
call's own tree.

Reading changes nothing and sees no file outside the tree; an edit is applied at once, or said
exactly why not. The SDK makes the tools' schemas from their signatures and checks their input. Its
runner is not used: it speaks to the beta end point, which compatible servers need not have, where a
turn here is a request like any other (api.py). How many turns there are, and what they may cost, is
claude.py's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoresearch_action.agents import Context
from autoresearch_action.agents.digest import record
from autoresearch_action.agents.edits import Edit, EditRefused, allowed, apply
from autoresearch_action.agents.outline import outline
from autoresearch_action.agents.relevance import names, read_text
from autoresearch_action.text import visible
from autoresearch_action.workspace.patterns import matches

# Characters of one answer, and lines of a search
ANSWER = 16_000
FOUND = 80
# Characters of what is said to be wrong
MOST_ERROR = 4_000
# Bytes of a file that can be read at all
READABLE = 16_000_000
# Characters of a found line, and seconds of a search
LINE, SEARCH_LIMIT = 240, 10.0

HOW = """You work in turns with tools. Everything that is shown below by outline or by name alone \
can be read with them: ask for what you need, several things in one turn. Think first, in plain \
words, about where the result comes from; then make the edits with `edit` and end with `submit`, \
once. You have at most {turns} turns; what you have edited by then is not submitted by itself."""


class Workbench:
    """The tools of one call. Answers are texts; a ValueError says in a sentence what was wrong."""

    def __init__(self, context: Context) -> None:
        # 1 s: only where it is used
        import anthropic

        self.context, self.directory = context, context.directory
        self.changed: set[str] = set()
        tools = [
            anthropic.beta_tool(function)
            for function in (
                self.list_files,
                self.read_file,
                self.outline_file,
                self.search,
                self.experiment,
                self.edit,
            )
        ]
        self._tools = {tool.name: tool for tool in tools}

    def list_files(self, pattern: str = "**") -> str:
        """The files of the tree, with their numbers of lines; `edit` marks those that may change.

        Args:
            pattern: gitignore pattern from the working directory, such as src/**/*.py
        """
        lines = []
        for name in self._names(pattern):
            text = read_text(self.directory / name)
            mark = " edit" if allowed(name, self.context.brief.edit) else ""
            count = f"{len(text.splitlines())} lines" if text is not None else "no text"
            lines.append(f"{name} ({count}){mark}")
        return _bounded("\n".join(lines) or "No such file.")

    def read_file(self, file: str, first: int = 1, last: int = 0) -> str:
        """Lines of a file, each with its number and a tab before it (which are no part of it).

        Args:
            file: relative to the working directory
            first: number of the first line
            last: number of the last line; 0 for as many as fit
        """
        lines = self._text(file).split("\n")
        first = max(1, first)
        chosen, room = [], ANSWER
        for number, line in enumerate(lines[first - 1 : last or None], first):
            room -= len(line) + 8
            if room < 0:
                chosen.append(f"… go on with first={number} (of {len(lines)} lines)")
                break
            chosen.append(f"{number}\t{line}")
        return "\n".join(chosen) or f"{file} has {len(lines)} lines."

    def outline_file(self, file: str) -> str:
        """The definitions in a file, with the numbers of their lines.

        Args:
            file: relative to the working directory
        """
        return outline(self._text(file), ANSWER) or "It has no definitions."

    def search(self, pattern: str, files: str = "**") -> str:
        """Lines that a regular expression matches, as file:number: line.

        Args:
            pattern: extended regular expression, as grep -E takes it
            files: gitignore pattern of the files that are looked at
        """
        asked = ["git", "--literal-pathspecs", "grep", "--no-index", "-nIE", "-e", pattern, "--"]
        try:
            # A program of its own: an expression that takes for ever is ended
            done = subprocess.run(
                [*asked, *self._names(files)],
                cwd=self.directory,
                capture_output=True,
                timeout=SEARCH_LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise ValueError("That took too long: give a simpler expression.") from None
        except OSError as error:
            raise ValueError(f"Too many files ({error.strerror}): narrow `files`.") from None
        if done.returncode > 1:
            raise ValueError(done.stderr.decode(errors="replace")[:300])
        lines = done.stdout.decode(errors="replace").splitlines()
        found = [line[:LINE] for line in lines[:FOUND]]
        more = [f"… {len(lines) - FOUND} more"] if len(lines) > FOUND else []
        return "\n".join([*found, *more]) or "Nothing matches."

    def experiment(self, number: int) -> str:
        """The whole record of an experiment: diff, numbers beside its incumbent's, curve, end of
        the log, verdict.

        Args:
            number: as in the history
        """
        try:
            return record(self.context, number)
        except KeyError:
            raise ValueError(f"There is no experiment #{number} in this run.") from None

    def edit(self, file: str, search: str, replace: str) -> str:
        """Replace text in an editable file of your own tree; nothing is measured yet.

        Args:
            file: relative to the working directory
            search: copied exactly from the file (without line numbers) and occurring in it once;
                empty to make a new file
            replace: what stands there afterwards
        """
        try:
            edit = Edit(file=file, search=search, replace=replace)
            self.changed |= {*apply(self.directory, [edit], self.context.brief.edit)}
        except EditRefused as refused:
            near = f"\n{refused.near}" if refused.near else ""
            raise ValueError(f"Not applied. {refused}{near}") from None
        self.context.intend(f"edits {', '.join(sorted(self.changed))}")
        return "Applied."

    def run(self, name: str, given: object) -> tuple[str, bool]:
        """(answer of a tool, whether it is an error)."""
        tool = self._tools.get(name)
        if tool is None:
            return f"There is no tool {name[:60]!r}.", True
        try:
            return str(tool.call(given)), False
        except ValueError as error:
            return visible(str(error))[:MOST_ERROR], True

    def schemas(self) -> list[dict[str, Any]]:
        return [dict(tool.to_dict()) for tool in self._tools.values()]

    def _names(self, pattern: str) -> Iterator[str]:
        return (name for name in names(self.directory) if matches(name, [pattern]))

    def _text(self, file: str) -> str:
        name = os.path.normpath(file.strip().removeprefix("./"))
        path = self.directory / name
        inside = path.resolve().is_relative_to(self.directory.resolve())
        hidden = any(part.startswith(".") for part in Path(name).parts)
        text = read_text(path, READABLE) if inside and not hidden else None
        if text is None:
            raise ValueError(f"There is no text file {file[:100]!r} in the tree.")
        return text


def _bounded(text: str) -> str:
    if len(text) <= ANSWER:
        return text
    return f"{text[:ANSWER]}\n… {len(text) - ANSWER:,} further characters: give a narrower pattern"
