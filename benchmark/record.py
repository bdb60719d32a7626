"""Make real training curves for benchmark/curves.py: the CPU train.py in a short window, with many of its literals turned.

Every variant is trained in a process forked from one that has imported torch, so that only training and scoring are paid
(no sandbox: the edits are literals, not a stranger's code); the scorer is prepare.py's own. Elapsed time is train.py's own
clock (processor time per thread, one thread), as its progress lines tell it. What a cold start adds to the clock that
the harness reads is measured apart, on plain subprocesses, and stored beside the curves.

Variants: repeated baselines; random turns of one or two literals that have an effect on a CPU, and wide ones of two to four
by at least half of their range; what the optuna agent proposes, told its own results as in a run; then repeats on fresh
seeds of some that came out worse, to serve as the weaker incumbents of the replay.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from small import RESULTS, ROOT, SMALL_BASE, base_source, machine, prepared

FILE = RESULTS / "curves.json.gz"
LINE = re.compile(r"^step \d+ \(([\d.]+)%\) \| loss: ([\d.]+|nan)")
LONGEST = 120  # seconds that one training may take, contention and all
GAPS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35)  # bpb by which the repeated weaker variants lie above the baseline
PROGRAM = "---\nedit: [train.py]\nrun: python train.py\nmetric: val_bpb\n---\nTurn the numbers.\n"


@dataclass
class Recorded:
    """One training. `curve`: (seconds of train.py's clock, printed loss). `bpb` None: it crashed."""

    id: int
    kind: str  # baseline, random, wide, optuna or repeat (of `of`)
    changes: dict[str, Any]  # literal → new value, against the base
    comparable: bool
    seed: int
    bpb: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    cpu: float = 0.0  # processor seconds of the forked training, hand-in included
    scored: float = 0.0  # … of scoring
    of: int | None = None


class Recorder:
    def __init__(self, window: float, seed: int, minutes: float) -> None:
        import torch
        import torch._dynamo
        import torch.export

        from autoresearch_action.agents.literals import find
        from autoresearch_action.brief import read

        torch.set_num_threads(1)
        self.window, self.dice = window, random.Random(seed)
        self.until, self.enough = time.monotonic() + 60 * minutes, time.monotonic() + 45 * minutes
        self.place = Path(tempfile.mkdtemp(prefix="autoresearch-curves-"))
        (self.place / "program.md").write_text(PROGRAM)
        (self.place / "prepare.py").write_bytes((ROOT / "prepare.py").read_bytes())
        os.environ |= {"AUTORESEARCH_TIME_BUDGET": f"{window:g}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.base = base_source()
        (self.place / "train.py").write_bytes(self.base)
        os.chdir(self.place)
        sys.path.insert(0, str(self.place))
        self.brief = read(Path("program.md"), self.place)
        knobs = find(self.base, "train.py")
        keys = {knob.key for knob in knobs}
        self.knobs = {knob.key: knob for knob in knobs}
        self.useful = [knob for knob in knobs if knob.tier == 0 and f"{knob.key}#2" not in keys]  # the first of two is the GPU's
        self.runs: list[Recorded] = []

    # -- one training --------------------------------------------------------------------------------------------

    def train(self, kind: str, changes: Mapping[str, Any], seed: int, of: int | None = None) -> Recorded:
        import prepare
        from autoresearch_action.agents.literals import swap

        source = swap(self.base, {self.knobs[key]: value for key, value in changes.items()})
        comparable = all(self.knobs[key].comparable for key in changes)
        run = Recorded(len(self.runs), kind, dict(changes), comparable, seed, of=of)
        (self.place / "train.py").write_bytes(source)
        (self.place / "model.pt2").unlink(missing_ok=True)
        os.environ["AUTORESEARCH_SEED"] = str(seed)
        status, text, run.cpu = self._fork()
        run.curve = [(round(float(share) / 100 * self.window, 3), round(float(loss), 4)) for share, loss in _points(text)]
        if status == 0:
            begin = time.process_time()
            try:
                run.bpb = round(prepare.evaluate(Path("model.pt2"))[0], 6)
            except Exception as problem:
                print(f"  not scored: {problem}", flush=True)
            run.scored = round(time.process_time() - begin, 3)
        self.runs.append(run)
        told = ", ".join(f"{key.split(':')[1]} {self.knobs[key].value} → {value}" for key, value in changes.items()) or "as it is"
        print(f"{run.id:4d} {kind:8} {run.bpb or float('nan'):.4f}  {told}", flush=True)
        return run

    def _fork(self) -> tuple[int, str, float]:
        """Run train.py in a fork of this process: (exit status, what it printed, processor seconds)."""
        out = self.place / "out"
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            signal.alarm(LONGEST)
            handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            code = 1
            try:
                sys.argv = ["train.py"]
                runpy.run_path("train.py", run_name="__main__")
            except SystemExit as leaving:
                code = 0 if leaving.code in (None, 0) else 1
            except BaseException as problem:
                print(f"{type(problem).__name__}: {problem}")
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status, usage = os.wait4(pid, 0)
        return status, out.read_text(errors="replace"), round(usage.ru_utime + usage.ru_stime, 3)

    def cold(self, count: int = 5) -> list[tuple[float, float]]:
        """(processor seconds before the first step's line, after the last one) of plain `python train.py`."""
        found = []
        (self.place / "train.py").write_bytes(self.base)
        for seed in range(count):
            env = os.environ | {"AUTORESEARCH_SEED": str(seed), "PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen([sys.executable, "train.py"], env=env, stdout=subprocess.PIPE, text=True)
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

    # -- which variants ------------------------------------------------------------------------------------------

    def plan(self, each: int, wide: int, repeats: int) -> None:
        from autoresearch_action.agents.optuna import OptunaAgent

        agent = OptunaAgent(self.brief, seed=1)
        for number in range(1, each + 1):
            if (number - 1) % 6 == 0:
                self.train("baseline", {}, seed=number)
            if time.monotonic() > self.enough:  # the rest is for the repeats
                break
            self.train("random", self._turn(), seed=1000 + number)
            self.train("optuna", self._propose(agent), seed=2000 + number)
            if number <= wide:
                self.train("wide", self._turn((2, 3, 4), 0.5), seed=4000 + number)
        middle = statistics.fmean(self._values({}))
        for gap in GAPS:
            pool = [run for run in self.runs if run.changes and run.bpb and run.comparable and not self._repeated(run)]
            pool = [run for run in pool if run.bpb and run.bpb > middle]
            if not pool or time.monotonic() > self.until:
                break
            chosen = min(pool, key=lambda run: abs((run.bpb or 0) - middle - gap))
            for index in range(repeats):
                self.train("repeat", chosen.changes, seed=3000 + 10 * chosen.id + index, of=chosen.id)

    def _values(self, changes: Mapping[str, Any]) -> list[float]:
        return [run.bpb for run in self.runs if run.bpb and run.changes == changes]

    def _repeated(self, run: Recorded) -> bool:
        return any(other.kind == "repeat" and other.changes == run.changes for other in self.runs)

    def _turn(self, sizes: Sequence[int] = (1, 1, 2), least: float = 0.0) -> dict[str, Any]:
        """Literals with new values, not tried before; each moved by at least that share of its range, up or down."""
        while True:
            chosen = self.dice.sample(self.useful, self.dice.choice(sizes))
            changes = {k.key: self.dice.choice(k.choices) if k.choices else k.at(self._position(least)) for k in chosen}
            changes = {key: value for key, value in changes.items() if value != self.knobs[key].value}
            if changes and all(run.changes != changes for run in self.runs):
                return changes

    def _position(self, least: float) -> float:
        return self.dice.choice((-1, 1)) * self.dice.uniform(least, 1)

    def _propose(self, agent: Any) -> dict[str, Any]:
        from autoresearch_action.agents import Context

        (self.place / "train.py").write_bytes(self.base)
        history = self._history()
        context = Context(brief=self.brief, tree=self.place, directory=self.place, parent="base", number=len(self.runs),
                          seed=len(self.runs), history=history, noise=_spread(self._values({})))  # fmt: skip
        draft = agent.propose(context)
        return {key: new for key, (_, new) in json.loads(draft.details["changes"]).items()}

    def _history(self) -> Sequence[Any]:
        from autoresearch_action.records import Experiment, Proposal, Verdict

        middle, found = statistics.fmean(self._values({})), []
        for run in self.runs:
            if run.kind != "optuna":
                continue
            changes = {key: [self.knobs[key].value, value] for key, value in run.changes.items()}
            details = {"changes": json.dumps(changes)}
            proposal = Proposal(parent="base", patch="", agent="optuna", description=str(run.id), details=details)
            gain = middle - run.bpb if run.bpb else None
            verdict = Verdict(number=run.id, status="discard" if run.bpb else "crash", reason="", description="", agent="optuna",
                              estimate=gain, runs=1)  # fmt: skip
            found.append(Experiment(number=run.id, proposal=proposal, commit="c", parent="base", verdict=verdict))
        return found

    def save(self, command: str, began: float, load: str, cold: list[tuple[float, float]]) -> None:
        facts = {
            "made": f"{command}, {machine()}; load at the start: {load}",
            "minutes": round((time.time() - began) / 60, 1),
            "window": self.window,
            "base": SMALL_BASE,
            "train.py": hashlib.sha256(self.base).hexdigest()[:16],
            "cold": cold,
        }
        keep = [asdict(run) for run in self.runs]
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(facts | {"runs": keep}, separators=(",", ":"))
        FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _points(text: str) -> list[tuple[str, str]]:
    return [(found[1], found[2]) for line in text.splitlines() if (found := LINE.match(line))]


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def record(window: float, each: int, wide: int, repeats: int, seed: int, minutes: float, command: str) -> None:
    """Make the curves and write FILE. Takes `minutes` at most, give or take one training."""
    began, load = time.time(), machine()
    print(load, flush=True)
    prepared()
    recorder = Recorder(window, seed, minutes)
    cold = recorder.cold()
    print(f"a cold start takes {statistics.fmean(first for first, _ in cold):.2f} s to the first step", flush=True)
    try:
        recorder.plan(each, wide, repeats)
    finally:
        recorder.save(command, began, load, cold)
    print(f"{len(recorder.runs)} runs in {(time.time() - began) / 60:.1f} min, {FILE.stat().st_size / 1000:.0f} kB in {FILE}")
