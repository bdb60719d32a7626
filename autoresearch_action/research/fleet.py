"""Merging a fleet: what the shards kept, as patches against the common base, the most promising
first.

Shards claim nothing. Their kept changes become the proposals of one more run (`patches:`), which
measures them again one on the other and confirms the stack once. A shard that died, or whose ledger
cannot be read, costs only itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from autoresearch_action.ledger import RunState
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
    tip = workspace.base
    for number in run_state.kept:
        experiment = run_state.experiments[number]
        assert experiment.proposal is not None and experiment.verdict is not None
        description = " ".join(experiment.description.split())
        try:
            tip = workspace.commit(tip, experiment.proposal.patch, description, three_way=True)
        except PatchRefused:
            # What came after it was built on it
            return
        alone = tip if number == run_state.kept[0] else workspace.carry(tip, workspace.base) or tip
        tree = workspace.tree(alone)
        estimate = experiment.verdict.estimate or 0.0
        if tree not in found or found[tree][0] < estimate:
            found[tree] = (estimate, description, workspace.patch(workspace.base, alone))
