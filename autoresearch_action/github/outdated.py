"""Which pull requests have had their day: read from the marker in their body and from what this
run's ledger shows.

A pull request is only ever closed on evidence: that a run without it found nothing says nothing
about it.
"""

from __future__ import annotations

import json
import re

from github.PullRequest import PullRequest

from autoresearch_action.github import commits
from autoresearch_action.github.api import Api
from autoresearch_action.ledger import RunState
from autoresearch_action.records import INHERITED, Experiment, Run
from autoresearch_action.report import body as bodies

SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MARKER = re.compile(r"<!-- autoresearch (\{[^\n]*?\}) -->")


def marker(pull: PullRequest) -> dict[str, str]:
    """What the body says of itself: brief, run, base, tree and head. Empty where it is not ours."""
    found = MARKER.search(pull.body or "")
    try:
        told = json.loads(found[1]) if found else {}
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}


def ours(pull: PullRequest) -> bool:
    """Whether its branch is where this tool left it: nobody else has pushed."""
    return marker(pull).get("head") == pull.head.sha


def pointless(api: Api, run_state: RunState, run: Run, pull: PullRequest) -> str:
    """Why a newer base has made it pointless; "" where nothing shows that."""
    told = marker(pull)
    if (
        not ours(pull)
        or told.get("base") == run.base
        or not _on(api, run.base, pull.base.ref)
        or not _ahead(api, told.get("base", ""), run.base)
    ):
        return ""
    if _in_vain(run_state, told):
        return f"it was measured again; {bodies.verdict_line(run_state)}"
    return (
        "its change is there already."
        if _contained(api, told["base"], pull.head.sha, run.base)
        else ""
    )


def _on(api: Api, commit: str, branch: str) -> bool:
    """Whether the branch holds it: on a commit of somebody's own everything could be there."""
    if not SHA.fullmatch(commit):
        return False
    compared = api.ask("compare the base", api.repository.compare, commit, branch)
    return compared is not None and compared.status in ("identical", "ahead")


def _ahead(api: Api, older: str, newer: str) -> bool:
    if not SHA.fullmatch(older):
        return False
    compared = api.ask("compare the bases", api.repository.compare, older, newer)
    return compared is not None and compared.status == "ahead"


def _in_vain(run_state: RunState, told: dict[str, str]) -> bool:
    """Whether that run's whole stack, or its very tree, was measured here, and what was kept of it
    not confirmed.
    """
    proposals = {number: run_state.experiments[number].proposal for number in run_state.statuses}
    numbers = {
        number
        for number, proposal in proposals.items()
        if proposal and proposal.details.get(INHERITED, "") == told.get("run")
    }
    numbers = (numbers | {run_state.trees.get(told.get("tree", ""), 0)}) - run_state.carried - {0}
    if not numbers or not all(_measured(run_state.experiments[number]) for number in numbers):
        return False
    return not any(run_state.statuses[number] == "keep" for number in numbers) or any(
        c.pairs for c in run_state.confirmations
    )


def _measured(experiment: Experiment) -> bool:
    """Whether its verdict rests on runs: an estimate, or a run that failed. Undecided at the end of
    a run is neither.
    """
    verdict = experiment.verdict
    return verdict is not None and (
        verdict.estimate is not None
        or any(run.outcome not in ("ok", "lost") for run in experiment.runs)
    )


def _contained(api: Api, older: str, head: str, newer: str) -> bool:
    """Whether every file that `head` changes on `older` is at `newer` as it is at `head`."""
    compared = api.ask("compare the change", api.repository.compare, older, head)
    base = commits.Base(api, newer)
    there = [(file, base.entry(file.filename)) for file in compared.files] if compared else []
    return bool(there) and all(
        (entry is None) if file.status == "removed" else (entry and entry.sha == file.sha)
        for file, entry in there
    )
