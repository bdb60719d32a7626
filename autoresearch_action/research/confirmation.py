"""Proof: from the stack of provisional keeps to what may be claimed. Base against head, fresh
seeds, held-out data.

First changes that no longer contribute are dropped, then the head is confirmed, or else one
fallback that was chosen before; then the transfer. Every run is journalled under its attempt, so
that a killed proof goes on where it was. The test itself is acceptance/confirm.py's.
"""

from __future__ import annotations

import json
import os
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch_action.acceptance import NeedRuns, RunRequest
from autoresearch_action.acceptance.claims import Claims, next_slice, reuse_level
from autoresearch_action.acceptance.confirm import PairedConfirmation
from autoresearch_action.acceptance.noise import derive, good
from autoresearch_action.budget import PUBLISH_SECONDS
from autoresearch_action.errors import InputError
from autoresearch_action.records import INHERITED, Confirmation, Measurement, Trial
from autoresearch_action.workspace.trees import PatchRefused

if TYPE_CHECKING:
    from autoresearch_action.research.search import Loop

HEAD_LEVEL, FALLBACK_LEVEL = 0.025, 0.01
# Of the head with one change left out, on seeds that the head has run
PRUNE_RUNS = 2
# Of the hold-out
SLICES = 20
# In the state folder: outlives the run
CLAIMS = "claims.json"


@dataclass(frozen=True)
class Stack:
    """Changes by number, applied in order on the base: `commits[i]` holds the first i + 1 of them."""

    numbers: tuple[int, ...]
    commits: tuple[str, ...]

    @property
    def head(self) -> str:
        return self.commits[-1]


def prove(loop: Loop) -> Confirmation:
    """Confirm what the search kept, and journal the outcome. Raises Interrupted."""
    return _Proof(loop).prove()


def read_claims(file: Path) -> dict[str, Any]:
    """The state of the stream of claims: hold-out slices `used`, `claims`, and the dice of attempts
    `accounted` in them.
    """
    try:
        told = json.loads(file.read_text())
    except FileNotFoundError:
        return {"used": [], "accounted": [], "claims": Claims().model_dump(mode="json")}
    except (OSError, ValueError):
        told = None
    try:
        claims = Claims.model_validate(told["claims"]).model_dump(mode="json")
        return {
            "used": [int(s) for s in told["used"]],
            "accounted": [int(s) for s in told.get("accounted", [])],
            "claims": claims,
        }
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file} is damaged, and with it the record of earlier claims: restore it from the memory branch."
        ) from None


def next_level(state: Path, brief_id: str) -> float:
    """What the next claim will be tested at: the search keeps time for the pairs that this takes."""
    return _next(read_claims(state / CLAIMS), brief_id, HEAD_LEVEL)[2]


def _next(told: dict[str, Any], brief_id: str, cap: float) -> tuple[int, str, float]:
    """(hold-out slice, note on it, level) of the next attempt."""
    chosen, note = next_slice(told["used"], SLICES, zlib.crc32(brief_id.encode()))
    return (
        chosen,
        note,
        reuse_level(min(cap, Claims.model_validate(told["claims"]).level()), told["used"], chosen),
    )


