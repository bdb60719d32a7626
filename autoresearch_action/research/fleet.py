"""Merging a fleet: what the shards kept, as patches against the common base, the most promising
first.

Shards claim nothing. Their kept changes become the proposals of one more run (`patches:`), which
measures them again one on the other and confirms the stack once. A shard that died, or whose ledger
cannot be read, costs only itself. Nothing of it is read by a link or beyond a limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from autoresearch_action.errors import UserError
from autoresearch_action.ledger import RunState
from autoresearch_action.research.stack import stacked
from autoresearch_action.text import line
from autoresearch_action.workspace.folders import content, put
from autoresearch_action.workspace.trees import MAX_PATCH_BYTES, PatchRefused, Workspace

# Bytes of a ledger, and changes that a shard kept
MOST_LEDGER = 256 << 20
MOST_KEPT = 1_000


def gather(folder: Path, workspace: Workspace, target: Path, note: Callable[[str], None]) -> int:
    """Write the kept changes of all ledgers below `folder` to `target`/NNN.diff. Returns how many
    there are.
    """
    # By tree: estimate, description, patch
    found: dict[str, tuple[float, str, str]] = {}
    for ledger in sorted(folder.glob("*/ledger.jsonl")):
        shard = ledger.parent
        try:
            with TemporaryDirectory(prefix="autoresearch-shard-") as copy:
                _kept(_taken(shard, Path(copy)), workspace, found)
        except (UserError, OSError, ValueError, LookupError, TypeError, Skipped) as error:
            note(f"The shard {shard.name} is left out: {error or type(error).__name__}")
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.diff"):
        old.unlink()
    ordered = sorted(found.values(), key=lambda change: -change[0])
    for place, (_, description, patch) in enumerate(ordered):
        text = f"Subject: {description}\n\n{patch}"
        (target / f"{place:03d}.diff").write_bytes(text.encode("utf-8", "surrogateescape"))
    return len(ordered)


def _taken(shard: Path, copy: Path) -> RunState:
    """The run of a shard, from a copy of its ledger and of the patches that it kept."""
    put(copy, "ledger.jsonl", content(shard, "ledger.jsonl", most=MOST_LEDGER))
    run_state = RunState.of(copy / "ledger.jsonl")
    if len(run_state.kept) > MOST_KEPT:
        raise Skipped(f"it kept more than {MOST_KEPT:,} changes")
    for number in run_state.kept:
        parts = ("trials", f"{number:04d}", "patch.diff")
        put(copy, "/".join(parts), content(shard, *parts, most=MAX_PATCH_BYTES))
    return run_state


class Skipped(Exception):
    """A ledger that does not speak of this base."""


def _kept(
    run_state: RunState, workspace: Workspace, found: dict[str, tuple[float, str, str]]
) -> None:
    """Each kept change alone on the base; where it needs those before it, together with them."""
    if run_state.run is None or run_state.run.base != workspace.base:
        raise Skipped("it was not measured on this base")
    kept = [run_state.experiments[number] for number in run_state.kept]
    changes = [(one.proposal.patch if one.proposal else "", line(one.description)) for one in kept]
    commits = stacked(workspace, changes)
    # What came after one that does not apply was built on it
    with suppress(PatchRefused):
        for experiment, (_, description), commit in zip(kept, changes, commits, strict=False):
            first = experiment is kept[0]
            alone = commit if first else workspace.carry(commit, workspace.base) or commit
            tree = workspace.tree(alone)
            estimate = (experiment.verdict and experiment.verdict.estimate) or 0.0
            estimate = estimate if math.isfinite(estimate) else 0.0
            if tree not in found or found[tree][0] < estimate:
                found[tree] = (estimate, description, workspace.patch(workspace.base, alone))
