"""Whether a start goes on with the ledger's run or begins another: the ledger put aside, and the
checkpoint fetched anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from autoresearch_action.ledger import Ledger, RunState
from autoresearch_action.records import Run
from autoresearch_action.research.history import changed
from autoresearch_action.trials.checkpoint import fetch, shown
from autoresearch_action.trials.setup import SETUP_LOG


def recorded(given: Mapping[str, str]) -> dict[str, str]:
    """What the ledger keeps of a checkpoint: no secret of its address."""
    return {"uri": shown(given["uri"]), "sha256": given["sha256"]} if given else {}


def checkpoint(
    uri: str | None,
    run_state: RunState,
    now: Run,
    fresh: bool,
    values: Mapping[str, str],
    interrupted: Callable[[], str],
) -> dict[str, str]:
    """Fetched anew for a new run: what lies at an address changes. A run that goes on keeps what it
    began with.
    """
    if not uri:
        return {}
    old = run_state.run.checkpoint if run_state.run else {}
    same = now.model_copy(update={"checkpoint": old})
    keep = old.get("uri") == shown(uri) and not _over(run_state, same, fresh)
    path, sha = fetch(uri, run_state.state, values, keep, interrupted)
    return {"uri": uri, "path": str(path), "sha256": sha}


def _over(run_state: RunState, now: Run, fresh: bool) -> bool:
    """Whether the ledger's run, if there is one, is not gone on with."""
    return (
        run_state.run is None
        or fresh
        or bool(run_state.facts.get("delivered") or changed(run_state.run, now))
    )


def begin(ledger: Ledger, now: Run, fresh: bool, say: Callable[[str], None]) -> None:
    """Resume the ledger's run, or put it aside where it is over or its evidence is of something
    else, and begin `now`.
    """
    run_state, old = ledger.run_state, ledger.run_state.run
    if old and not _over(run_state, now, fresh):
        done = f"{run_state.tried} experiments done, {len(run_state.kept)} kept"
        say(f"Resuming run {old.id}: {done}.")
        return
    if old:
        if not fresh and not run_state.facts.get("delivered"):
            why = f"because this has changed since: {', '.join(changed(old, now))}"
            say(f"Run {old.id} is put aside and a new one begins, {why}.")
        elif not fresh:
            what = "this is a new one, which measures again first what that one kept"
            say(f"Run {old.id} is finished: {what}.")
        ledger.restart(old.id)
        log = run_state.state / "history" / f"{old.id}-trials" / SETUP_LOG
        # The setup that has just run is the new run's
        if log.exists():
            (run_state.state / "trials").mkdir(exist_ok=True)
            log.rename(run_state.state / "trials" / SETUP_LOG)
    ledger.append("run", now)


def dice(run_state: RunState) -> int:
    """The run's own dice: from its id once it has one, so that a resumed run has the same."""
    if run_state.run:
        return int.from_bytes(run_state.run.id.encode()[-4:], "big")
    return int(time.time()) % 2**31
