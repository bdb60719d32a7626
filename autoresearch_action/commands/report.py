"""`autoresearch report`: the views of a state folder, written anew from its ledger."""

from __future__ import annotations

from pathlib import Path

from autoresearch_action import ledger
from autoresearch_action.errors import InputError
from autoresearch_action.ledger import RunState


def rewrite_report(state: Path) -> None:
    """`autoresearch report`."""
    from autoresearch_action.report import write

    run_state = read_state(state)
    if run_state.run is None:
        raise InputError(f"The ledger in {state} has no run yet: there is nothing to report.")
    write(state, run_state)


def read_state(state: Path) -> RunState:
    """What a state folder's ledger says. Raises InputError where there is none."""
    if not (state / "ledger.jsonl").exists():
        raise InputError(f"{state} holds no ledger: `autoresearch run` makes one.")
    return ledger.read(state)
