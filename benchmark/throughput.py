"""Decisions per slot-hour: the plain sequential loop and ours, on the same proposals, in one go.

    python benchmark/throughput.py [--quick] [--window 4] [--write]

The plain loop is what autoresearch's program.md describes: propose, commit, train, grep, keep or reset. Ours is the real
Loop with its workspace, sandbox, pool and journal. Both get the same edits of the real CPU train.py in a short window from
an agent that sleeps as long as a model would think: a tenth of the latest trial, as on a GPU, and all of it, as in others' tests.
Early stops are off but in the last row. `--quick` trains nothing: its trials sleep (under a minute).

Then the harness alone (overhead.py), two slots on simulated devices whose trials sleep, and a ledger of 100,000
experiments. Not covered: what is claimed in the end (acceptance.py), how many winners early stops cost (curves.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import overhead
from small import base_source, machine, prepared, publish, table

from autoresearch_action import brief as briefs
from autoresearch_action.acceptance.noise import Noise
from autoresearch_action.agents import Context, Draft, Exhausted
from autoresearch_action.agents.literals import find, swap
from autoresearch_action.budget import Budget
from autoresearch_action.ledger import Ledger, read
from autoresearch_action.loop import Loop, Parts
from autoresearch_action.trials.device import Slot
from autoresearch_action.trials.pool import LocalPool
from autoresearch_action.trials.sandbox import Sandbox
from autoresearch_action.trials.workspace import Workspace

Edit = Mapping[str, Any]  # literal → value

# Hopeless, so that one look settles every one of them and both loops run as many trials: what is left is how they wait. None
# changes how long a trial takes.
LOSERS: tuple[Edit, ...] = (
    {"SOFTCAP": 1.0}, {"MATRIX_LR": 0.002}, {"UNEMBEDDING_LR": 0.0001}, {"EMBEDDING_LR": 0.01}, {"WARMUP_RATIO": 0.9}, {"SOFTCAP": 0.5},
)  # fmt: skip
STAND_IN = b"""import os, random, time

RATE = 1.0
PAUSE = 0.7

dice = random.Random(int(os.environ.get("AUTORESEARCH_SEED") or 1))
loss = 1 + abs(RATE - 1) + dice.gauss(0, 0.01)
for step in range(40):
    print(f"step {step:05d} ({100 * step / 40:.1f}%) | loss: {loss * (2 - step / 40) + dice.gauss(0, 0.01):.6f} | lrm: 1.00")
