"""What earlier runs of a state folder left for the next one: verdicts, trees, noise, the audit, and
the stack to begin with.

Also what makes evidence another run's: `changed`. Reads ledgers put aside in STATE/history; writes
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import click

from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.ledger import DamagedLedger, RunState, parse
from autoresearch_action.records import INHERITED, Proposal, Run, Verdict

# Earlier runs that are read
MAX_RUNS = 20
# Verdicts of earlier runs that agents are shown
MAX_EARLIER = 500
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


def _alike(run: Run) -> tuple[object, ...]:
    return run.base, run.frozen, run.data, run.brief_hash, run.checkpoint, run.environment


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


@dataclass(frozen=True)
class History:
    """The newest earlier runs, oldest first, as the run `now` sees them."""

    runs: tuple[RunState, ...]
    now: Run

    @classmethod
    def of(cls, state: Path, now: Run) -> History:
        """One whose ledger is damaged costs only itself."""
        runs = []
        for path in sorted((state / "history").glob("*.jsonl"))[-MAX_RUNS:]:
            try:
                run_state = RunState.of(path)
                for number in list(run_state.statuses)[-MAX_EARLIER:]:
                    # Folded here, so that what is damaged is met here
                    run_state.experiments[number]
                runs.append(run_state)
            except (DamagedLedger, OSError) as error:
                click.echo(f"An earlier run is left out: {error}", err=True)
        return cls(tuple(runs), now)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Newest last."""
        found: list[Verdict] = []
        for run_state in self.runs:
            numbers = [number for number in run_state.statuses if number]
            found += [
                v
                for number in numbers[-MAX_EARLIER:]
                if (v := run_state.experiments[number].verdict)
            ]
        return tuple(found[-MAX_EARLIER:])

    @property
    def trees(self) -> dict[str, str]:
        """Git trees measured on the very same evidence (base, data, machine …), and as what."""
        return {
            tree: f"#{number} of run {run_state.run.id}"
            for run_state in self.runs
            if run_state.run and not changed(run_state.run, self.now)
            for tree, number in list(run_state.trees.items())[-MAX_EARLIER:]
            if (verdict := run_state.experiments[number].verdict) and verdict.runs
        }

    @property
    def audit(self) -> Mapping[str, object] | None:
        """The newest audit of early stops: each goes on from the one before."""
        return next(
            (
                run_state.facts["audit"]
                for run_state in reversed(self.runs)
                if run_state.facts.get("audit")
            ),
            None,
        )

    @property
    def noise(self) -> Noise | None:
        """The noise of an earlier run with equal device, base, brief and data."""
        for run_state in reversed(self.runs):
            if (
                run_state.run
                and run_state.facts.get("noise")
                and _alike(run_state.run) == _alike(self.now)
            ):
                return parse(Noise, run_state.facts["noise"])
        return None

    @cached_property
    def _source(self) -> int:
        """Place of the newest run of this brief that proved something, or else kept something; -1
        where there is none.
        """
        mine = [
            i for i, run_state in enumerate(self.runs) if run_state.kept and self._ours(run_state)
        ]
        return max([i for i in mine if self.runs[i].improved] or mine, default=-1)

    def _ours(self, run_state: RunState) -> bool:
        return run_state.run is not None and run_state.run.brief_id == self.now.brief_id

    @property
    def stack(self) -> tuple[Proposal, ...]:
        """The kept changes to begin with, where their patches are still there."""
        run_state = self.runs[self._source] if self._source >= 0 else None
        if run_state is None or run_state.run is None:
            return ()
        kept = (
            p
            for number in run_state.kept
            if (p := run_state.experiments[number].proposal) and p.patch
        )
        return tuple(
            p.model_copy(update={"details": p.details | {INHERITED: run_state.run.id}})
            for p in kept
        )

    def inheritance(self, fresh: bool) -> Inheritance:
        """For the next run; a `fresh` one begins with no stack."""
        return Inheritance(
            verdicts=self.verdicts,
            known=self.trees,
            stack=() if fresh else self.stack,
            settled=self.settled,
            noise=self.noise,
            audit=self.audit,
        )

    @property
    def settled(self) -> frozenset[str]:
        """Git trees that were measured on this very base after the run that the stack is of."""
        later = [
            s
            for s in self.runs[self._source + 1 :]
            if self._ours(s) and s.run and s.run.base == self.now.base
        ]
        return frozenset(
            tree
            for run_state in later
            for tree, number in run_state.trees.items()
            if (v := run_state.experiments[number].verdict) and v.runs
        )
