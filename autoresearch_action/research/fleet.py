"""Merging a fleet: what the shards kept, as patches against the common base, the most promising
first.

Shards claim nothing. Their kept changes become the proposals of one more run (`patches:`), which
measures them again one on the other and confirms the stack once. A shard that died, or whose ledger
cannot be read, costs only itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from autoresearch_action.ledger import RunState
from autoresearch_action.research.stack import stacked
from autoresearch_action.workspace.trees import PatchRefused, Workspace


def gather(folder: Path, workspace: Workspace, target: Path, note: Callable[[str], None]) -> int:
    """Write the kept changes of all ledgers below `folder` to `target`/NNN.diff. Returns how many
    there are.
    """
    # By tree: estimate, description, patch
    found: dict[str, tuple[float, str, str]] = {}
    for ledger in sorted(folder.glob("*/ledger.jsonl")):
        try:
            _kept(RunState.of(ledger), workspace, found)
        except (OSError, ValidationError, ValueError, KeyError, TypeError, Skipped) as error:
            note(f"The shard {ledger.parent.name} is left out: {error or type(error).__name__}")
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.diff"):
        old.unlink()
    ordered = sorted(found.values(), key=lambda change: -change[0])
    for place, (_, description, patch) in enumerate(ordered):
        text = f"Subject: {description}\n\n{patch}"
        (target / f"{place:03d}.diff").write_bytes(text.encode("utf-8", "surrogateescape"))
    return len(ordered)


class Skipped(Exception):
    """A ledger that does not speak of this base."""


def _kept(
    run_state: RunState, workspace: Workspace, found: dict[str, tuple[float, str, str]]
) -> None:
    """Each kept change alone on the base; where it needs those before it, together with them."""
    if run_state.run is None or run_state.run.base != workspace.base:
        raise Skipped("it was not measured on this base")
    kept = [run_state.experiments[number] for number in run_state.kept]
    changes = [
        (one.proposal.patch if one.proposal else "", " ".join(one.description.split()))
        for one in kept
    ]
    commits = stacked(workspace, changes)
    # What came after one that does not apply was built on it
    with suppress(PatchRefused):
        for experiment, (_, description), commit in zip(kept, changes, commits, strict=False):
            first = experiment is kept[0]
            alone = commit if first else workspace.carry(commit, workspace.base) or commit
            tree = workspace.tree(alone)
            estimate = (experiment.verdict and experiment.verdict.estimate) or 0.0
            if tree not in found or found[tree][0] < estimate:
                found[tree] = (estimate, description, workspace.patch(workspace.base, alone))
