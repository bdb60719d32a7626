"""Stacks: changes one on the other. The one that search kept, what is left out of it, and how an
earlier run's comes to be tried first.

Applies patches and measures what is left out; claims nothing (confirmation.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from autoresearch_action.acceptance.noise import derive, good
from autoresearch_action.records import INHERITED, Measurement, Proposal, Usage
from autoresearch_action.research.context import ResearchContext
from autoresearch_action.workspace.trees import PatchRefused, Workspace

# Of the head with one change left out, on seeds that the head has run
PRUNE_RUNS = 2
# Chances that a change is a gain: below the one it is left out unmeasured, from the other it is in
# no doubt
UNLIKELY, SURE = 0.4, 0.9
# How the description of several changes that were inherited as one begins
TOGETHER = "Together: "


@dataclass(frozen=True)
class Stack:
    """Changes by number, applied in order on the base: `commits[i]` holds the first i + 1 of
    them.
    """

    numbers: tuple[int, ...]
    commits: tuple[str, ...]

    @property
    def head(self) -> str:
        return self.commits[-1]

    @property
    def last(self) -> int:
        """The number that the head's runs go by."""
        return self.numbers[-1]


def stacked(
    workspace: Workspace,
    changes: Iterable[tuple[str, str]],
    refused: dict[int, PatchRefused] | None = None,
) -> Iterator[str]:
    """The commits of `changes` (patch, description) one on the other from the base.

    One that does not apply goes into `refused`, by its place, and is left out. Raises PatchRefused
    where none is given.
    """
    tip = workspace.base
    for place, (patch, description) in enumerate(changes):
        try:
            tip = workspace.commit(tip, patch, description, three_way=True)
        except PatchRefused as error:
            if refused is None:
                raise
            refused[place] = error
        else:
            yield tip


def stack_of(context: ResearchContext, numbers: Sequence[int]) -> Stack:
    """The experiments' changes as a stack. Raises PatchRefused where one does not apply without
    another.
    """
    tip, commits = context.base, list[str]()
    for number in numbers:
        experiment = context.run_state.experiments[number]
        if experiment.parent == tip:
            tip = experiment.commit
        else:
            patch = experiment.proposal.patch if experiment.proposal else ""
            tip = context.workspace.commit(tip, patch, experiment.description, three_way=True)
        commits.append(tip)
    return Stack(tuple(numbers), tuple(commits))


def estimate(context: ResearchContext, number: int) -> float:
    """The gain that the search believes in, > 0 better."""
    return context.beliefs.gain(number) if context.beliefs else 0.0


def _chance(context: ResearchContext, number: int) -> float:
    """That a change helps. In an exact count what one adds to the others is in doubt."""
    belief = context.beliefs.of(number) if context.beliefs else None
    exact = context.noise is not None and context.noise.exact
    return belief.chance if belief and not exact else SURE - 0.01


def prune(context: ResearchContext, stack: Stack) -> tuple[Stack, list[str]]:
    """Leave out, one by one from the weakest, changes that more likely do nothing, and those in
    doubt without which the head is no worse, where there is time for these runs. The stack that
    remains, and what to say of it.
    """
    notes: list[str] = []
    # Its claim was begun: a resumed confirmation makes no other one
    if context.run_state.facts.get("plans"):
        return stack, notes
    for number in sorted(stack.numbers, key=lambda number: estimate(context, number)):
        chance = _chance(context, number)
        unlikely, room = chance < UNLIKELY, context.room(2 * PRUNE_RUNS)
        if len(stack.numbers) < 2:
            break
        if not unlikely and (chance >= SURE or not room):
            continue
        try:
            shorter = stack_of(context, [other for other in stack.numbers if other != number])
        except PatchRefused:
            continue
        if unlikely and not room:
            told = f"#{number} was left out: {100 * chance:.0f} % that it is a gain"
            stack = _shortened(context, shorter, told, notes)
            continue
        with_it, without = (_prune_runs(context, one) for one in (stack, shorter))
        if len(good(without)) < len(without) or not good(with_it):
            continue
        loss = statistics.fmean(good(with_it)) - statistics.fmean(good(without))
        if context.brief.sign * loss <= 0:
            told = f"#{number} was left out: the head is no worse without it"
            stack = _shortened(context, shorter, told, notes)
    return stack, notes


