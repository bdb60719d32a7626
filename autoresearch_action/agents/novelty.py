"""What is new: ideas that other calls are thinking of, and edits that would only repeat one.

An edit repeats another where it gives the same code, takes back exactly what a kept change did, or
changes the same lines in the same way as one that was refuted. Blank lines and the space around a
line do not count. Reads records and work trees; measures nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_action.ledger import RunState
from autoresearch_action.records import Experiment
from autoresearch_action.workspace.trees import PatchRefused, Workspace

# A change of one line: file, + or -, what the line says
Line = tuple[str, str, str]


@dataclass
class _Idea:
    number: int
    line: str = ""
    # Calls that were in flight beside it: they alone are told of it
    beside: set[int] = field(default_factory=set)


class Ideas:
    """What calls in flight are about to propose. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ideas: dict[int, _Idea] = {}
        self._open: dict[int, int] = {}

    def begin(self, call: int, lowest: int) -> int:
        """The number that the call is asked for: the lowest from `lowest` on that no other is."""
        with self._lock:
            taken = {*self._open.values()}
            number = next(n for n in range(lowest, lowest + len(taken) + 1) if n not in taken)
            for other in self._open:
                self._ideas[other].beside.add(call)
            self._ideas[call] = _Idea(number, beside={*self._open})
            self._open[call] = number
            return number

    def intend(self, call: int, line: str) -> None:
        """Say, as soon as it is known, what the call is about to propose."""
        with self._lock:
            self._ideas[call].line = line

    def end(self, call: int) -> None:
        """It is no longer in flight; those beside it still see what it proposed."""
        with self._lock:
            self._open.pop(call, None)
            needed = {call for idea in self._ideas.values() for call in idea.beside}
            self._ideas = {
                one: idea
                for one, idea in self._ideas.items()
                if one in self._open or (one in needed and idea.beside & self._open.keys())
            }

    def others(self, call: int) -> list[str]:
        """A line for each call that was in flight beside this one."""
        with self._lock:
            return [
                f"The call for #{idea.number}: {idea.line or 'its idea is not known yet'}"
                for idea in self._ideas.values()
                if call in idea.beside
            ]


def fingerprint(patch: str) -> frozenset[Line]:
    """The lines that a git-format patch takes out and puts in, without where they stand."""
    found, file = set[Line](), ""
    for line in patch.split("\n"):
        if line.startswith(("--- ", "+++ ")):
            file = line[4:].split("\t")[0].partition("/")[2] or file
        elif line[:1] in ("+", "-") and line[1:].strip():
            found.add((file, line[0], line[1:].strip()))
    return frozenset(found)


def reverse(lines: Iterable[Line]) -> frozenset[Line]:
    """The lines of the patch that takes it back."""
    return frozenset((file, "-" if sign == "+" else "+", text) for file, sign, text in lines)


@dataclass(frozen=True)
class Known:
    """What was tried, as it was when a call began."""

    # Git trees, and as what
    trees: Mapping[str, str]
    experiments: tuple[Experiment, ...]

    @classmethod
    def of(cls, run_state: RunState, earlier: Mapping[str, str]) -> Known:
        """So far in this run, and by tree in earlier ones."""
        trees = {tree: f"#{number}" for tree, number in run_state.trees.items()}
        return cls({**earlier, **trees}, tuple(run_state.recent()))

    def refusal(self, workspace: Workspace, tree: Path, parent: str) -> str:
        """Why what the work tree holds would be refused before it is measured; "" where it would
        not.
        """
        try:
            patch = workspace.diff(tree, parent)
            if not patch.strip():
                return "Nothing is changed."
            commit = workspace.commit(parent, patch, "A draft")
        except PatchRefused as error:
            return str(error)
        what = self.repeats(workspace.tree(commit), patch)
        return f"This would not be measured: {what}." if what else ""

    def repeats(self, tree: str, patch: str) -> str:
        """What an edit that gives `tree` would repeat, as a clause; "" where it is new."""
        if same := self.trees.get(tree):
            return f"it is the same code as {same}"
        lines = fingerprint(patch)
        for experiment in reversed(self.experiments):
            verdict, proposal = experiment.verdict, experiment.proposal
            if verdict is None or proposal is None or not lines:
                continue
            before = fingerprint(proposal.patch)
            if verdict.status == "keep" and lines == reverse(before):
                return f"it takes back #{experiment.number}, which was kept"
            if lines == before and _refuted(experiment):
                return f"it repeats #{experiment.number}, which was refuted ({verdict.reason})"
        return ""


def _refuted(experiment: Experiment) -> bool:
    """Whether it was measured, and worse by more than its own spread."""
    verdict = experiment.verdict
    if verdict is None or verdict.status == "keep":
        return False
    if verdict.estimate is None:
        return any(run.outcome == "stopped" for run in experiment.runs)
    return verdict.estimate < -(verdict.spread or 0.0)
