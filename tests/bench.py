"""Measure a commit of a tiny repository with the real parts: workspace, sandbox, phases."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tiny

from autoresearch_action import brief as briefs
from autoresearch_action.isolation import Isolation
from autoresearch_action.isolation.device import find_slots
from autoresearch_action.isolation.fallback import Reduced, Unconfined
from autoresearch_action.isolation.sandbox import choose
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.trials.slot import SlotContext
from autoresearch_action.trials.trial import TrialRun
from autoresearch_action.workspace.trees import Workspace


def isolation(level: str) -> Isolation:
    """full, reduced, unshared (reduced, in namespaces of its own) or none."""
    if level == "full":
        best = choose()
        assert best.strength == "full", best.describe()
        return best
    kind = Unconfined if level == "none" else Reduced
    return kind("a test", spaces=level == "unshared")


def make(directory: Path, level: str = "full", **facts: object) -> SlotContext:
    """A bench for the repository in `directory`. `level` is forced down from what the machine has."""
    brief = briefs.read(Path("program.md"), directory)
    state = directory / ".autoresearch"
    bench = SlotContext(
        brief, Workspace(directory, state, brief), isolation(level), find_slots("1")[0], state
    )
    return dataclasses.replace(bench, **facts)


def candidate(
    bench: SlotContext, text: str, file: str = "train.py", seed: int = 1, **facts: object
) -> Measurement:
    """Measure the base with `file` replaced."""
    space = bench.workspace
    tree = space.state / "slots" / "edit"
    space.checkout(tree, space.base)
    (tree / space.prefix / file).write_text(text)
    patch = space.diff(tree, space.base)
    commit = space.commit(space.base, patch, "candidate") if patch else space.base
    return TrialRun(bench, Trial(number=1, commit=commit, seed=seed, index=1, **facts)).measure()


def base(bench: SlotContext, seed: int = 1, **facts: object) -> Measurement:
    return TrialRun(
        bench, Trial(number=0, commit=bench.workspace.base, seed=seed, index=1, **facts)
    ).measure()


def python(directory: Path, **keys: str) -> SlotContext:
    """A bench whose `run` and `evaluate` use the system's own interpreter, which every user can read."""
    program = tiny.PROGRAM.replace("python ", "/usr/bin/python3 ")
    for key, value in keys.items():
        program = program.replace("metric:", f"{key.replace('_', '-')}: {value}\nmetric:", 1)
    return make(tiny.repository(directory, program=program))