class _Proof:
    def __init__(self, loop: Loop) -> None:
        assert loop.noise is not None
        self.loop, self.brief, self.ledger, self.run_state = (
            loop,
            loop.brief,
            loop.ledger,
            loop.run_state,
        )
        self.workspace, self.noise = loop.parts.workspace, loop.noise
        self.base = self.workspace.base
        self.notes: list[str] = []
        self.claims_file = self.run_state.state / CLAIMS

    def prove(self) -> Confirmation:
        if not self.run_state.kept:
            tried = (
                f"none of {self.run_state.tried} experiments"
                if self.run_state.tried
                else "no experiment"
            )
            return self._close(
                Confirmation(held=False, reason=f"Nothing held: {tried} was worth confirming.")
            )
        if self.noise.blind:
            return self._close(
                Confirmation(
                    held=False,
                    reason="Nothing is claimed: seeds have no effect here, so luck cannot be told from a gain.",
                )
            )
        whole = self._stack(self.run_state.kept)
        if whole is None:
            return self._close(
                Confirmation(
                    held=False,
                    reason="Nothing is claimed: the kept changes do not apply one on the other.",
                )
            )
        if "proving" not in self.run_state.facts:
            self.ledger.append("fact", name="proving", value=self.loop.reason)
        stack = self._pruned(whole)
        fallback = self._fallback(stack)
        confirmation = self._attempt(stack, HEAD_LEVEL)
        if not confirmation.held and fallback is not None:
            self.ledger.append("confirmation", confirmation)
            confirmation = self._attempt(fallback, FALLBACK_LEVEL)
            stack = fallback
        if confirmation.held and self.brief.transfer:
            confirmation = self._transferred(stack, confirmation)
        if confirmation.held:
            self._write_series(stack)
        return self._close(confirmation)

    def _close(self, confirmation: Confirmation) -> Confirmation:
        self.ledger.append("confirmation", confirmation)
        self.loop.parts.view.note(confirmation.reason)
        return confirmation

    # -- which stack
    # ---------------------------------------------------------------------------------------------

    def _stack(self, numbers: Sequence[int]) -> Stack | None:
        """The changes applied one after the other on the base; None where one does not apply
        without another.
        """
        tip, commits = self.base, []
        for number in numbers:
            experiment = self.run_state.experiments[number]
            if experiment.parent == tip:
                tip = experiment.commit
            else:
                assert experiment.proposal is not None
                try:
                    tip = self.workspace.commit(
                        tip, experiment.proposal.patch, experiment.description, three_way=True
                    )
                except PatchRefused:
                    return None
            commits.append(tip)
        return Stack(tuple(numbers), tuple(commits)) if commits else None

    def _pruned(self, stack: Stack) -> Stack:
        """Leave out, one by one from the weakest, changes without which the head is no worse. Fewer
        lines win ties.
        """
        # Its claim was begun: a resumed proof makes no other one
        if self.run_state.facts.get("plans"):
            return stack
        estimates = {number: self._estimate(number) for number in stack.numbers}
        for number in sorted(stack.numbers, key=lambda n: estimates[n]):
            if len(stack.numbers) < 2 or not self.loop.budget.room(
                2 * PRUNE_RUNS, self.loop.confirm_runs, self.loop.spent
            ):
                break
            shorter = self._stack([n for n in stack.numbers if n != number])
            if shorter is None:
                continue
            with_it, without = self._runs_of(stack, "prune"), self._runs_of(shorter, "prune")
            if len(good(without)) < len(without) or not good(with_it):
                continue
            loss = self.brief.sign * (
                statistics.fmean(good(with_it)) - statistics.fmean(good(without))
            )
            if loss <= 0:
                self.notes.append(f"#{number} was left out: the head is no worse without it")
                self.ledger.append("stack", numbers=list(shorter.numbers), reason=self.notes[-1])
                self.loop.parts.view.note(f"{self.notes[-1]}.")
                stack = shorter
        return stack

    def _estimate(self, number: int) -> float:
        verdict = self.run_state.experiments[number].verdict
        return verdict.estimate or 0.0 if verdict else 0.0

    def _runs_of(self, stack: Stack, group: str) -> list[Measurement]:
        """`PRUNE_RUNS` search runs of a head, on seeds common to all stacks."""
        name = f"{group}:{self.workspace.tree(stack.head)}"
        done = {run.trial.seed for run in self.run_state.confirm_runs[name]}
        count = 1 if self.noise.exact else PRUNE_RUNS
        seeds = [derive(self.loop.parts.seed, "prune", index) for index in range(count)]
        self.loop.scheduler.gather(
            [
                [self._trial(stack, RunRequest("head", s), name, "prune")]
                for s in seeds
                if s not in done
            ]
        )
        return self.run_state.confirm_runs[name]

    def _fallback(self, stack: Stack) -> Stack | None:
        """One shorter stack, chosen from search data alone: the shortest prefix with half of the
        estimated gain.
        """
        if len(stack.numbers) < 2:
            return None
        gains = [max(0.0, self._estimate(number)) for number in stack.numbers]
        total, reached = sum(gains), 0.0
        for length, gain in enumerate(gains[:-1], 1):
            reached += gain
            if reached >= total / 2:
                return Stack(stack.numbers[:length], stack.commits[:length])
        return Stack(stack.numbers[:-1], stack.commits[:-1])

    # -- the claim
    # -----------------------------------------------------------------------------------------------

    def _attempt(self, stack: Stack, cap: float) -> Confirmation:
        """Confirm one head on a hold-out slice of its own. The slice is retired before it is looked
        at.
        """
        tree = self.workspace.tree(stack.head)
        plan = self._plan(tree, cap)
        group = f"confirm:{tree}"
        # Those of a proof that was killed count
        pairs = len(self.run_state.confirm_runs[group]) // 2 + self._most_pairs()
        rule = PairedConfirmation(
            self.brief,
            self.noise,
            level=plan["level"],
            seed=plan["seed"],
            slice=plan["slice"],
            max_pairs=pairs,
            seen=(self.loop.baseline.runs, self._searched(stack)),
        )
        names = ", ".join(f"#{number}" for number in stack.numbers)
        self.loop.parts.view.note(
            f"confirming {names}: base against head on fresh seeds, {rule.looks[0]} pairs or more"
        )
        budget = self._base_budget(stack)
        while True:
            answer = rule.decide(self.run_state.confirm_runs[group])
            if not isinstance(answer, NeedRuns):
                break
            if not self._affordable(answer, group):
                answer = Confirmation(
                    held=False,
                    reason="Nothing can be claimed: the dollars left are too few for the runs that it takes.",
                )
                break
            self._run_pairs(stack, answer, group, "confirm", budget)
        self._account(stack, answer, plan)
        notes = [
            *self.notes,
            *answer.notes,
            plan["note"],
            *([f"equal time: the base got {budget:.4g} s"] if budget else []),
        ]
        facts = {
            "head": stack.head,
            "tree": tree,
            "numbers": list(stack.numbers),
            "notes": [note for note in notes if note],
        }
        return answer.model_copy(update=facts)

    def _searched(self, stack: Stack) -> list[Measurement]:
        """What was run of a head before its confirmation."""
        mine = [e.runs for e in self.run_state.experiments.values() if e.commit == stack.head]
        pruned = self.run_state.confirm_runs[f"prune:{self.workspace.tree(stack.head)}"]
        return [run for runs in (*mine, pruned) for run in runs]

    def _most_pairs(self) -> int:
        """Pairs that the minutes and the dollars left allow."""
        budget = self.loop.budget
        rounds = (budget.seconds_left - PUBLISH_SECONDS) / max(1.1 * budget.trial_seconds, 1e-3)
        return max(0, int(min(rounds * budget.slots, budget.trials_left(self.loop.spent))) // 2)

    def _plan(self, tree: str, cap: float) -> dict[str, Any]:
        """Level, slice and dice of an attempt: drawn once and journalled, so that a resumed proof
        keeps them.
        """
        plans = dict(self.run_state.facts.get("plans") or {})
        if tree not in plans:
            told = read_claims(self.claims_file)
            chosen, note, level = _next(told, self.brief.id, cap)
            plans[tree] = {
                "slice": chosen,
                "note": note,
                "level": level,
                "seed": int.from_bytes(os.urandom(4), "big"),
            }
            self._write_claims({**told, "used": [*told["used"], chosen]})
            self.ledger.append("fact", name="plans", value=plans)
        plan: dict[str, Any] = plans[tree]
        return plan

    def _proven_before(self, stack: Stack) -> bool:
        """Whether it is an earlier run's stack and nothing else: proven again it is no new finding."""
        proposals = [self.run_state.experiments[number].proposal for number in stack.numbers]
        return all(proposal is not None and INHERITED in proposal.details for proposal in proposals)

    def _account(self, stack: Stack, confirmation: Confirmation, plan: dict[str, Any]) -> None:
        """One more claim was tried: the level of the next one depends on it (online control of
        false discoveries).
        """
        if confirmation.p_value is None:
            return
        told = read_claims(self.claims_file)
        claims = Claims.model_validate(told["claims"])
        # In one step with the count: a kill cannot come between
        if plan["seed"] not in told["accounted"]:
            claims = claims.after(
                confirmation.p_value, plan["level"], earns=not self._proven_before(stack)
            )
            self._write_claims(
                {
                    **told,
                    "accounted": [*told["accounted"], plan["seed"]],
                    "claims": claims.model_dump(mode="json"),
                }
            )
        self.ledger.append("fact", name="claims", value=claims.describe())

    def _write_claims(self, told: dict[str, Any]) -> None:
        _write(self.claims_file, json.dumps(told))

    def _base_budget(self, stack: Stack) -> float | None:
        """Training seconds for the base where the head's trials used more of the clock than the
        baseline's did.
        """
        if not self.brief.fixed_time:
            return None
        mine = [
            run for run in self.run_state.experiments[stack.numbers[-1]].runs if run.outcome == "ok"
        ]
        theirs = [run.clock for run in self.loop.baseline.runs if run.outcome == "ok"]
        if not mine or not theirs:
            return None
        longer = statistics.fmean(run.clock for run in mine) - statistics.fmean(theirs)
        return (
            self.brief.time_budget + longer / mine[0].pace
            if longer > 0.005 * statistics.fmean(theirs)
            else None
        )

    def _run_pairs(
        self, stack: Stack, ask: NeedRuns, group: str, purpose: str, base_budget: float | None
    ) -> None:
        """The runs asked for, those of one seed next to each other on one slot, in the order given."""
        pairs: dict[int, list[Trial]] = {}
        for want in self._missing(ask, group):
            trial = self._trial(
                stack, want, group, purpose, base_budget if want.side == "base" else None
            )
            pairs.setdefault(want.seed, []).append(trial)
        self.loop.scheduler.gather(list(pairs.values()))

    def _missing(self, ask: NeedRuns, group: str) -> list[RunRequest]:
        done = {(run.trial.side, run.trial.seed) for run in self.run_state.confirm_runs[group]}
        return [want for want in ask.runs if (want.side, want.seed) not in done]

    def _affordable(self, ask: NeedRuns, group: str) -> bool:
        return self.loop.budget.trials_left(self.loop.spent) >= len(self._missing(ask, group))

    def _trial(
        self, stack: Stack, want: RunRequest, group: str, purpose: str, budget: float | None = None
    ) -> Trial:
        number = 0 if want.side == "base" else stack.numbers[-1]
        limits = self.loop.limits(number)
        if budget:
            limits.pop("clock_limit", None)
        return Trial.model_validate(
            limits
            | {
                "number": number,
                "commit": self.base if want.side == "base" else stack.head,
                "seed": want.seed,
                "split": want.split,
                "slice": want.slice,
                "side": want.side,
                "scale": "transfer" if purpose == "transfer" else "search",
                "time_budget": budget,
                "reseed": self.noise.reseed,
                "purpose": purpose,
                "group": group,
            }
        )

    # -- after it
    # ------------------------------------------------------------------------------------------------

    def _transferred(self, stack: Stack, confirmation: Confirmation) -> Confirmation:
        """Base and head at the larger scale: its own line, and a condition where the brief requires
        it.
        """
        assert self.brief.transfer is not None
        group = f"transfer:{confirmation.tree}"
        seeds = [
            derive(self.loop.parts.seed, "transfer", index)
            for index in range(self.loop.transfer_pairs)
        ]
        ask = NeedRuns(
            tuple(RunRequest(side, seed, "holdout") for seed in seeds for side in ("base", "head"))
        )
        affordable = self._affordable(ask, group)
        if affordable:
            self._run_pairs(stack, ask, group, "transfer", None)
        runs = self.run_state.confirm_runs[group]
        base, head = (
            good(run for run in runs if run.trial.side == side) for side in ("base", "head")
        )
        if not affordable:
            note, holds = "transfer: not measured, the dollars left are too few", False
        elif len(base) < len(seeds) or len(head) < len(seeds):
            failed = next(run for run in runs if run.outcome != "ok")
            note, holds = f"transfer: could not be measured ({failed.reason})", False
        else:
            gain = self.brief.sign * (statistics.fmean(head) - statistics.fmean(base))
            holds = gain > 0
            note = (
                f"transfer: {statistics.fmean(base):.6g} → {statistics.fmean(head):.6g} over {len(seeds)} pairs at the larger"
                f" scale, {'better there too' if holds else 'not better there'} (an estimate, not a test)"
            )
        update: dict[str, object] = {"notes": [*confirmation.notes, note]}
        if self.brief.transfer.require and not holds:
            update |= {
                "held": False,
                "reason": f"Held at the search's scale but not at the larger one, which the brief requires: {note}.",
            }
        return confirmation.model_copy(update=update)

    def _write_series(self, stack: Stack) -> None:
        """The proven changes as patches, one on the other from the base: what `publish` applies."""
        folder = self.run_state.state / "proven"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.diff"):
            old.unlink()
        before = self.base
        for place, (number, commit) in enumerate(zip(stack.numbers, stack.commits, strict=True), 1):
            patch = self.workspace.patch(before, commit)
            _write(folder / f"{place:02d}-{number:04d}.diff", patch)
            before = commit


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, safe on disk."""
    partial = path.with_suffix(f"{path.suffix}.part")
    with partial.open("wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
