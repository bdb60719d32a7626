"""What earlier runs of a state folder left for the next one: verdicts, trees, noise, the audit, and
the stack to begin with.

Also what makes evidence another run's: `changed`. Reads ledgers put aside in STATE/history; writes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.ledger import DamagedLedger, RunState, parse
from autoresearch_action.records import INHERITED, Proposal, Run, Verdict

# Earlier runs that are read
MAX_RUNS = 20
# Verdicts of earlier runs that agents are shown
MOST = 500
# Of a run's environment; the number of slots shares it out
HARDWARE = ("processor", "cores", "memory", "gpu")


def changed(old: Run, now: Run) -> list[str]:
    """What the evidence of `old` rests on and `now` has otherwise; [] where it goes on."""
    facts = {
        "the commit": (old.base, now.base),
        "the brief": (old.brief_hash, now.brief_hash),
        "setup's outputs or the data": (old.data, now.data),
        "the checkpoint": (old.checkpoint.get("sha256"), now.checkpoint.get("sha256")),
        "the number of slots": (
            old.environment.get("slots", "").count(","),
            now.environment.get("slots", "").count(","),
        ),
        **{
            f"the {name}": (old.environment.get(name), now.environment.get(name))
            for name in HARDWARE
        },
    }
    return [name for name, (before, after) in facts.items() if before != after]


@dataclass(frozen=True)
class Inheritance:
    """What earlier runs left to this one."""

    verdicts: tuple[Verdict, ...] = ()
    # Git trees tried on this base, and as what
    known: Mapping[str, str] = field(default_factory=dict)
    # A stack: measured first, as one candidate
    stack: tuple[Proposal, ...] = ()
    # Trees that later runs have measured on this base: the stack is not inherited once more
    settled: frozenset[str] = frozenset()
    # Of a run with equal device, base and data
    noise: Noise | None = None
    # Of early stops, over all earlier runs
    audit: Mapping[str, object] | None = None


# Of a first run
NOTHING = Inheritance()


def inheritance(state: Path, now: Run, fresh: bool = False) -> Inheritance:
    """For the run `now`; a `fresh` one begins with no stack."""
    earlier = [*_earlier(state)]
    mine = [(run, told) for run, told in earlier if run.brief_id == now.brief_id]
    kept = [place for place, (_, told) in enumerate(mine) if told.kept]
    proven = [place for place in kept if mine[place][1].improved]
    source = max(proven or kept, default=-1)
    return Inheritance(
        verdicts=tuple(verdict for _, told in earlier for verdict in _verdicts(told))[-MOST:],
        known={tree: what for run, told in earlier for tree, what in _known(run, told, now)},
        stack=() if fresh or source < 0 else tuple(_stack(*mine[source])),
        settled=frozenset(
            tree
            for run, told in mine[source + 1 :]
            if run.base == now.base
            for tree, number in told.trees.items()
            if _measured(told, number)
        ),
        noise=next((_noise(told) for run, told in earlier[::-1] if _same(run, told, now)), None),
        audit=next(
            (told.facts["audit"] for _, told in earlier[::-1] if "audit" in told.facts), None
        ),
    )


def _earlier(state: Path) -> Iterator[tuple[Run, RunState]]:
    """The newest earlier runs, oldest first. One whose ledger is damaged costs only itself."""
    for path in sorted((state / "history").glob("*.jsonl"))[-MAX_RUNS:]:
        try:
            told = RunState.of(path)
            for number in list(told.statuses)[-MOST:]:
                # Folded here, so that what is damaged is met here
                told.experiments[number]
            if told.run:
                yield told.run, told
        except (DamagedLedger, OSError) as error:
            click.echo(f"An earlier run is left out: {error}", err=True)


def _verdicts(told: RunState) -> list[Verdict]:
    """Newest last."""
    numbers = [number for number in told.statuses if number][-MOST:]
    return [v for number in numbers if (v := told.experiments[number].verdict)]


def _known(run: Run, told: RunState, now: Run) -> Iterator[tuple[str, str]]:
    """Git trees measured on the very same evidence (base, data, machine …), and as what."""
    if not changed(run, now):
        for tree, number in list(told.trees.items())[-MOST:]:
            if _measured(told, number):
                yield tree, f"#{number} of run {run.id}"


def _measured(told: RunState, number: int) -> bool:
    verdict = told.experiments[number].verdict
    return verdict is not None and verdict.runs > 0


def _same(run: Run, told: RunState, now: Run) -> bool:
    """Whether its noise is this run's: equal device, base, brief and data."""
    names = ("base", "frozen", "data", "brief_hash", "checkpoint", "environment")
    alike = all(getattr(run, name) == getattr(now, name) for name in names)
    return alike and bool(told.facts.get("noise"))


def _noise(told: RunState) -> Noise:
    return parse(Noise, told.facts["noise"])


def _stack(run: Run, told: RunState) -> Iterator[Proposal]:
    """The kept changes to begin with, where their patches are still there."""
    for number in told.kept:
        proposal = told.experiments[number].proposal
        if proposal and proposal.patch:
            details = proposal.details | {INHERITED: run.id}
            yield proposal.model_copy(update={"details": details})
