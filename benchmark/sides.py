"""The plain sequential loop and ours on the same stream of edits, for throughput.py; and what each
did.

The plain loop is what autoresearch's program.md describes: propose, commit, train, grep, keep or
reset. Ours is the real Loop with its workspace, sandbox, pool and journal, and an agent that hands
the same edits out after thinking for as long as a model would.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from small import prepared, turned

from autoresearch_action import brief as briefs
from autoresearch_action.acceptance.noise import Noise, good
from autoresearch_action.agents import Context, Draft, Exhausted
from autoresearch_action.budget import Budget
from autoresearch_action.isolation.device import Slot
from autoresearch_action.isolation.sandbox import choose
from autoresearch_action.ledger import Ledger, read
from autoresearch_action.records import Usage
from autoresearch_action.research.context import Parts, ResearchContext
from autoresearch_action.research.history import Inheritance
from autoresearch_action.research.search import search as research
from autoresearch_action.trials.pool import LocalPool
from autoresearch_action.workspace.trees import Workspace

# Literal → value
Edit = Mapping[str, Any]


@dataclass
class Told:
    """What one loop did."""

    name: str
    # Model time, of the latest trial's
    share: float
    # Candidates that were measured at all
    looks: int = 0
    decisions: int = 0
    # Trials, baseline and replicates included
    runs: int = 0
    # Seconds of the slot, first trial's start to the last one's end
    busy: float = 0.0
    span: float = 0.0
    # Seconds in which the program itself ran and was scored, from the baseline's end on
    useful: float = 0.0
    search_span: float = 0.0
    # Training seconds of candidates that ended discarded
    wasted: float = 0.0
    # Of the harness's own process
    cpu: float = 0.0
    best: float = 0.0
    # Edits, in words
    kept: list[str] = field(default_factory=list)
    # train.py with all that was kept
    head: bytes = b""
    notes: list[str] = field(default_factory=list)

    @property
    def idle(self) -> float:
        return 1 - self.busy / self.span

    @property
    def looks_per_hour(self) -> float:
        return 3600 * self.looks / self.search_span

    def row(self) -> list[str]:
        return [
            self.name,
            f"{self.share:g}",
            str(self.looks),
            str(self.runs),
            f"{self.busy / self.runs:.1f}",
            f"{self.looks_per_hour:.0f}",
            f"{3600 * self.decisions / self.span:.0f}",
            f"{100 * self.idle:.2f} %",
            f"{self.wasted:.0f}",
            f"{1000 * self.cpu / max(1, self.looks):.0f}",
        ]


HEAD = [
    "loop",
    "model / trial",
    "first looks",
    "trials",
    "a trial, s",
    "first looks / slot-h",
    "decisions / slot-h, all in",
    "slot idle",
    "training s on discarded",
    "harness CPU, ms / experiment",
]


# Of a usual reply
USAGE = Usage(calls=1, input_tokens=900, output_tokens=800, cache_read_tokens=14_000, usd=0.02)


class Scripted:
    """Hands out the edits in order, each after thinking for `share` of what the latest trial took
    (`trial`: the first).

    `comparable`: what it says of each, None to have it detected.
    """

    name, worst_usd, reads_profiles = "scripted", 0.0, False

    def __init__(
        self, edits: Sequence[Edit], share: float, trial: float, comparable: bool | None
    ) -> None:
        self.edits, self.share, self.trial, self.comparable = list(edits), share, trial, comparable
        self._lock = threading.Lock()

    def propose(self, context: Context) -> Draft:
        with self._lock:
            if not self.edits:
                raise Exhausted("All edits have been tried.")
            edit = self.edits.pop(0)
        runs = [run for experiment in context.history for run in experiment.runs]
        last = max(runs, key=lambda run: run.started).seconds if runs else self.trial
        context.cancelled.wait(self.share * last)
        turn(context.directory / "train.py", edit)
        return Draft(description=words(edit), comparable=self.comparable, usage=USAGE)

    def repair(self, context: Context, failed: object) -> None:
        return None


class Silent:
    def update(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def turn(file: Path, edit: Edit) -> None:
    file.write_bytes(turned(file.read_bytes(), edit))


def words(edit: Edit) -> str:
    return ", ".join(f"{name} → {value}" for name, value in edit.items())


class Task:
    """A repository to optimise in `place`, and how one experiment of it is run."""

    def __init__(self, place: Path, source: bytes, window: float, real: bool) -> None:
        self.place, self.source, self.real = place, source, real
        lines = ["edit: [train.py]", "run: python train.py", "metric: val_bpb", "timeout: 120"]
        if real:
            data = prepared()
            lines += [
                f"time-budget: {window:g}",
                "evaluate: python prepare.py evaluate",
                f"data: [{data / 'train'}]",
                f"evaluate-data: [{data / 'eval'}]",
            ]
        place.mkdir()
        (place / "program.md").write_text(
            "\n".join(["---", *lines, "---", "Turn the numbers.", ""])
        )
        (place / "train.py").write_bytes(source)
        (place / "prepare.py").write_bytes(
            (Path(__file__).parent.parent / "prepare.py").read_bytes()
        )
        (place / ".gitignore").write_text(".autoresearch/\nrun.log\nmodel.pt2\n__pycache__/\n")
        self.env = os.environ | {
            "AUTORESEARCH_TIME_BUDGET": f"{window:g}",
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        }
        self.env |= {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "0",
        }
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Start")

    def git(self, *arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments],
            cwd=self.place,
            check=True,
        )

    # -- the plain loop
    # -----------------------------------------------------------------------------------------

    def plain(self, edits: Sequence[Edit], share: float) -> Told:
        """Propose, commit, train, grep, keep or reset; one thing after the other."""
        told = Told("plain", share)
        cpu, times = own_cpu(), []

        def experiment() -> tuple[float, float]:
            begin = time.time()
            score, trained = self.measure(self.env)
            times.append((begin, time.time()))
            return score, trained

        best, _ = experiment()
        for edit in edits:
            time.sleep(share * (times[-1][1] - times[-1][0]))
            turn(self.place / "train.py", edit)
            self.git("commit", "-q", "-a", "-m", words(edit))
            score, trained = experiment()
            if score < best:
                best = score
                told.kept.append(words(edit))
                told.notes.append(f"plain kept {words(edit)} ({score:.4f})")
            else:
                self.git("reset", "-q", "--hard", "HEAD~1")
                told.wasted += trained
        told.looks = told.decisions = len(edits)
        told.cpu, told.best, told.head = (
            own_cpu() - cpu,
            best,
            (self.place / "train.py").read_bytes(),
        )
        self._reset()
        return count(told, times, times[1:], sum(end - begin for begin, end in times[1:]))

    def measure(self, env: Mapping[str, str]) -> tuple[float, float]:
        """(score, training seconds) of what lies in the folder."""
        with (self.place / "run.log").open("wb") as log:
            for command in ["train.py"] + ["prepare.py evaluate"] * self.real:
                line = [sys.executable, *command.split()]
                subprocess.run(
                    line, cwd=self.place, env=env, stdout=log, stderr=subprocess.STDOUT, check=False
                )
        found = dict(
            re.findall(
                r"^(val_bpb|training_seconds): +([\d.]+)$",
                (self.place / "run.log").read_text(),
                re.MULTILINE,
            )
        )
        return float(found.get("val_bpb", "inf")), float(found.get("training_seconds", 0))

    def compare(self, heads: Sequence[bytes], seeds: int) -> list[list[float]]:
        """Scores on held-out documents of each version of train.py on the same fresh seeds, taking
        turns.
        """
        scores: list[list[float]] = [[] for _ in heads]
        for seed in range(1001, 1001 + seeds):
            for head, mine in zip(heads, scores, strict=True):
                (self.place / "train.py").write_bytes(head)
                mine.append(
                    self.measure(
                        self.env | {"AUTORESEARCH_SEED": str(seed), "AUTORESEARCH_SPLIT": "holdout"}
                    )[0]
                )
        self._reset()
        return scores

    def _reset(self) -> None:
        first = subprocess.run(
            ["git", "rev-list", "--max-parents=0", "HEAD"],
            cwd=self.place,
            check=True,
            capture_output=True,
            text=True,
        )
        self.git("reset", "-q", "--hard", first.stdout.strip())

    # -- ours
    # ------------------------------------------------------------------------------------------

    def ours(
        self,
        edits: Sequence[Edit],
        share: float,
        trial: float,
        state: Path,
        known: Noise | None = None,
        stops: bool = False,
    ) -> Told:
        told = Told("ours, losers stopped" if stops else "ours", share)
        cpu = own_cpu()
        context = search(
            self.place,
            state,
            Scripted(edits, share, trial, None if stops else False),
            [Slot("cpu:0", cores=tuple(sorted(os.sched_getaffinity(0))))],
            known,
        )
        told.cpu = own_cpu() - cpu
        run_state = read(state)
        runs = [
            run for number in run_state.experiments for run in run_state.experiments[number].runs
        ]
        runs.sort(key=lambda run: run.started)
        tried = [
            number for number in run_state.statuses if number and run_state.experiments[number].runs
        ]
        for number in tried:
            mine = run_state.experiments[number].runs
            if run_state.statuses[number] == "keep":
                told.kept.append(run_state.experiments[number].description)
                told.notes.append(
                    f"ours kept {run_state.experiments[number].description} after {len(mine)} runs"
                )
            else:
                told.wasted += sum(trained(run) for run in mine)
        stopped = sum(run.outcome == "stopped" for run in runs)
        if stops:
            told.notes.append(f"{stopped} of {len(tried)} first looks were stopped early")
        told.looks, told.decisions = len(tried), len(tried)
        values = good(context.runs(run_state.incumbent))
        told.best = statistics.fmean(values)
        told.head = context.workspace._git("show", f"{context.incumbent_commit}:train.py")
        intervals = [(run.started, run.started + run.seconds) for run in runs]
        searching = [
            pair
            for run, pair in zip(runs, intervals, strict=True)
            if run.trial.purpose != "baseline"
        ]
        useful = sum(
            run.phases.get("run", 0.0) + run.phases.get("evaluate", 0.0)
            for run in runs
            if run.trial.purpose != "baseline"
        )
        return count(told, intervals, searching, useful)


def trained(run: Any) -> float:
    """Training seconds of a measurement, also of one that was stopped."""
    if "training_seconds" in run.metrics:
        return float(run.metrics["training_seconds"])
    return run.curve[-1][0] - run.curve[0][0] if run.curve else 0.0


def count(
    told: Told,
    times: list[tuple[float, float]],
    searching: list[tuple[float, float]],
    useful: float,
) -> Told:
    told.runs = len(times)
    told.busy, told.span = sum(end - begin for begin, end in times), times[-1][1] - times[0][0]
    # The baseline's end: waiting for the first idea is part of the search
    before = times[-len(searching) - 1][1]
    told.useful, told.search_span = useful, searching[-1][1] - before
    return told


def search(
    directory: Path, state: Path, agent: Any, slots: Sequence[Slot], known: Noise | None = None
) -> ResearchContext:
    """The product's own search, from the baseline to the agent's end; no proof."""
    brief = briefs.read(Path("program.md"), directory)
    ledger = Ledger(state)
    workspace = Workspace(directory, state, brief)
    pool = LocalPool(brief, workspace, choose(), slots, state)
    budget = Budget(100_000, 240, 0, clock=time.monotonic)
    budget.slots = len(slots)
    inherited = Inheritance(noise=known)
    context = ResearchContext(
        Parts(brief, workspace, agent, pool, ledger, budget, Silent(), 1, str, inherited)
    )
    try:
        research(context)
    finally:
        pool.close()
        ledger.close()
    return context


def slots(number: int) -> list[Slot]:
    """Simulated devices that share all cores: their trials sleep, or there is one."""
    return [
        Slot(f"cpu:{index}", cores=tuple(sorted(os.sched_getaffinity(0))))
        for index in range(number)
    ]


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
