"""What a call of an agent is told of the run, as it is at the moment the call begins.

Its work tree, and why an edit in it would be refused, are added when it has one (proposals.py).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence

from autoresearch_action.agents import Context, Standing
from autoresearch_action.agents.novelty import Ideas
from autoresearch_action.records import Experiment
from autoresearch_action.research.context import ResearchContext


def told(
    research: ResearchContext,
    ideas: Ideas,
    call: int,
    worst: float,
    *,
    depth: int,
    pending: Sequence[Experiment],
    cancelled: threading.Event,
    late: Callable[[], bool],
    lessons: Mapping[int, str],
) -> Context:
    """The context of the call. `worst`: dollars reserved for it; `depth`: most calls in flight."""
    run_state, budget = research.run_state, research.budget
    number = ideas.begin(call, run_state.next_number)
    reserve = budget.trial_seconds + budget.reserve(research.confirm_runs)
    return Context(
        brief=research.brief,
        tree=run_state.state,
        directory=run_state.state,
        parent=research.incumbent_commit,
        number=number,
        seed=research.seed + number,
        history=run_state.recent(),
        earlier=research.parts.inherited.verdicts,
        pending=pending,
        noise=research.noise.sigma if research.noise else None,
        usd_left=budget.max_usd - research.spent,
        allowance=allowance(research, worst, depth),
        standing=standing(research),
        machine=run_state.run.environment if run_state.run else {},
        lessons=lessons,
        others=lambda: ideas.others(call),
        intend=lambda line: ideas.intend(call, line),
        cancelled=cancelled,
        late=lambda: late() or budget.seconds_left < reserve,
    )


def allowance(research: ResearchContext, worst: float, depth: int) -> float:
    """Dollars that a call may cost: what is reserved for it and, of what nobody has spoken for, so
    much that all calls in flight together take half. What costs nothing is not capped.
    """
    free = research.budget.max_usd - research.spent - worst
    return worst + max(0.0, free) / (2 * depth) if worst else math.inf


def standing(research: ResearchContext) -> Standing:
    """What is left of the run's budget."""
    budget, run_state = research.budget, research.run_state
    reserved = sum(run_state.reserved_usd.values())
    return Standing(
        seconds_left=budget.seconds_left,
        reserve_seconds=budget.reserve(research.confirm_runs),
        experiments_left=budget.max_experiments - run_state.begun,
        usd_spent=research.spent - reserved,
        usd_reserved=reserved,
        usd_left=budget.max_usd - research.spent,
        trial_seconds=budget.trial_seconds,
        slots=len(research.parts.executor.slots),
    )
