"""What a call of an agent is told of the run, as it is at the moment the call begins.

Its work tree, and what an edit in it would repeat, are added when it has one (proposals.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from autoresearch_action.agents import Context, Standing
from autoresearch_action.agents.novelty import Ideas
from autoresearch_action.records import Experiment, Trial
from autoresearch_action.research.context import ResearchContext
from autoresearch_action.trials.profile import command, latest

# Trials that there must be room for before one is a profile; its window where time is fixed
PROFILE_ROOM, PROFILE_SECONDS = 4, 20.0


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
    now = Standing.of(run_state, budget, research.spent, research.confirm_runs)
    reserve = budget.trial_seconds + now.reserve_seconds
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
        allowance=now.allowance(worst, depth),
        standing=now,
        machine=run_state.run.environment if run_state.run else {},
        lessons=lessons,
        profile=latest(run_state, research.workspace.tree(research.incumbent_commit)),
        others=lambda: ideas.others(call),
        intend=lambda line: ideas.intend(call, line),
        cancelled=cancelled,
        late=lambda: late() or budget.seconds_left < reserve,
    )


def profile_wanted(research: ResearchContext) -> Trial | None:
    """The trial that makes the incumbent's profile, where it was not made; it keeps no clock."""
    commit, number = research.incumbent_commit, research.run_state.incumbent
    tree = research.workspace.tree(commit)
    brief, facts = research.brief, {"stage": "profile", "attempt": tree}
    known = ("profile", tree) in research.run_state.confirm_runs or command(brief) is None
    if known or not research.parts.agent.reads_profiles or not research.room(PROFILE_ROOM):
        return None
    window = min(brief.time_budget, PROFILE_SECONDS) if brief.fixed_time else None
    trial = research.trial(number, commit, seed=1, time_budget=window, **facts)
    return trial.model_copy(update={"clock_limit": None})