def _shortened(context: ResearchContext, shorter: Stack, told: str, notes: list[str]) -> Stack:
    notes.append(told)
    context.ledger.append("stack", numbers=list(shorter.numbers), reason=told)
    context.say(f"{told}.")
    return shorter


def _prune_runs(context: ResearchContext, stack: Stack) -> list[Measurement]:
    """`PRUNE_RUNS` runs of a head on the search's data, on seeds common to all stacks."""
    tree = context.workspace.tree(stack.head)
    runs = context.run_state.confirm_runs["prune", tree]
    done = {run.trial.seed for run in runs}
    count = 1 if context.noise and context.noise.exact else PRUNE_RUNS
    seeds = [derive(context.seed, "prune", index) for index in range(count)]
    facts = {"stage": "prune", "attempt": tree}
    context.scheduler.gather(
        [
            [context.trial(stack.last, stack.head, seed, **facts)]
            for seed in seeds
            if seed not in done
        ]
    )
    return runs


def fallback(context: ResearchContext, stack: Stack) -> Stack | None:
    """One shorter stack, chosen from search data alone: the shortest prefix with half of the
    estimated gain.
    """
    if len(stack.numbers) < 2:
        return None
    gains = [max(0.0, estimate(context, number)) for number in stack.numbers]
    length = next(
        (n for n in range(1, len(gains)) if sum(gains[:n]) >= sum(gains) / 2), len(gains) - 1
    )
    return Stack(stack.numbers[:length], stack.commits[:length])


def inherit(context: ResearchContext) -> int | None:
    """An earlier run's stack, or what of it still applies in order, as this run's first candidate;
    its number, or None where there is nothing to try.
    """
    inherited, workspace = context.parts.inherited, context.workspace
    refused: dict[int, PatchRefused] = {}
    changes = [(change.patch, change.description) for change in inherited.stack]
    commits = list(stacked(workspace, changes, refused))
    for place, error in refused.items():
        _left_out(context, inherited.stack[place], error)
    if not commits:
        return None
    tree, patch = workspace.tree(commits[-1]), workspace.patch(context.base, commits[-1])
    if not patch.strip() or tree in inherited.settled:
        return None
    applied = [change for place, change in enumerate(inherited.stack) if place not in refused]
    whole = together(applied, context.base, patch, entire=not refused)
    try:
        (commit,) = stacked(workspace, [(patch, whole.description)])
    except PatchRefused as error:
        _left_out(context, whole, error)
        return None
    number = context.run_state.next_number
    context.ledger.propose(number, whole, commit, tree)
    return number


def _left_out(context: ResearchContext, change: Proposal, error: PatchRefused) -> None:
    told = f"An earlier run's change is left out ({change.description}): {error}"
    context.ledger.append("message", text=told)


def together(parts: Sequence[Proposal], parent: str, patch: str, entire: bool) -> Proposal:
    """Several changes as one, which names them; `entire`: all of an earlier run's stack."""
    first = parts[0]
    # Files of patches.py are not tried again
    files = "\n".join(part.details.get("patch", "") for part in parts)
    details = first.details if len(parts) == 1 else {INHERITED: first.details.get(INHERITED, "")}
    details = {
        name: text
        for name, text in (details | {"patch": files}).items()
        if text and (entire or name != INHERITED)
    }
    facts: dict[str, object] = {"parent": parent, "patch": patch}
    facts |= {"usage": Usage(), "details": details}
    if len(parts) > 1:
        told = "; ".join(part.description.removeprefix(TOGETHER) for part in parts)
        facts |= {
            "agent": ", ".join(dict.fromkeys(part.agent for part in parts)),
            "description": TOGETHER + told,
            "hypothesis": " ".join(filter(None, (part.hypothesis for part in parts))),
            "expected": " ".join(filter(None, (part.expected for part in parts))),
            "comparable": all(part.comparable for part in parts),
        }
    return first.model_copy(update=facts)
