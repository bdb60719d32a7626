"""The commands that measure base and head again as the proof did: its seeds, its part of the
held-out data, its phases.

Not covered: the sandbox, the order of the runs, and literal seeds that a trial's copy had replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoresearch_action.ledger import RunState
from autoresearch_action.records import Measurement, Run

HEXADECIMAL = re.compile(r"[0-9a-f]{7,64}")


def commands(run_state: RunState, head: str = "") -> str:
    """For a shell in a clone that has both. `head`: the published commit, where there is one."""
    run, confirmation = run_state.run, run_state.confirmation
    assert run is not None
    lines = [f"cd {run.working_directory}"] if run.working_directory != "." else []
    if run.checkpoint:
        lines.append("export AUTORESEARCH_CHECKPOINT=  # the file, see how it was judged")
    if setup := run.contract.get("setup"):
        lines.append(setup)
    if (run_state.facts.get("noise") or {}).get("reseed"):
        lines.append("# literal seeds of the program were replaced: give it $AUTORESEARCH_SEED")
    # What was left in the user's own repository
    local = [*(run_state.facts.get("branch") or {}).get("commits", {}).values()][-1:]
    known = (head, *map(str, local), confirmation.head if confirmation else "")
    head = next((commit for commit in known if HEXADECIMAL.fullmatch(commit)), run.base)
    for side, commit in (("base", run.base), ("head", head)):
        lines += [
            *_side(run, side, commit, [one for one in run_state.proof if one.trial.side == side])
        ]
    return "\n".join(lines)


def _side(run: Run, side: str, commit: str, runs: list[Measurement]) -> Iterator[str]:
    first = runs[0].trial if runs else None
    yield f"git checkout -q --detach {commit}  # the {side}"
    budget = first.time_budget if first and first.time_budget is not None else None
    if "time-budget" in run.contract:
        yield f"export AUTORESEARCH_TIME_BUDGET={budget or run.contract['time-budget']:g}"
    if check := run.contract.get("check"):
        yield str(check)
    seeds = " ".join(str(one.trial.seed) for one in runs) or "1"
    yield f"for AUTORESEARCH_SEED in {seeds}; do export AUTORESEARCH_SEED"
    scored = "export AUTORESEARCH_SPLIT={} AUTORESEARCH_HOLDOUT_SLICE={}"
    searched = scored.format("val", 0)
    held_out = scored.format("holdout", first.slice) if first else searched
    if train := run.contract.get("run"):
        yield f"  {searched if run.contract.get('evaluate') else held_out}; {train}"
    if score := run.contract.get("evaluate"):
        yield f"  {held_out}; {score}"
    yield "done"
