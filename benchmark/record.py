"""Make real training curves for benchmark/curves.py: the CPU train.py in a short window, with many
edits of many kinds.

Every variant is trained in a process forked from one that has imported torch, `--jobs` of them side
by side, so that only training and scoring are paid (no sandbox: the edits are ours, not a
stranger's code); the scorer is prepare.py's own, on the module itself, which its export equals.
What a cold start and the hand-in add to the clock that the harness reads is measured apart, on
plain subprocesses.

Elapsed time is train.py's own clock (processor time per thread, one thread), made steady:
neighbours change the speed of shared cores by a third within minutes, as nothing does to a GPU. On
each core the base runs on, with a quarter of the core, and a second is what it takes the base, at
the same time on the same core, to make as many steps as it made in one at the beginning.

First a climb makes the incumbents as the first hour of a night does: from rates of half their size
on, numbers are doubled and halved, and what is better on two seeds stays; every stage is an
incumbent. All runs share SEEDS, as an incumbent and the first looks at its rivals do. Then variants
of the last stage, in random order: what a language model proposed (edits.py), random turns of one
or two literals and wide ones of two to four by at least half of their range, and what the optuna
agent proposes, told its own results as in a run. `--more` goes on where an earlier go ended; both
are stored with their number.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import os
import random
import re
import runpy
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edits import EDITS, Edit, swapped
from small import RESULTS, ROOT, SMALL_BASE, machine, prepared, turned

FILE = RESULTS / "curves.json.gz"
LINE = re.compile(r"^step \d+ \(([\d.]+)%\) \| loss: ([\d.]+|nan)")
SCORE = re.compile(r"^scored: ([\d.]+) in ([\d.]+)$", re.MULTILINE)
# Kind, changes, seed, the edit's name
Job = tuple[str, Mapping[str, Any], int, str]
# Of the base that keeps the time on a core: about a quarter of it
PACE_NICE = 5
# Seconds that one training may take, contention and all
LONGEST = 200
SEEDS = (1, 2, 3, 4)
CLIMB = ("MATRIX_LR", "EMBEDDING_LR", "UNEMBEDDING_LR", "MOMENTUM_STEPS", "HEAD_DIM#2")
# Bpb, mean of two seeds, by which a stage of the climb must be better
CLIMBED = 0.01
# Of the climb
BEGIN = {"MATRIX_LR": 0.02, "EMBEDDING_LR": 0.3, "UNEMBEDDING_LR": 0.002}
# Trainings between two of the incumbent
AGAIN = 10
PROGRAM = "---\nedit: [train.py]\nrun: python train.py\nmetric: val_bpb\n---\nTurn the numbers.\n"


@dataclass
class Recorded:
    """One training. `curve`: (seconds of its clock, printed loss). `bpb` None: it crashed."""

    id: int
    go: int
    # Incumbent, climb, optuna, random, wide, or a kind of edits.py
    kind: str
    edit: str
    # Literal → new value, `edit:` its name → True, against the base
    changes: dict[str, Any]
    seed: int
    bpb: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    # Processor seconds of the forked training, scoring included; 0 while it runs
    cpu: float = 0.0
    # … of scoring
    scored: float = 0.0
    # Made in the window
    steps: int | None = None


class Pace:
    """How many steps a running base has made in how many of its processor seconds; shared between
    processes.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)

    def put(self, steps: int, seconds: float) -> None:
        self._memory[:] = struct.pack("dd", steps, seconds)

    @property
    def told(self) -> tuple[float, float]:
        steps, seconds = struct.unpack("dd", self._memory[:])
        return steps, seconds


class Counting:
    """The clock of the base that keeps the time: asked once a step, it counts, and all but stands
    so that it never ends.
    """

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self.pace, self.clock, self.steps, self.begun, self.recorder = (
            pace,
            clock,
            -1,
            0.0,
            os.getppid(),
        )

    def __call__(self) -> float:
        if os.getppid() != self.recorder:
            # It was killed
            os._exit(1)
        self.steps += 1
        self.begun = self.begun or self.clock()
        self.pace.put(self.steps, self.clock() - self.begun)
        return 1e-9 * self.steps