time.sleep(PAUSE)
print(f"---\\ntraining_seconds: {PAUSE}\\nval_bpb: {loss:.6f}")
"""
STAND_IN_EDITS: tuple[Edit, ...] = tuple({"RATE": 2.0 + step} for step in range(5))
SLEEPER = "sleep 1; echo 'score: 1'"
ENTRIES = 100_000  # of the ledger that is resumed


@dataclass
class Told:
    """What one loop did."""

    name: str
    share: float  # model time, of the latest trial's
    looks: int = 0  # candidates that were measured at all
    decisions: int = 0
    runs: int = 0  # trials, baseline and replicates included
    busy: float = 0.0  # seconds of the slot, first trial's start to the last one's end
    span: float = 0.0
    useful: float = 0.0  # seconds in which the program itself ran and was scored, from the baseline's end on
    search_span: float = 0.0
    wasted: float = 0.0  # training seconds of candidates that ended discarded
    cpu: float = 0.0  # of the harness's own process
    best: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def idle(self) -> float:
        return 1 - self.busy / self.span

    @property
    def looks_per_hour(self) -> float:
        return 3600 * self.looks / self.search_span

    def row(self) -> list[str]:
        return [
            self.name, f"{self.share:g}", str(self.looks), str(self.runs), f"{self.busy / self.runs:.1f}", f"{self.looks_per_hour:.0f}",
            f"{3600 * self.decisions / self.span:.0f}", f"{100 * self.idle:.2f} %", f"{self.wasted:.0f}",
            f"{1000 * self.cpu / max(1, self.looks):.0f}",
        ]  # fmt: skip


HEAD = ["loop", "model / trial", "first looks", "trials", "a trial, s", "first looks / slot-h", "decisions / slot-h, all in", "slot idle",
        "training s on discarded", "harness CPU, ms / experiment"]  # fmt: skip


class Scripted:
    """Hands out the edits in order, each after thinking for `share` of what the latest trial took (`trial`: the first)."""

    name, worst_usd = "scripted", 0.0

    def __init__(self, edits: Sequence[Edit], share: float, trial: float, comparable: bool) -> None:
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
        return Draft(description=words(edit), comparable=self.comparable)

    def repair(self, context: Context, failed: object) -> None:
        return None


class Silent:
    def update(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def turn(file: Path, edit: Edit) -> None:
    source = file.read_bytes()
    file.write_bytes(swap(source, {knob: edit[knob.name] for knob in find(source, "train.py") if knob.name in edit}))


def words(edit: Edit) -> str:
    return ", ".join(f"{name} → {value}" for name, value in edit.items())


class Task:
    """A repository to optimise in `place`, and how one experiment of it is run."""

    def __init__(self, place: Path, source: bytes, window: float, real: bool) -> None:
        self.place, self.real = place, real
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
        (place / "program.md").write_text("\n".join(["---", *lines, "---", "Turn the numbers.", ""]))
        (place / "train.py").write_bytes(source)
        (place / "prepare.py").write_bytes((Path(__file__).parent.parent / "prepare.py").read_bytes())
        (place / ".gitignore").write_text(".autoresearch/\nrun.log\nmodel.pt2\n__pycache__/\n")
        self.env = os.environ | {"AUTORESEARCH_TIME_BUDGET": f"{window:g}", "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
        self.env |= {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Start")

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments], cwd=self.place, check=True)

    # -- the plain loop ------------------------------------------------------------------------------------------

    def plain(self, edits: Sequence[Edit], share: float) -> Told:
        """Propose, commit, train, grep, keep or reset; one thing after the other."""
        told = Told("plain", share)
        cpu, times = own_cpu(), []

        def experiment() -> tuple[float, float]:
            begin = time.time()
            with (self.place / "run.log").open("wb") as log:
                for command in ["train.py"] + ["prepare.py evaluate"] * self.real:
                    words = [sys.executable, *command.split()]
                    subprocess.run(words, cwd=self.place, env=self.env, stdout=log, stderr=subprocess.STDOUT, check=False)
            times.append((begin, time.time()))
            found = dict(re.findall(r"^(val_bpb|training_seconds): +([\d.]+)$", (self.place / "run.log").read_text(), re.MULTILINE))
            return float(found.get("val_bpb", "inf")), float(found.get("training_seconds", 0))

        best, _ = experiment()
        for edit in edits:
            time.sleep(share * (times[-1][1] - times[-1][0]))
            turn(self.place / "train.py", edit)
            self.git("commit", "-q", "-a", "-m", words(edit))
            score, trained = experiment()
            if score < best:
                best = score
                told.notes.append(f"plain kept {words(edit)} ({score:.4f})")
            else:
                self.git("reset", "-q", "--hard", "HEAD~1")
                told.wasted += trained
        told.looks = told.decisions = len(edits)
        told.cpu, told.best = own_cpu() - cpu, best
        self._reset()
        return count(told, times, times[1:], sum(end - begin for begin, end in times[1:]))

    def _reset(self) -> None:
        first = subprocess.run(["git", "rev-list", "--max-parents=0", "HEAD"], cwd=self.place, check=True, capture_output=True, text=True)
        self.git("reset", "-q", "--hard", first.stdout.strip())

    # -- ours ----------------------------------------------------------------------------------------------------

    def ours(self, edits: Sequence[Edit], share: float, trial: float, state: Path, known: Noise | None = None, stops: bool = False) -> Told:
        told = Told("ours, losers stopped" if stops else "ours", share)
        cpu = own_cpu()
        loop = search(
            self.place, state, Scripted(edits, share, trial, stops), [Slot("cpu:0", cores=tuple(sorted(os.sched_getaffinity(0))))], known
        )
        told.cpu = own_cpu() - cpu
        study = read(state)
        runs = [run for number in study.experiments for run in study.experiments[number].runs]
        runs.sort(key=lambda run: run.started)
        tried = [number for number in study.statuses if number and study.experiments[number].runs]
        for number in tried:
            mine = study.experiments[number].runs
            if study.statuses[number] == "keep":
                told.notes.append(f"ours kept {study.experiments[number].description} after {len(mine)} runs")
            else:
                told.wasted += sum(trained(run) for run in mine)
        stopped = sum(run.outcome == "stopped" for run in runs)
        if stops:
            told.notes.append(f"{stopped} of {len(tried)} first looks were stopped early")
        told.looks, told.decisions = len(tried), len(tried)
        values = [run.value for run in loop.incumbent.runs if run.value is not None]
        told.best = statistics.fmean(values)
        intervals = [(run.started, run.started + run.seconds) for run in runs]
        searching = [pair for run, pair in zip(runs, intervals, strict=True) if run.trial.purpose != "baseline"]
        useful = sum(run.phases.get("run", 0.0) + run.phases.get("evaluate", 0.0) for run in runs if run.trial.purpose != "baseline")
        return count(told, intervals, searching, useful)


def trained(run: Any) -> float:
    """Training seconds of a measurement, also of one that was stopped."""
    if "training_seconds" in run.metrics:
        return float(run.metrics["training_seconds"])
    return run.curve[-1][0] - run.curve[0][0] if run.curve else 0.0


def count(told: Told, times: list[tuple[float, float]], searching: list[tuple[float, float]], useful: float) -> Told:
    told.runs = len(times)
    told.busy, told.span = sum(end - begin for begin, end in times), times[-1][1] - times[0][0]
    before = times[-len(searching) - 1][1]  # the baseline's end: waiting for the first idea is part of the search
    told.useful, told.search_span = useful, searching[-1][1] - before
    return told


def search(directory: Path, state: Path, agent: Any, slots: Sequence[Slot], known: Noise | None = None) -> Loop:
    """The product's own search, from the baseline to the agent's end; no proof."""
    brief = briefs.read(Path("program.md"), directory)
    ledger = Ledger(state)
    workspace = Workspace(directory, state, brief)
    pool = LocalPool(brief, workspace, Sandbox("auto"), slots, state)
    budget = Budget(100_000, 240, 0, clock=time.monotonic)
    budget.slots = len(slots)
    loop = Loop(Parts(brief, workspace, agent, pool, ledger, budget, Silent(), 1, str, noise=known))
    try:
        loop.search()
    finally:
        loop.desk.cancel()
        pool.close()
        ledger.close()
    return loop


def slots(number: int) -> list[Slot]:
    """Simulated devices that share all cores: their trials sleep, or there is one."""
    return [Slot(f"cpu:{index}", cores=tuple(sorted(os.sched_getaffinity(0)))) for index in range(number)]


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# ----------------------------------------------------------------------------------------------------------------------
# Two slots, and a long ledger


def scaling(place: Path, experiments: int) -> tuple[float, float]:
    """Experiments per minute on one and on two simulated devices whose trials sleep."""
    rates = []
    for count_ in (1, 2):
        home = place / f"slots-{count_}"
        overhead.repository(home / "r", experiments, SLEEPER)
        state = home / "state"
        edits = [home / "patches" / f"{number:04d}.diff" for number in range(1, experiments + 1)]
        begin_end = []
        search(home / "r", state, _Patches(edits), slots(count_))
        study = read(state)
        for number in study.statuses:
            begin_end += [(run.started, run.started + run.seconds) for run in study.experiments[number].runs if number]
        span = max(end for _, end in begin_end) - min(begin for begin, _ in begin_end)
        rates.append(60 * len(begin_end) / span)
    return rates[0], rates[1]


class _Patches(Scripted):
    """The i-th version of a one-line file."""

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__([{"x": int(file.stem)} for file in files], 0.0, 0.0, True)

    def propose(self, context: Context) -> Draft:
        with self._lock:
            if not self.edits:
                raise Exhausted("All edits have been tried.")
            edit = self.edits.pop(0)
        (context.directory / "train.py").write_text(f"x = {edit['x']}\n")
        return Draft(description=words(edit))


def long_ledger(state: Path, template: Path, entries: int) -> tuple[float, float, float]:
    """(seconds to resume it, megabytes of the file, megabytes of memory that it takes). Lines of a real ledger, renumbered."""
    lines = (template / "ledger.jsonl").read_text().splitlines()
    study = read(template)
    number = next(n for n in study.statuses if n and study.statuses[n] == "discard" and study.experiments[n].runs)
    commit = study.experiments[number].commit
    events = [(json.loads(line), line) for line in lines]
    tree = next(event["tree"] for event, _ in events if event["event"] == "proposal" and event["number"] == number)
    head = [line for event, line in events if event["event"] in ("run", "session") or event.get("number") == 0 or event["event"] == "fact"]
    mine = [line for event, line in events if event.get("number") == number]
    asked = next(line for event, line in events if event["event"] == "ask")
    spent = next(line for event, line in events if event["event"] == "spend")
    state.mkdir(parents=True)
    with (state / "ledger.jsonl").open("w") as file:
        file.write("".join(f"{line}\n" for line in head))
        for n in range(1, entries + 1):
            new = f"{n:040x}"
            for line in (re.sub(r'"ask":\d+', f'"ask":{n}', asked), re.sub(r'"ask":\d+', f'"ask":{n}', spent), *mine):
                line = line.replace(f'"number":{number}', f'"number":{n}').replace(f'"asked_by":{number}', f'"asked_by":{n}')
                file.write(line.replace(commit, new).replace(tree, new[::-1]) + "\n")
    program = (
        "import resource, sys, time; from pathlib import Path; from autoresearch_action import ledger\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; begin = time.perf_counter(); study = ledger.read(Path(sys.argv[1]))\n"
        "took = time.perf_counter() - begin; last = study.experiments[len(study.experiments) - 1]; assert last.verdict and last.runs\n"
        "study.recent(); print(took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, study.tried)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    best = []
    for _ in range(3):
        shown = subprocess.run([sys.executable, "-c", program, str(state)], check=True, capture_output=True, text=True, env=env)
        took, memory, tried = shown.stdout.split()
        assert int(tried) == entries
        best.append((float(took), float(memory)))
    took, memory = sorted(best)[1]
    return took, (state / "ledger.jsonl").stat().st_size / 1e6, memory


# ----------------------------------------------------------------------------------------------------------------------


def extra(told: Told, state: Path) -> int:
    """Trials of the search that were no first look."""
    study = read(state)
    runs = [run for number in study.experiments for run in study.experiments[number].runs if run.trial.purpose != "baseline"]
    return len(runs) - told.looks


def loops(place: Path, quick: bool, window: float) -> tuple[list[str], Path, list[tuple[str, str, bool]]]:
    """The two loops beside each other: a report, the state of one of ours, and (target, measured, met)."""
    task = Task(place / "task", STAND_IN if quick else base_source(), window, real=not quick)
    edits = STAND_IN_EDITS if quick else LOSERS
    begin = time.time()
    warm = task.plain(edits[:1], 0.0)  # also warms the page cache
    trial = warm.busy / warm.runs
    lines = [f"A trial takes {trial:.1f} s ({window:g} s of training in it); {len(edits)} edits, each plainly worse.", ""]
    rows, met, known, state = [], [], None, place
    for share, target in ((0.1, 1.09), (1.0, 1.9)):
        plain = task.plain(edits, share)
        state = place / f"state-{share:g}"
        ours = task.ours(edits, share, trial, state, known)
        known = Noise.model_validate(read(state).facts["noise"])
        rows += [plain.row(), ours.row()]
        factor = (ours.useful / ours.search_span) / (plain.useful / plain.search_span) * (ours.looks / (ours.looks + extra(ours, state)))
        raw = ours.looks_per_hour / plain.looks_per_hour
        what = f"first looks per slot-hour, overlap alone, model time {share:g} of a trial"
        met.append((f"{what}: ≥ {target}×", f"{factor:.2f}× at equal trial time (by the clock {raw:.2f}×)", factor >= target))
        met.append((f"slot idle, model time {share:g} of a trial: ≤ 1 %", f"{100 * ours.idle:.2f} % (plain {100 * plain.idle:.1f} %)",
                    ours.idle <= 0.01))  # fmt: skip
    if not quick:
        stopping = task.ours(edits, 0.1, trial, place / "state-stops", known, stops=True)
        rows.append(stopping.row())
        lines += stopping.notes
    lines += ["", *table(HEAD, rows)]
    lines += [
        "At equal trial time: the share of slot time in which the program runs or is scored, ours over the plain loop's; checkout,",
        "sandbox and decision count against it, and so does a trial that is no first look. By the clock is spoilt where neighbours",
        "slow one loop's trials and not the other's: compare the column of a trial's seconds.",
        "First looks per slot-hour: from the baseline's end on. All in: the baseline's runs (1, and 4 or 2) and replicates count as",
        "slot time too; the plain loop decides on one run, whatever the noise (acceptance.py).",
        f"Harness CPU: its own process; git and sandbox are in the last section. ({time.time() - begin:.0f} s)",
        "",
    ]
    return lines, state, met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="trials that sleep; under a minute")
    parser.add_argument("--window", type=float, default=4.0, help="seconds of training (default 4)")
    parser.add_argument("--write", action="store_true", help="also write benchmark/results/throughput.md")
    options = parser.parse_args()
    before, begin = machine(), time.time()
    command = f"python benchmark/throughput.py --window {options.window:g}" + " --quick" * options.quick + " --write" * options.write
    with tempfile.TemporaryDirectory(prefix="autoresearch-throughput-") as folder:
        place = Path(folder)
        bare = overhead.measure(20 if options.quick else 60)  # first: peak memory is over all children so far
        one, two = scaling(place / "scaling", 6 if options.quick else 20)
        told, state, met = loops(place, options.quick, options.window)
        entries = ENTRIES // 10 if options.quick else ENTRIES
        took, size, memory = long_ledger(place / "long", state, entries)
    met += [
        (
            f"harness per experiment, median: ≤ {overhead.MOST_MS} ms",
            f"{bare['median']:.0f} ms",
            bare["median"] <= overhead.MOST_MS,
        ),
        ("two slots on two simulated devices: ≥ 1.8×", f"{two / one:.2f}× ({one:.0f} and {two:.0f} a minute)", two >= 1.8 * one),
        (
            f"a ledger of {entries:,} experiments resumes: ≤ 2 s",
            f"{took:.2f} s ({size:.0f} MB, {memory:.0f} MB of memory)",
            took <= 2,
        ),
    ]
    lines = [f"# Throughput\n\n`{command}`\n\n{before}; at the end {machine()}; {(time.time() - begin) / 60:.1f} min.\n"]
    if options.quick:
        lines.append("Quick: nothing is trained, trials sleep for 0.7 s, and the ledger has a tenth of the entries. The harness's\n"
                     "milliseconds weigh more in trials so short: the targets are for the whole benchmark.\n")  # fmt: skip
    lines += table(["target", "measured", "met"], [[name, value, "yes" if ok else "no"] for name, value, ok in met])
    lines += ["## The two loops", "", *told, "## The harness alone", "", "```", *overhead.report(bare), "```"]
    publish("throughput", lines, options.write)


if __name__ == "__main__":
    main()
