"""One trial: check, run and evaluate one commit once, each in its own sandbox from a clean
checkout.

Gives a Measurement whatever happens: a crash carries its reason and the log's tail. Equal time is
judged from outside: on processor slots by the CPU time of the whole process tree, on GPU slots by
the wall clock.

Where the brief has a `decoy`, a tree's first trial begins with an untimed pass that compiles it
(compiled.py). Where there is `evaluate`, it alone is told the split and the slice: `check` and
`run` always see `val` and 0, so that a candidate cannot behave otherwise where it is confirmed.
"""

from __future__ import annotations

import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from autoresearch_action.acceptance.early_stop import Watch
from autoresearch_action.brief import Brief
from autoresearch_action.isolation import device
from autoresearch_action.isolation.device import Slot
from autoresearch_action.isolation.process import Ended, Limits, Log, Process
from autoresearch_action.isolation.sandbox import Job, Sandbox
from autoresearch_action.records import Measurement, Outcome, Trial
from autoresearch_action.trials import metric_files
from autoresearch_action.trials.compiled import BUDGET, ENVIRONMENT, INSIDE, Compiled
from autoresearch_action.trials.compiled import LIMIT as COMPILE_LIMIT
from autoresearch_action.trials.metrics import NoMetric, Printed
from autoresearch_action.trials.overlap import Turns
from autoresearch_action.workspace import rewrite
from autoresearch_action.workspace.patch import editable
from autoresearch_action.workspace.trees import Workspace

PASSED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH",
    "ROCM_PATH", "PYTHONPATH", "AUTORESEARCH_DATA", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "CC", "CXX",
)  # fmt: skip
# From `run` to `evaluate` goes data: nothing that can be imported, run or compiled, and nothing
# that a tool takes for its settings by its name alone. In any letter case, and wherever in a name
# the suffix stands.
NEVER_HANDED = {
    ".py", ".pyi", ".pyc", ".pyo", ".pyd", ".pyx", ".pyz", ".pth", ".egg", ".whl", ".so", ".dll", ".dylib", ".o", ".a", ".exe",
    ".com", ".bat", ".cmd", ".ps1", ".sh", ".bash", ".zsh", ".fish", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx",
    ".node", ".wasm", ".rb", ".pl", ".pm", ".php", ".lua", ".r", ".jl", ".jar", ".class", ".war", ".go", ".rs", ".c", ".cc", ".cpp",
    ".cxx", ".h", ".hpp", ".cu", ".cuh", ".awk", ".tcl", ".zip", ".ini", ".cfg", ".conf", ".config", ".toml", ".lock", ".mk",
    ".cmake", ".gradle", ".properties",
}  # fmt: skip
NEVER_NAMED = {
    "makefile", "gnumakefile", "justfile", "rakefile", "gemfile", "dockerfile", "procfile", "cmakelists.txt", "meson.build", "go.mod",
    "go.sum", "go.work", "package.json", "package-lock.json", "npm-shrinkwrap.json", "pnpm-workspace.yaml", "tsconfig.json",
    "jsconfig.json", "deno.json", "deno.jsonc", "composer.json", "requirements.txt", "constraints.txt", "environment.yml",
    "environment.yaml", "matplotlibrc", "__pycache__",
}  # fmt: skip
HANDED_BYTES, HANDED_FILES = 16 << 30, 10_000
# Files or folders that are made read-only one by one: bubblewrap takes 9,000 words
MOUNTS = 2_000
# Seconds, where neither the brief nor a baseline says
FIRST_LIMIT = 6 * 3600.0
# Seconds that a first run may take beside its window: compilation, loading
START_UP = 600.0
# Characters of the log that a failure carries
TAIL = 2_000


@dataclass
class SlotContext:
    """What a trial is measured with: shared by all trials of a lane of a slot, one at a time."""

    brief: Brief
    workspace: Workspace
    sandbox: Sandbox
    slot: Slot
    state: Path
    checkpoint: Path | None = None
    scrub: Callable[[str], str] = str
    # Its slot's
    turns: Turns = field(default_factory=Turns)
    # A slot has two where a trial may start while another is scored
    lane: str = ""
    # Its card is throttled whenever it is used
    slow: bool = False
    running: Process | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()
        # Another thread's
        if running := self.running:
            running.kill("cancelled")

    @property
    def tree(self) -> Path:
        return self.state / "slots" / (self.slot.name.replace(":", "-") + self.lane)

    @property
    def caches(self) -> Compiled:
        """Of the slot, whose lanes compile by turns."""
        whole = self.tree.name.removesuffix(self.lane)
        return Compiled(
            self.tree.with_name(f"{whole}.compiled"),
            self.tree.with_name(f"{self.tree.name}.caches"),
        )

    @property
    def scoring(self) -> Path:
        return self.tree.with_name(f"{self.tree.name}.score")