class Steady:
    """Processor seconds of this process, each as long as the base beside it takes for `nominal`
    steps.
    """

    def __init__(self, pace: Pace, nominal: float, clock: Callable[[], float]) -> None:
        self.pace, self.nominal, self.clock = pace, nominal, clock
        self.begun, self.first, self.now = 0.0, (0.0, 0.0), 0.0

    def __call__(self) -> float:
        if not self.begun:
            self.begun, self.first = self.clock(), self.pace.told
            return 0.0
        steps, seconds = (now - then for now, then in zip(self.pace.told, self.first, strict=True))
        rate = steps / seconds if steps else self.nominal
        self.now = max(self.now, (self.clock() - self.begun) * rate / self.nominal)
        return self.now


class Recorder:
    def __init__(
        self, window: float, seed: int, minutes: float, jobs: int, earlier: Mapping[str, Any]
    ) -> None:
        import torch
        import torch._dynamo
        import torch.export

        from autoresearch_action.agents.literals import find
        from autoresearch_action.brief import read

        torch.set_num_threads(1)
        self.runs = [Recorded(**run) for run in earlier["runs"]]
        self.go = 1 + max((run.go for run in self.runs), default=0)
        self.window, self.jobs, self.dice = window, jobs, random.Random(seed)
        self.cores, self.cpu_time = sorted(os.sched_getaffinity(0)), time.process_time
        self.pace, self.keepers = [Pace() for _ in range(jobs)], list[int]()
        self.nominal: float = earlier.get("steps per second", 0.0)
        self.begun, self.minutes = time.monotonic(), minutes
        self.keep: Callable[[], None] = lambda: None
        self.place = Path(tempfile.mkdtemp(prefix="autoresearch-curves-"))
        (self.place / "program.md").write_text(PROGRAM)
        (self.place / "prepare.py").write_bytes((ROOT / "prepare.py").read_bytes())
        os.environ |= {
            "AUTORESEARCH_TIME_BUDGET": f"{window:g}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.base = turned((ROOT / "train.py").read_bytes(), SMALL_BASE | BEGIN)
        (self.place / "train.py").write_bytes(self.base)
        os.chdir(self.place)
        sys.path.insert(0, str(self.place))
        self.brief = read(Path("program.md"), self.place)
        knobs = find(self.base, "train.py")
        keys = {knob.key for knob in knobs}
        self.knobs = {knob.key: knob for knob in knobs}
        # The first of two is the GPU's
        self.useful = [knob for knob in knobs if knob.tier == 0 and f"{knob.key}#2" not in keys]
        self.edits = {edit.name: edit for edit in EDITS}
        incumbents = [run.changes for run in self.runs if run.kind == "incumbent"]
        self.best: dict[str, Any] = incumbents[-1] if incumbents else {}

    # -- one training
    # ------------------------------------------------------------------------------------------

    def train(self, jobs: Iterable[Job]) -> list[Recorded]:
        """Train them, as many at once as there are places; `jobs` is asked for the next one when a
        place is free. In its order.
        """
        jobs, before, free = iter(jobs), len(self.runs), list(range(self.jobs))
        running: dict[int, tuple[Recorded, int]] = {}
        while True:
            while free and (job := next(jobs, None)):
                kind, changes, seed, edit = job
                self.runs.append(
                    run := Recorded(len(self.runs), self.go, kind, edit, dict(changes), seed)
                )
                place = free.pop()
                running[self._fork(run, place)] = run, place
            if not running:
                return self.runs[before:]
            pid, status, usage = os.wait4(-1, 0)
            run, place = running.pop(pid)
            run.cpu = round(usage.ru_utime + usage.ru_stime, 3)
            self._read(run, status, (self.place / str(place) / "out").read_text(errors="replace"))
            free.append(place)

    def _read(self, run: Recorded, status: int, text: str) -> None:
        run.curve = [
            (round(float(share) / 100 * self.window, 3), round(float(loss), 3))
            for share, loss in _points(text)
        ]
        run.steps = (
            int(made[-1]) if (made := re.findall(r"^step (\d+)", text, re.MULTILINE)) else None
        )
        if status == 0 and (score := SCORE.search(text)):
            run.bpb, run.scored = float(score[1]), float(score[2])
        words = self.words(run.changes, run.edit)
        print(
            f"{run.id:4d} {run.kind:9} seed {run.seed} {run.bpb or float('nan'):.4f} in"
            f" {run.steps}  {words}",
            flush=True,
        )
        if run.bpb is None:
            print("   ", text.strip().splitlines()[-1:], flush=True)

    def source(self, changes: Mapping[str, Any]) -> bytes:
        from autoresearch_action.agents.literals import swap

        source = swap(
            self.base,
            {self.knobs[key]: value for key, value in changes.items() if key in self.knobs},
        )
        for key in changes:
            if key.startswith("edit:"):
                source = swapped(source.decode(), self.edits[key[5:]]).encode()
        return source

    def words(self, changes: Mapping[str, Any], edit: str = "") -> str:
        new = {key: value for key, value in changes.items() if self.best.get(key) != value}
        return (
            edit
            or ", ".join(f"{key.split(':')[1]} {value}" for key, value in new.items())
            or "as it is"
        )

    def _fork(self, run: Recorded, place: int) -> int:
        """The process that runs train.py as `run` has it, in a folder of its own; what it prints
        goes to `out` there.
        """
        import prepare

        def score(model: Any) -> None:
            begin = self.cpu_time()
            model.eval()
            probes = prepare.meta("eval")["profile"]["probes"]["val"]
            bpb, _ = prepare.score(model, model, "val", 0, "cpu", probes)
            print(f"scored: {bpb:.6f} in {self.cpu_time() - begin:.3f}")

        def start() -> None:
            signal.alarm(LONGEST)
            os.environ["AUTORESEARCH_SEED"] = str(run.seed)
            time.process_time = Steady(self.pace[place], self.nominal, self.cpu_time)  # type: ignore[assignment]
            prepare.submit = score

        return self._child(str(place), place, self.source(run.changes), start)

    def _child(self, name: str, place: int, source: bytes, start: Callable[[], None]) -> int:
        """A fork of this process that runs `source` as train.py in folder `name` on the place's own
        core.
        """
        folder = self.place / name
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_bytes(source)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.chdir(folder)
            os.sched_setaffinity(0, {self.cores[place % len(self.cores)]})
            handle = os.open("out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            code = 1
            try:
                start()
                sys.argv = ["train.py"]
                runpy.run_path("train.py", run_name="__main__")
            except SystemExit as leaving:
                code = 0 if leaving.code in (None, 0) else 1
            except BaseException as problem:
                print(f"{type(problem).__name__}: {problem}")
            finally:
                sys.stdout.flush()
                os._exit(code)
        return pid

    def keep_time(self, seconds: float = 10.0) -> None:
        """Start the base on every core; its steps per processor second in the first `seconds` are
        what a second is from now on.
        """
        for place in range(self.jobs):
            told = self.pace[place]

            def start(told: Pace = told) -> None:
                os.nice(PACE_NICE)
                time.process_time = Counting(told, self.cpu_time)  # type: ignore[assignment]

            self.keepers.append(self._child(f"pace-{place}", place, self.base, start))
        time.sleep(seconds)
        if not self.nominal:
            self.nominal = statistics.fmean(
                steps / seconds for steps, seconds in (pace.told for pace in self.pace)
            )
            print(f"a second is {self.nominal:.2f} steps of the base", flush=True)

    def stop_time(self) -> None:
        for pid in self.keepers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.keepers.clear()

    def cold(self, count: int = 3) -> list[tuple[float, float]]:
        """(processor seconds before the first step's line, after the last one) of plain `python
        train.py`.
        """
        found = []
        (self.place / "train.py").write_bytes(self.base)
        for seed in range(count):
            env = os.environ | {
                "AUTORESEARCH_SEED": str(seed),
                "PYTHONUNBUFFERED": "1",
                "AUTORESEARCH_TIME_BUDGET": "2",
            }
            process = subprocess.Popen(
                [sys.executable, "train.py"], env=env, stdout=subprocess.PIPE, text=True
            )
            assert process.stdout
            first = last = 0.0
            for line in process.stdout:
                if line.startswith("step "):
                    last = _cpu(process.pid)
                    first = first or last
            usage = os.wait4(process.pid, 0)[2]
            process.returncode = 0
            found.append((round(first, 3), round(usage.ru_utime + usage.ru_stime - last, 3)))
        return found

    # -- which variants
    # -----------------------------------------------------------------------------------------

    def plan(self, edits: int, others: int) -> None:
        """The climb, once; then `edits` of the language model's and `others` of each other kind."""
        from autoresearch_action.agents.optuna import OptunaAgent

        if not self.runs:
            self.climb()
        proposed = [
            Edit(edit.name, edit.kind, edit.turns, edit.swaps, edit.comparable) for edit in EDITS
        ]
        # The same order in every go
        random.Random(7).shuffle(proposed)
        tried = {run.edit for run in self.runs}
        agent = OptunaAgent(self.brief, seed=self.go)
        queue: list[Edit | str] = [edit for edit in proposed if edit.name not in tried][:edits]
        queue += ["random", "wide", "optuna"] * others
        self.dice.shuffle(queue)
        self.train(self._jobs(queue, agent))

    def _jobs(self, queue: Sequence[Edit | str], agent: Any) -> Iterator[Job]:
        for number, item in enumerate(queue):
            if number % AGAIN == 0:
                yield self._again(SEEDS)[number // AGAIN % len(SEEDS)]
                self.keep()
            if time.monotonic() - self.begun > 60 * self.minutes:
                return
            kind = item if isinstance(item, str) else item.kind
            changes = (
                self._changes(item)
                if isinstance(item, Edit)
                else self._propose(agent)
                if kind == "optuna"
                else self._turn(kind)
            )
            if changes != self.best:
                yield (
                    kind,
                    changes,
                    self.dice.choice(SEEDS),
                    item.name if isinstance(item, Edit) else "",
                )

    def climb(self) -> None:
        """Coordinate by coordinate, up and down by a factor of two; what is better on two seeds
        stays and is tried again.
        """
        self.train(self._again(SEEDS))
        for name in CLIMB:
            ways = [True, False]
            while moves := {
                up: moved
                for up in ways
                if (moved := self._moved(f"train.py:{name}", up)) is not None
            }:
                tried = self.train(
                    [("climb", moved, seed, "") for moved in moves.values() for seed in SEEDS[:2]]
                )
                gains = {
                    up: statistics.fmean(self._gain(run) for run in tried if run.changes == moved)
                    for up, moved in moves.items()
                }
                up = max(gains, key=lambda way: gains[way])
                if gains[up] < CLIMBED:
                    break
                self.best, ways = moves[up], [up]
                self.train(self._again(SEEDS))

    def _again(self, seeds: Sequence[int]) -> list[Job]:
        return [("incumbent", self.best, seed, "") for seed in seeds]

    def _moved(self, key: str, up: bool) -> dict[str, Any] | None:
        value = self.best.get(key, self.knobs[key].value)
        if isinstance(value, float) and 0.9 < value < 1:
            new: Any = round(1 - (1 - value) / 2, 5) if up else round(1 - 2 * (1 - value), 5)
        else:
            new = type(value)(2 * value) if up else type(value)(value / 2)
        changes = self._reduced({**self.best, key: new})
        return changes if new and not any(run.changes == changes for run in self.runs) else None

    def _gain(self, run: Recorded) -> float:
        rivals = [
            r.bpb for r in self.runs if r.changes == self.best and r.seed == run.seed and r.bpb
        ]
        return statistics.fmean(rivals) - run.bpb if run.bpb and rivals else -1.0

    def incomparable(self) -> list[str]:
        """Keys of changes that exempt a variant: by the literal's name, or as the language model
        declared.
        """
        names = [edit.name for edit in EDITS if not edit.comparable]
        return [key for key, knob in self.knobs.items() if not knob.comparable] + [
            f"edit:{name}" for name in names
        ]

    def _changes(self, edit: Edit) -> dict[str, Any]:
        changes = dict(self.best)
        for name, turn in edit.turns.items():
            key = f"train.py:{name}"
            old, text = changes.get(key, self.knobs[key].value), turn[1:]
            if turn.startswith("*"):
                changes[key] = float(f"{old * float(text):.3g}")
            else:
                changes[key] = text == "True" if isinstance(old, bool) else type(old)(text)
        return self._reduced(changes) | ({f"edit:{edit.name}": True} if edit.swaps else {})

    def _reduced(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: value
            for key, value in changes.items()
            if key not in self.knobs or self.knobs[key].value != value
        }

    def _turn(self, kind: str) -> dict[str, Any]:
        """Literals with new values, not tried before; those of `wide` moved by at least half of
        their range, up or down.
        """
        sizes, least = ((2, 3, 4), 0.5) if kind == "wide" else ((1, 1, 2), 0.0)
        while True:
            chosen = self.dice.sample(self.useful, self.dice.choice(sizes))
            turned = {
                k.key: self.dice.choice(k.choices)
                if k.choices
                else self._near(k.key, self._position(least))
                for k in chosen
            }
            changes = self._reduced(self.best | turned)
            if changes != self.best and all(run.changes != changes for run in self.runs):
                return changes

    def _near(self, key: str, position: float) -> Any:
        """The literal's value at `position` of the range around the incumbent's."""
        from autoresearch_action.agents.literals import find

        return next(
            knob for knob in find(self.source(self.best), "train.py") if knob.key == key
        ).at(position)

    def _position(self, least: float) -> float:
        return self.dice.choice((-1, 1)) * self.dice.uniform(least, 1)

    def _propose(self, agent: Any) -> dict[str, Any]:
        from autoresearch_action.agents import Context

        (self.place / "train.py").write_bytes(self.source(self.best))
        history, values = (
            self._history(),
            [run.bpb for run in self.runs if run.bpb and run.changes == self.best],
        )
        context = Context(
            brief=self.brief,
            tree=self.place,
            directory=self.place,
            parent="best",
            number=len(self.runs),
            seed=len(self.runs),
            history=history,
            noise=statistics.stdev(values),
        )
        draft = agent.propose(context)
        return self._reduced(
            self.best | {key: new for key, (_, new) in json.loads(draft.details["changes"]).items()}
        )

    def _history(self) -> Sequence[Any]:
        from autoresearch_action.records import Experiment, Proposal, Verdict

        found = []
        for run in self.runs:
            if run.kind != "optuna" or run.go != self.go or not run.cpu:
                continue
            new = {key: value for key, value in run.changes.items() if self.best.get(key) != value}
            details = {
                "changes": json.dumps(
                    {
                        key: [self.best.get(key, self.knobs[key].value), value]
                        for key, value in new.items()
                    }
                )
            }
            proposal = Proposal(
                parent="best", patch="", agent="optuna", description=str(run.id), details=details
            )
            verdict = Verdict(
                number=run.id,
                status="discard" if run.bpb else "crash",
                reason="",
                description="",
                agent="optuna",
                estimate=self._gain(run) if run.bpb else None,
                runs=1,
            )
            found.append(
                Experiment(
                    number=run.id, proposal=proposal, commit="c", parent="best", verdict=verdict
                )
            )
        return found

    def save(self, gos: list[dict[str, Any]], cold: list[tuple[float, float]]) -> None:
        facts = {
            "gos": gos,
            "window": self.window,
            "steps per second": self.nominal,
            "base": SMALL_BASE | BEGIN,
            "best": self.best,
            "incomparable": self.incomparable(),
            "train.py": hashlib.sha256(self.base).hexdigest()[:16],
            "cold": cold,
        }
        keep = [asdict(run) for run in self.runs if run.cpu]
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(facts | {"runs": keep}, separators=(",", ":"))
        FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _points(text: str) -> list[tuple[str, str]]:
    return [(found[1], found[2]) for line in text.splitlines() if (found := LINE.match(line))]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def record(
    window: float,
    edits: int,
    others: int,
    seed: int,
    minutes: float,
    jobs: int,
    more: bool,
    command: str,
) -> None:
    """Make the curves and write FILE, or with `more` go on with it. Takes `minutes` at most, give
    or take one training.
    """
    began, load = time.time(), machine()
    print(load, flush=True)
    prepared()
    old = (
        json.loads(gzip.decompress(FILE.read_bytes()))
        if more
        else {"gos": [], "cold": [], "runs": [], "window": window}
    )
    recorder = Recorder(old["window"], seed, minutes, jobs, old)
    cold = old["cold"] or recorder.cold()
    print(
        f"a cold start takes {statistics.fmean(first for first, _ in cold):.2f} s to the first"
        " step",
        flush=True,
    )

    def keep() -> None:
        made = {
            "command": command,
            "machine": f"{load}; at the end {machine()}",
            "minutes": round((time.time() - began) / 60, 1),
        }
        recorder.save([*old["gos"], made], cold)

    recorder.keep = keep
    try:
        recorder.keep_time()
        recorder.plan(edits, others)
    finally:
        recorder.stop_time()
        keep()
    print(
        f"{len(recorder.runs)} runs, {(time.time() - began) / 60:.1f} min,"
        f" {FILE.stat().st_size / 1000:.0f} kB in {FILE}"
    )
