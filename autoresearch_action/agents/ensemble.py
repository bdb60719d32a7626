"""Several agents taking turns: a fair share each at first, then more for those whose proposals are
kept.

Thompson sampling (Thompson 1933) on the share kept, a Beta(1, 2) prior. What counts is read from
the ledger, so that a resumed run goes on where it was; calls without a usable edit count as losses
while the process lives. The choice is the same for the same history, seed and number.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence

from autoresearch_action.agents import Agent, AgentFailure, Context, Draft, Exhausted, Outage
from autoresearch_action.records import Experiment

# Proposals of each agent before the dice decide
FAIR = 3


class Ensemble:
    """An agent of agents; which one made a draft stands in its details under "agent"."""

    name = "ensemble"
    worst_usd: float | None

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents: dict[str, Agent] = {}
        for agent in agents:
            twins = sum(other.name == agent.name for other in self.agents.values())
            self.agents[f"{agent.name} {twins + 1}" if twins else agent.name] = agent
        # Agents that have nothing more to propose, and why
        self._gone: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._outages = {name: Outage() for name in self.agents}
        self._lock = threading.Lock()
        self.reads_profiles = any(agent.reads_profiles for agent in agents)
        self._reckon()

    def propose(self, context: Context) -> Draft:
        """As Agent.propose; Exhausted once every agent is."""
        while (name := self.choose(context)) is not None:
            try:
                draft = self._signed(self.agents[name].propose(context), name)
                self._outages[name].end()
                return draft
            except Exhausted as error:
                self._drop(name, str(error))
            except AgentFailure as failure:
                if failure.transient:
                    self._outages[name].begin()
                    raise
                self._failures[name] += 1
                if failure.fatal:
                    self._drop(name, str(failure))
                raise AgentFailure(
                    str(failure), failure.usage, fatal=len(self._gone) == len(self.agents)
                ) from None
            finally:
                self._reckon()
        raise Exhausted(" ".join(f"{name}: {reason}" for name, reason in self._gone.items()))

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        """Asks the agent that made it."""
        name = failed.proposal.agent if failed.proposal else ""
        if name not in self.agents or name in self._gone:
            return None
        try:
            draft = self.agents[name].repair(context, failed)
        finally:
            self._reckon()
        return draft and self._signed(draft, name)

    def choose(self, context: Context) -> str | None:
        """Whose turn it is; None when nobody is left. Agents that could cost more than is left
        stand back, and those that nobody answers while there are others.
        """
        with self._lock:
            left = [name for name in self.agents if name not in self._gone]
        cheap = [name for name in left if (self.agents[name].worst_usd or 0.0) <= context.usd_left]
        left = cheap or left
        left = [name for name in left if not self._outages[name].lasts] or left
        if not left:
            return None
        kept, asked = Counter[str](), Counter(self._failures)
        for experiment in [*context.history, *context.pending]:
            if experiment.proposal is None or experiment.origin is not None:
                # Carried on: the same idea again
                continue
            asked[experiment.proposal.agent] += 1
            kept[experiment.proposal.agent] += (
                experiment.verdict is not None and experiment.verdict.status == "keep"
            )
        dice = random.Random(f"{context.seed} {context.number}")
        fewest = min(asked[name] for name in left)
        if fewest < FAIR:
            return dice.choice([name for name in left if asked[name] == fewest])
        drawn = {
            name: dice.betavariate(1 + kept[name], 2 + asked[name] - kept[name]) for name in left
        }
        return max(drawn, key=lambda name: drawn[name])

    def _signed(self, draft: Draft, name: str) -> Draft:
        return draft.model_copy(update={"details": draft.details | {"agent": name}})

    def _drop(self, name: str, reason: str) -> None:
        with self._lock:
            self._gone[name] = reason

    def _reckon(self) -> None:
        """`worst_usd`: the dearest of the agents that are left; None where one's is unknown."""
        prices = [agent.worst_usd for name, agent in self.agents.items() if name not in self._gone]
        known = [price for price in prices if price is not None]
        self.worst_usd = max(known, default=0.0) if len(known) == len(prices) else None
