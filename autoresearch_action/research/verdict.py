"""How an experiment is settled: the record of a decision, with the facts that its runs and its
proposal give.

Pure; the decision is made elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from autoresearch_action.acceptance import Decision
from autoresearch_action.records import Experiment, Measurement, Verdict


def settle(experiment: Experiment, decision: Decision) -> Verdict:
    """The verdict on an experiment."""
    proposal, runs = experiment.proposal, experiment.runs
    return Verdict(
        number=experiment.number,
        status=decision.status,
        reason=decision.reason,
        description=experiment.description,
        agent=proposal.agent if proposal else "",
        metrics=_means(runs),
        patch=f"trials/{experiment.number:04d}/patch.diff" if proposal else "",
        started=experiment.started,
        seconds=sum(run.seconds for run in runs),
        usd=proposal.usage.usd if proposal else 0.0,
        commit=experiment.commit,
        parent=experiment.parent,
        suspicious=any(run.suspicious for run in runs),
        estimate=decision.estimate,
        spread=decision.spread,
        effect=decision.effect,
        runs=len(runs),
        origin=experiment.origin,
        hashes=_hashes(runs, proposal.patch if proposal else ""),
    )


def _means(runs: Sequence[Measurement]) -> dict[str, float]:
    """Of each metric, over the runs that printed it."""
    values: dict[str, list[float]] = {}
    for run in runs:
        if run.outcome == "ok":
            for name, value in run.metrics.items():
                values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in sorted(values.items())}


def _hashes(runs: Sequence[Measurement], patch: str) -> dict[str, str]:
    """What the verdict rests on. Several values (two machines) stand side by side."""
    found: dict[str, set[str]] = {}
    if patch:
        found["patch"] = {hashlib.sha256(patch.encode("utf-8", "surrogateescape")).hexdigest()}
    for run in runs:
        for name, value in (*run.hashes.items(), ("sandbox", run.sandbox)):
            found.setdefault(name, set()).add(value)
    return {
        name: "+".join(sorted(value[:16] for value in values if value))
        for name, values in found.items()
    }
