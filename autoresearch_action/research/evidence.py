"""What a rule is shown of a candidate and its incumbent, and what stops a first look early.

However long the search is, a decision looks back on a bounded number of runs. Decides nothing
(acceptance/keep.py, acceptance/early_stop.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoresearch_action.acceptance.early_stop import audit, stop_rule
from autoresearch_action.records import Experiment, Measurement, StopRule
from autoresearch_action.research.context import ResearchContext

# Runs of an incumbent, and of others against it, that a decision looks back on
LOOK_BACK = 300


def references(context: ResearchContext, incumbent: int) -> list[Measurement]:
    """The incumbent's runs: the first ones, which its value began with, and the latest."""
    runs = context.runs(incumbent)
    return runs if len(runs) <= 2 * LOOK_BACK else runs[:LOOK_BACK] + runs[-LOOK_BACK:]


def siblings(context: ResearchContext, parent: str) -> list[Measurement]:
    """First runs of the latest experiments on one incumbent; where the machine drifts they tell of
    steps, elsewhere nothing.
    """
    if not context.noise or not context.noise.drift:
        return []
    recent = (e for e in context.run_state.recent(LOOK_BACK) if e.number)
    return [e.runs[0] for e in recent if e.parent == parent and e.runs]


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
