"""What a rule is shown of a candidate and its incumbent, and what stops a first look early.

However long the search is, a decision looks back on a bounded number of runs. Decides nothing
(acceptance/keep.py, acceptance/early_stop.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from autoresearch_action.acceptance import RunRequest
from autoresearch_action.acceptance.early_stop import audit, stop_rule
from autoresearch_action.acceptance.keep import Situation, inconclusive, price_of
from autoresearch_action.records import Experiment, Measurement, StopRule
from autoresearch_action.research.context import ResearchContext

# Runs of an incumbent that a decision looks back on
LOOK_BACK = 300
# Experiments whose runs tell how late it is
RECENT = 8


@dataclass
class Candidate:
    """An experiment that is being screened, or the baseline (0). Its runs are the run state's."""

    number: int
    # Number of the incumbent it is judged against; evidence never moves to another
    rival: int = 0
    requests: deque[RunRequest] = field(default_factory=deque)
    in_flight: int = 0
    # All its runs, and the references asked for with them, on one device
    slot: str = ""


def references(context: ResearchContext, incumbent: int) -> list[Measurement]:
    """The incumbent's runs: the first ones, which its value began with, and the latest."""
    runs = context.runs(incumbent)
    return runs if len(runs) <= 2 * LOOK_BACK else runs[:LOOK_BACK] + runs[-LOOK_BACK:]


def situation(
    context: ResearchContext, candidate: Candidate, runs: list[Measurement], waiting: bool
) -> Situation:
    """What stands beside a candidate with `runs`, where `waiting` other ideas want the slot."""
    beliefs = context.beliefs
    assert beliefs is not None
    lineage = beliefs.lineage(candidate.rival)
    experiments = context.run_state.experiments
    recent = range(max(0, experiments.last - RECENT), experiments.last + 1)
    others = [run for other in recent for run in experiments.runs(other)]
    last = max((run.started for run in (*lineage.runs, *others, *runs)), default=0.0)
    # First looks until the incumbent is likely to change
    horizon = (context.run_state.tried + 4) / (len(context.run_state.kept) + 1)
    return Situation(
        candidate.number,
        lineage,
        beliefs.prior,
        beliefs.before(candidate.number),
        waiting,
        horizon,
        last / lineage.length + 1,
    )


def inconclusive_ones(context: ResearchContext) -> list[Experiment]:
    """Ideas that were let go in doubt and not looked at again, the most promising first."""
    beliefs, carried = context.beliefs, context.run_state.carried
    if beliefs is None:
        return []
    price, found = price_of(context.brief, beliefs.noise), list[tuple[float, Experiment]]()
    for experiment in context.run_state.recent():
        number, verdict = experiment.number, experiment.verdict
        if verdict is None or verdict.status != "discard" or not verdict.runs:
            continue
        if experiment.origin is not None or number in carried:
            continue
        belief = beliefs.of(number)
        if belief and inconclusive(belief, beliefs.noise, price):
            found.append((belief.mean, experiment))
    return [experiment for _, experiment in sorted(found, key=lambda one: -one[0])]


def first_look_rule(
    context: ResearchContext, experiment: Experiment, incumbent: int, seed: int
) -> StopRule | None:
    """Only a first look may be stopped early, and only where training losses can be compared."""
    if experiment.runs or not _comparable(experiment):
        return None
    rng = np.random.default_rng((context.seed, experiment.number))
    return stop_rule(context.runs(incumbent), seed, _audited(context), rng)


def audit_first_look(
    context: ResearchContext, experiment: Experiment, incumbent: int, kept: bool
) -> None:
    """A first look that was run to the end without a stop rule tells what the rule would have done
    to it: journalled.
    """
    if not experiment.runs or experiment.runs[0].trial.stop or not _comparable(experiment):
        return
    before = _audited(context)
    now = audit(before, experiment.runs[0], context.runs(incumbent), kept)
    if now["looks"] != (before or {}).get("looks", 0):
        context.ledger.append("fact", name="audit", value=now)


def _comparable(experiment: Experiment) -> bool:
    return experiment.proposal is not None and experiment.proposal.comparable


def _audited(context: ResearchContext) -> Mapping[str, object] | None:
    return context.run_state.facts.get("audit") or context.parts.inherited.audit
