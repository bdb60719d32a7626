"""The queue of dispatched checkpoints: a ticket on the memory branch for each, so that none is
dropped.

GitHub keeps one waiting job of a concurrency group and cancels the one before. So every dispatch is
written down first (`enqueue`, in a job that nothing cancels), each run takes out its own ticket
when it has published or failed, and sends a ticket whose run ended without either (cancelled while
it waited) on its way again (`settle`): at least once, and twice where GitHub's answer to that is
lost. Other files in the folder are left alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping

from autoresearch_action.github import event
from autoresearch_action.github.api import Api, connect
from autoresearch_action.github.event import Dispatch
from autoresearch_action.github.memory import Branch
from autoresearch_action.trials.checkpoint import shown

FOLDER = "queue"
TICKET = re.compile(r"\d{8}T\d{6}Z-\d+\.json", re.ASCII)
# Of one checkpoint
ATTEMPTS = 3


def enqueue(environ: Mapping[str, str]) -> str:
    """Write the event's checkpoint down. Returns the ticket, "" where the event is no dispatch of
    one.
    """
    given, run = event.read(environ), environ.get("GITHUB_RUN_ID", "")
    if environ.get("GITHUB_EVENT_NAME") != "repository_dispatch" or not run.isdigit():
        return ""
    branch = Branch(connect(environ))
    if any(_run(path) == run for path in _tickets(branch)):
        return ""
    if given.checkpoint and (public := shown(given.checkpoint)) != given.checkpoint:
        # Its secret is written nowhere: not to be sent again
        given = given.model_copy(update={"checkpoint": public, "attempt": ATTEMPTS})
    ticket = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{run}.json"
    branch.write(
        {f"{FOLDER}/{ticket}": given.model_dump_json(exclude_none=True).encode()},
        f"Queue the checkpoint of run {run}",
    )
    return ticket


def settle(environ: Mapping[str, str]) -> str:
    """Take out this run's ticket; start the oldest one that was left behind. Returns sentences, or
    "".
    """
    run = environ.get("GITHUB_RUN_ID", "")
    api = connect(environ)
    branch = Branch(api)
    tickets = _tickets(branch)
    own = [path for path in tickets if _run(path) == run]
    if own:
        branch.write(
            {f"{FOLDER}/{path}": None for path in own}, f"Done with the checkpoint of run {run}"
        )
    others = sorted(path for path in tickets if path not in own)
    states = {path: _status(api, _run(path)) for path in others}
    if any(status != "completed" for status in states.values()):
        # One of them is on its way and will look here when it is done
        return ""
    told: list[str] = []
    for path in others:
        try:
            left = Dispatch.model_validate_json(branch.blob(tickets[path]))
        except ValueError:
            told.append(
                f"The ticket {FOLDER}/{path} of the memory branch cannot be read: dispatch its"
                " checkpoint anew, and delete it."
            )
            continue
        if left.attempt >= ATTEMPTS:
            branch.write({f"{FOLDER}/{path}": None}, f"Give up the checkpoint of run {_run(path)}")
            told.append(
                f"The checkpoint {left.checkpoint} of run {_run(path)} was left behind and is"
                " not sent again: dispatch it anew."
            )
            continue
        _send(api, left.model_copy(update={"attempt": left.attempt + 1}))
        branch.write({f"{FOLDER}/{path}": None}, f"Send the checkpoint of run {_run(path)} again")
        told.append(
            f"The checkpoint of run {_run(path)} had been left behind: it is on its way again."
        )
        break
    return " ".join(told)


def _tickets(branch: Branch) -> dict[str, str]:
    """Object by name."""
    return {path: blob for path, blob in branch.listing(FOLDER).items() if TICKET.fullmatch(path)}


def _run(ticket: str) -> str:
    return ticket.removesuffix(".json").rsplit("-", 1)[-1]


def _status(api: Api, run: str) -> str:
    """queued, in_progress, completed, …; a run that is gone is completed."""
    found = api.ask("read a run", api.repository.get_workflow_run, int(run))
    return str(found.status) if found else "completed"


def _send(api: Api, left: Dispatch) -> None:
    payload = json.loads(left.model_dump_json(exclude_none=True))
    api.call(
        "send the checkpoint again",
        api.repository.create_repository_dispatch,
        "checkpoint",
        payload,
    )