class Failure(Exception):
    """The trial ends here with this outcome and sentence."""

    def __init__(self, outcome: Outcome, reason: str, tail: str = "") -> None:
        super().__init__(reason)
        self.outcome, self.tail = outcome, tail


class TrialRun:
    """One trial on its way through the phases."""

    def __init__(self, bench: SlotContext, trial: Trial) -> None:
        self.bench, self.trial, self.brief = bench, trial, bench.brief
        name = f"{trial.purpose}-{trial.index:05d}.log" if trial.index else "run.log"
        self.log = Log(bench.state / "trials" / f"{trial.number:04d}" / name, bench.scrub)
        self.phases: dict[str, float] = {}
        self.notes: list[str] = []
        wanted = (self.brief.metric, *self.brief.limits)
        self.printed = {
            name: Printed(wanted, strict=name == "evaluate")
            for name in ("check", "compile", "run", "evaluate")
        }
        self.watch = Watch(trial.stop) if trial.stop else None
        self.clock = 0.0
        self.peak = 0
        self.stopped = ""
        # By the scoring of the trial before it
        self.disturbed = False

    def measure(self) -> Measurement:
        """Run the phases. Never raises for what a candidate can do."""
        started, begin = time.time(), time.monotonic()
        facts: dict[str, object] = {}
        try:
            facts = self._measured()
        except Failure as failure:
            facts = {
                "outcome": failure.outcome,
                "reason": self.bench.scrub(str(failure)),
                "tail": self.bench.scrub(failure.tail),
            }
        finally:
            self.log.close()
        if self.bench.cancelled.is_set():
            facts = {"outcome": "lost", "reason": "cancelled"}
        return Measurement.model_validate(
            {
                "trial": self.trial,
                "metrics": self._metrics(facts["outcome"] == "ok"),
                "blocks": self.printed["evaluate"].blocks,
                "self_reported": self.brief.evaluate is None,
                "curve": self.printed["run"].curve,
                "started": started,
                "seconds": time.monotonic() - begin,
                "clock": self.clock,
                "pace": 1.0 if self.bench.slot.gpu else float(len(self._cores)),
                "phases": self.phases,
                "slot": self.bench.slot.name,
                "sandbox": self.bench.sandbox.level,
                "log": str(self.log.path.relative_to(self.bench.state)),
                "hashes": self._hashes(),
                "notes": self.notes,
            }
            | facts
        )

    def _measured(self) -> dict[str, object]:
        with self.bench.turns.training(self.bench.cancelled.is_set) as beside:
            if not beside:
                device.await_free(self.bench.slot, self.bench.cancelled.is_set)
            self._train()
        if self.brief.evaluate:
            with self.bench.turns.scoring(shown=bool(self.printed["run"].curve)):
                self._score(self.brief.evaluate)
        return {"outcome": "ok", "value": self._value()}

    def _train(self) -> None:
        brief, tree = self.brief, self.bench.tree
        if brief.check:
            self._checkout(tree)
            ended = self._phase("check", brief.check, tree)
            if ended.code or ended.reason:
                raise Failure(
                    "discard",
                    ended.reason or f"The check failed (exit {ended.code}).",
                    _text(ended.tail),
                )
        if run := self._run:
            cache = self._compiled(run, tree)
            self._checkout(tree)
            self._rewrite(tree)
            ended = self._phase("run", run, tree, cache=cache)
            self.peak = ended.peak
            self.clock = ended.seconds if self.bench.slot.gpu else ended.cpu
            self._judge_run(ended)

    @property
    def _run(self) -> str | None:
        brief = self.brief
        return (
            brief.transfer.run
            if self.trial.scale == "transfer" and brief.transfer and brief.transfer.run
            else brief.run
        )

    def _score(self, command: str) -> None:
        self._checkout(self.bench.scoring)
        self._rewrite(self.bench.scoring)
        handed = self._hand_over(self.bench.tree, self.bench.scoring) if self._run else []
        ended = self._phase("evaluate", command, self.bench.scoring, handed)
        self.peak = max(self.peak, ended.peak)
        if ended.code or ended.reason:
            raise Failure(
                "crash",
                ended.reason or f"The scorer failed (exit {ended.code}): {_last(ended.tail)}",
                _text(ended.tail),
            )

    # -- phases
    # --------------------------------------------------------------------------------------------------

    def _checkout(self, tree: Path) -> None:
        begin = time.monotonic()
        self.bench.workspace.checkout(
            tree, self.trial.commit, sealed=self.bench.sandbox.level == "full"
        )
        self.bench.sandbox.own(tree, Path(self.bench.workspace.prefix))
        self.phases["checkout"] = self.phases.get("checkout", 0.0) + time.monotonic() - begin

    def _rewrite(self, tree: Path) -> None:
        """Literal seeds and the literals of a transfer, in this copy only."""
        if not self.trial.reseed and not (self.trial.scale == "transfer" and self.brief.transfer):
            return
        directory = tree / self.bench.workspace.prefix
        scripts = {word for word in (self.brief.run or "").split() if word.endswith(".py")}
        names = [
            p.relative_to(tree).as_posix()
            for p in directory.rglob("*.py")
            if p.is_file() and not p.is_symlink()
        ]
        chosen = [tree / name for name in editable(names, self.bench.workspace.prefix, self.brief)]
        chosen += [
            directory / name
            for name in scripts
            if (directory / name).is_file() and directory / name not in chosen
        ]
        if self.trial.scale == "transfer" and self.brief.transfer and self.brief.transfer.set:
            missing = rewrite.set_literals(chosen, self.brief.transfer.set)
            if missing:
                raise Failure(
                    "crash",
                    f"`transfer` sets {missing[0]}, which no editable file has as a module-level literal.",
                )
        for file in chosen if self.trial.reseed else ():
            source, lines = rewrite.reseed(file.read_bytes(), self.trial.seed % 2**31)
            if lines:
                file.write_bytes(source)
                note = f"reseeded {file.relative_to(directory)}:{','.join(map(str, lines))}"
                self.notes += [note] if note not in self.notes else []

    def _compiled(self, run: str, tree: Path) -> Path | None:
        """The compilers' caches for this trial, filled by an untimed pass where this is the tree's
        first; None without any.
        """
        decoy, bench = self.brief.decoy, self.bench
        if decoy is None or not decoy.is_dir() or bench.sandbox.level != "full":
            return None
        caches = bench.caches
        name = f"{bench.workspace.tree(self.trial.commit)}-{self.trial.scale}"
        if not caches.known(name):
            self._checkout(tree)
            self._rewrite(tree)
            ended = self._phase("compile", run, tree, cache=caches.empty())
            if ended.reason:
                raise Failure(
                    "crash", f"In the untimed pass that compiles: {ended.reason}", _text(ended.tail)
                )
            if ended.code:
                self.notes.append(f"the untimed pass that compiles failed (exit {ended.code})")
            caches.keep(name, usable=not ended.code)
        return caches.copied(name)

    def _phase(
        self,
        name: str,
        command: str,
        tree: Path,
        handed: list[str] | None = None,
        cache: Path | None = None,
    ) -> Ended:
        if self.bench.cancelled.is_set():
            raise Failure("lost", "cancelled")
        workspace, brief = self.bench.workspace, self.brief
        scoring = name == "evaluate"
        checkpoint = [self.bench.checkpoint] if self.bench.checkpoint else []
        data, decoys = brief.data, {}
        if name == "compile" and brief.decoy:
            data, decoys = brief.data[:1], {brief.data[0]: brief.decoy}
        if cache:
            self.bench.sandbox.own_all(cache)
        job = Job(
            command=command,
            tree=tree,
            mount_at=workspace.root,
            directory=Path(workspace.prefix),
            env=self._environment(name, bool(cache)),
            readonly=(*workspace.frozen_entries(self.trial.commit), *(handed or ())),
            data=(*data, *checkpoint, *(brief.evaluate_data if scoring else ())),
            decoys=decoys,
            cache=cache,
            hidden=() if scoring else (*brief.evaluate_data, *_sources(brief.evaluate_data)),
            network=brief.network,
            gpu=self.bench.slot.gpu,
            cores=self.bench.slot.cores,
        )
        file = brief.metric_file if name == self._scoring else None
        if file and any(self._place.glob(file)):
            raise Failure("crash", f"{file} is there before `{name}` writes it: commit it no more.")
        self.log.write(f"--- {name}: {command}\n".encode())
        process = self.bench.sandbox.start(job, self._limits(name), self.log)
        self.bench.running = process
        if self.bench.cancelled.is_set():
            process.kill("cancelled")
        try:
            ended = process.wait(lambda line: self._line(name, line, process))
        finally:
            self.bench.running = None
        self.printed[name].end()
        self.phases[name] = ended.seconds
        if ended.reason:
            self.log.write(f"\n[{ended.reason}]\n".encode())
        return ended

    @property
    def _cores(self) -> Sequence[int]:
        return self.bench.slot.cores or range(os.cpu_count() or 1)

    def _environment(self, phase: str, cached: bool) -> dict[str, str]:
        trial = self.trial
        # On what it is measured
        told = phase == "evaluate" or (phase != "compile" and not self.brief.evaluate)
        budget = trial.time_budget if trial.time_budget is not None else self.brief.time_budget
        budget = min(budget, BUDGET) if phase == "compile" else budget
        passed = {
            name: os.environ[name] for name in (*PASSED, *self.brief.env) if name in os.environ
        }
        # It would overrule LC_NUMERIC: of a locale only the letters are wanted
        if "LC_ALL" in passed and "LC_ALL" not in self.brief.env:
            passed["LC_CTYPE"] = passed.pop("LC_ALL")
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(len(self._cores))
        )
        return passed | threads | {
            "LC_NUMERIC": "C",
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "0",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "CUDA_VISIBLE_DEVICES": device.card(self.bench.slot.gpu)[0] if self.bench.slot.gpu else "",
            "AUTORESEARCH_SEED": str(trial.seed),
            "AUTORESEARCH_TIME_BUDGET": f"{budget:g}",
            "AUTORESEARCH_SPLIT": trial.split if told else "val",
            "AUTORESEARCH_HOLDOUT_SLICE": str(trial.slice if told else 0),
        } | ({"AUTORESEARCH_CHECKPOINT": str(self.bench.checkpoint)} if self.bench.checkpoint else {}) \
          | ({name: str(INSIDE / folder) for name, folder in ENVIRONMENT.items()} if cached else {})  # fmt: skip

    def _limits(self, phase: str) -> Limits:
        seconds = self.trial.limits.get(phase)
        if seconds is None:
            timed = 2 * self.brief.time_budget + START_UP if self.brief.fixed_time else FIRST_LIMIT
            seconds = (
                (self.brief.timeout or timed)
                if phase == "run"
                else COMPILE_LIMIT
                if phase == "compile"
                else FIRST_LIMIT
            )
        cpu = math.inf
        if phase == "run" and self.trial.clock_limit:
            if self.bench.slot.gpu:
                seconds = min(seconds, self.trial.clock_limit + 1.0)
            else:
                cpu = self.trial.clock_limit + 1.0
        return Limits(seconds=seconds, cpu_seconds=cpu, memory=self.bench.slot.memory)

    def _line(self, phase: str, line: str, process: Process) -> None:
        printed = self.printed[phase]
        printed.feed(line)
        loss = printed.progress(line) if phase == "run" else None
        if loss is None:
            return
        clock = process.seconds if self.bench.slot.gpu else process.clock()
        printed.point(clock, loss)
        if len(printed.curve) == 1:
            self.disturbed = self.bench.turns.disturbed()
        if self.watch and self.watch.feed(clock, loss):
            self.stopped = f"Stopped after {clock:.0f} s: its loss of {loss:.3f} trails the incumbent's by more than it would make up."
            process.kill(self.stopped)

    # -- judging
    # -------------------------------------------------------------------------------------------------

    def _judge_run(self, ended: Ended) -> None:
        tail = _text(ended.tail)
        if self.stopped:
            raise Failure("stopped", self.stopped)
        allowed = self.trial.clock_limit
        if allowed and self.clock > allowed:
            unit = "s" if self.bench.slot.gpu else "s of processor time"
            raise Failure(
                "discard",
                f"It took {self.clock:.1f} {unit} where {allowed:.1f} are allowed: equal time for all.",
                tail,
            )
        if ended.reason:
            raise Failure("crash", ended.reason, tail)
        if ended.code:
            raise Failure(
                "crash", f"It ended with exit code {ended.code}: {_last(ended.tail)}", tail
            )

    def _value(self) -> float:
        name, phase = self.brief.metric, self._scoring
        printed = self.printed[phase]
        try:
            if file := self.brief.metric_file:
                metric_files.read(printed, self._place, file, self.brief.metric_path)
            value = printed.metric(phase)
        except NoMetric as why:
            raise Failure("crash", str(why), _text(bytes(self.log.tail))) from None
        if not math.isfinite(value):
            raise Failure("crash", f"{name} is {value}, not a finite number.")
        return value

    @property
    def _scoring(self) -> str:
        return "evaluate" if self.brief.evaluate else "run"

    @property
    def _place(self) -> Path:
        """The working directory of what scores."""
        tree = self.bench.scoring if self.brief.evaluate else self.bench.tree
        return tree / self.bench.workspace.prefix

    def _metrics(self, scored: bool) -> dict[str, float]:
        merged = self.printed["run"].values | self.printed["evaluate"].values
        if not scored:
            # The candidate's own word is no score
            merged.pop(self.brief.metric, None)
        if self.peak:
            merged["peak_rss_mb"] = round(self.peak / 2**20, 1)
        return merged

    def _hashes(self) -> dict[str, str]:
        workspace = self.bench.workspace
        hashes = {
            "tree": workspace.tree(self.trial.commit),
            "frozen": workspace.frozen(self.trial.commit),
        }
        passed = {name: os.environ.get(name, "") for name in (*PASSED, *self.brief.env)}
        hashes["environment"] = device.fingerprint(self.bench.slot, passed)
        return hashes | ({"data": workspace.setup_hash} if workspace.setup_hash else {})

    # -- from run to evaluate
    # ------------------------------------------------------------------------------------

    def _hand_over(self, source: Path, target: Path) -> list[str]:
        """Move the new files of `run` into the scorer's checkout. Returns what is to be read-only
        there: files, and the topmost of new folders for all that is in them.
        """
        handed: dict[str, None] = {}
        # By folder: the topmost one above it, or itself, that `run` made
        fresh: dict[Path, Path | None] = {}
        total = count = 0
        for folder, names, files in os.walk(
            source / self.bench.workspace.prefix, followlinks=False
        ):
            here = Path(folder).relative_to(source)
            fresh[here] = fresh.get(here.parent) or (
                None if os.path.lexists(target / here) else here
            )
            names[:] = [
                name for name in names if _data(name) and not (Path(folder) / name).is_symlink()
            ]
            for name in sorted(filter(_data, files)):
                path, place = Path(folder) / name, target / here / name
                facts = path.lstat()
                # The metric's is the scorer's alone to write
                inside = (here / name).relative_to(self.bench.workspace.prefix)
                if self.brief.metric_file and inside.match(self.brief.metric_file):
                    continue
                if os.path.lexists(place) or not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
                    continue
                if facts.st_mode & 0o111:
                    continue
                total, count = total + facts.st_size, count + 1
                if total > HANDED_BYTES or count > HANDED_FILES:
                    raise Failure(
                        "crash",
                        f"`run` made more than {HANDED_BYTES >> 30} GiB or {HANDED_FILES:,} files to hand over.",
                    )
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(path, place)
                place.chmod(0o644)
                handed[(fresh[here] or here / name).as_posix()] = None
        if len(handed) > MOUNTS:
            raise Failure(
                "crash",
                f"`run` made more than {MOUNTS:,} files beside one another to hand over: make them in a folder.",
            )
        return list(handed)


def _data(name: str) -> bool:
    """Whether a file or folder of this name may be handed over."""
    name = name.lower()
    special = name.startswith((".", "conftest")) or name in NEVER_NAMED
    return not special and NEVER_HANDED.isdisjoint(PurePosixPath(name).suffixes)


def _sources(folders: Sequence[Path]) -> Iterator[Path]:
    """What `hidden.txt` in a folder of evaluation data names: where on this machine the same text
    lies in the open.
    """
    for folder in folders:
        try:
            lines = (folder / "hidden.txt").read_text("utf-8", "surrogateescape").split("\n")
        except OSError:
            continue
        yield from (Path(line) for line in lines if line.startswith("/"))


def _text(tail: bytes) -> str:
    return tail.decode("utf-8", "replace")[-TAIL:]


def _last(tail: bytes) -> str:
    """The last line that says something, as a sentence's end."""
    lines = [line.strip() for line in tail.decode("utf-8", "replace").splitlines() if line.strip()]
    told = lines[-1][:300] if lines else "it printed nothing"
    return told if told.endswith((".", "!", "?")) else f"{told}."
