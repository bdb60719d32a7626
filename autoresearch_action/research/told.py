"""What a call of an agent is told of the run, as it is at the moment the call begins.

Its work tree, and why an edit in it would be refused, are added when it has one (proposals.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from autoresearch_action.agents import Context, Standing
from autoresearch_action.agents.novelty import Ideas
from autoresearch_action.records import Experiment, Trial
from autoresearch_action.research.context import ResearchContext
from autoresearch_action.trials.profile import command, latest

# Trials that there must be room for, beside the proof, before one is spent on a profile
PROFILE_ROOM = 4


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
    """The trial that makes the incumbent's profile, where it is worth one and was not made."""
    commit, number = research.incumbent_commit, research.run_state.incumbent
    tree = research.workspace.tree(commit)
    useful = research.parts.agent.reads_profiles and command(research.brief) is not None
    known = ("profile", tree) in research.run_state.confirm_runs
    if known or not useful or not research.room(PROFILE_ROOM):
        return None
    trial = research.trial(number, commit, seed=1, stage="profile", attempt=tree)
    # It measures nothing, and a profiler takes its time
    return trial.model_copy(update={"clock_limit": None})
