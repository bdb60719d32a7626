"""From `--agent SPEC` to an Agent. A new agent is one new file and one line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_action.agents import Agent
from autoresearch_action.brief import Brief
from autoresearch_action.budget import EFFORTS
from autoresearch_action.errors import InputError

KINDS = "claude, claude:MODEL, optuna, command:CMD or patches:DIR"


@dataclass(frozen=True)
class Model:
    """How a model is reached, priced and asked."""

    key: str | None
    usd_per_call: float | None
    effort: str | None


def make(
    specs: Sequence[str],
    brief: Brief,
    *,
    key: str | None = None,
    usd_per_call: float | None = None,
    effort: str | None = None,
    seed: int = 0,
    environment: Mapping[str, str] | None = None,
    cuda: bool | None = None,
) -> Agent:
    """The agent, or the ensemble of agents, that `specs` name; none: claude with a key, optuna
    without.

    `key` is the model's, already taken out of the environment. `usd_per_call` prices calls that no
    price list knows; `effort` is how much a model thinks that can. `environment` is what other
    coding agents' programs see; `cuda`, whether the trials have a GPU. Raises InputError for a
    wrong spec, a missing key or a missing price."""
    if usd_per_call is not None and not 0 <= usd_per_call < 1e6:
        raise InputError(f"--usd-per-call {usd_per_call}: give a price in dollars, 0 or more.")
    if effort not in (None, *EFFORTS):
        raise InputError(f"--effort {effort[:60]!r}: give one of {', '.join(EFFORTS)}.")
    model = Model(key, usd_per_call, effort)
    given = enumerate(specs or [default(key)])
    agents = [
        _one(spec, brief, model, seed + index, environment or {}, cuda) for index, spec in given
    ]
    if len(agents) == 1:
        return agents[0]
    from autoresearch_action.agents.ensemble import Ensemble

    return Ensemble(agents)


def default(key: str | None) -> str:
    return "claude" if key else "optuna"


def _one(
    spec: str,
    brief: Brief,
    model: Model,
    seed: int,
    environment: Mapping[str, str],
    cuda: bool | None,
) -> Agent:
    kind, _, rest = spec.strip().partition(":")
    rest = rest.strip()
    if kind == "optuna" and not rest:
        from autoresearch_action.agents.optuna import OptunaAgent

        return OptunaAgent(brief, seed, cuda)
    if kind == "patches" and rest:
        from autoresearch_action.agents.patches import PatchesAgent

        return PatchesAgent(rest, brief)
    if kind == "command" and rest:
        from autoresearch_action.agents.command import CommandAgent

        return CommandAgent(rest, model.usd_per_call, environment)
    if kind == "claude":
        from autoresearch_action.agents.claude import ClaudeAgent

        if not model.key:
            raise InputError(
                "--agent claude needs a key: set ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN), or"
                " use --agent optuna."
            )
        return ClaudeAgent(
            brief,
            model.key,
            model=rest or None,
            usd_per_call=model.usd_per_call,
            effort=model.effort,
        )
    raise InputError(f"--agent {spec[:80]!r} is not known: give {KINDS}.")
