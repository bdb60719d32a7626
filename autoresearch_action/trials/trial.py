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
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from autoresearch_action.acceptance.early_stop import Watch
from autoresearch_action.isolation import Job, device, sandbox
from autoresearch_action.isolation.log import Log
from autoresearch_action.isolation.process import Ended, Limits, Process
from autoresearch_action.records import Measurement, Outcome, Trial
from autoresearch_action.trials import FLAKY, metric_files, profile
from autoresearch_action.trials.compiled import LIMIT as COMPILE_LIMIT
from autoresearch_action.trials.failed import failing
from autoresearch_action.trials.hand_over import TooMuch, hand_over, left_behind
from autoresearch_action.trials.metrics import NoMetric, Printed
from autoresearch_action.trials.slot import SlotContext
from autoresearch_action.trials.variables import PASSED, cores, passed, variables
from autoresearch_action.workspace import rewrite
from autoresearch_action.workspace.patch import editable

# Seconds, where neither the brief nor a baseline says
FIRST_LIMIT = 6 * 3600.0
# Seconds that a first run may take beside its window: compilation, loading
START_UP = 600.0
# Characters of the log that a failure carries
TAIL = 2_000


# Begins a line of a scorer that fails because of what no honest candidate does
SUSPICIOUS = "SUSPICIOUS:"
# Signals of a process that touched what it must not, or gave itself up
FAULTS = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS,
}  # fmt: skip


class Failure(Exception):
    """The trial ends here with this outcome and sentence."""

    def __init__(
        self, outcome: Outcome, reason: str, tail: str = "", suspicious: bool = False
    ) -> None:
        super().__init__(reason)
        self.outcome, self.tail, self.suspicious = outcome, tail, suspicious


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
        self.value: float | None = None
        self.failure: Failure | None = None
        self.started, self.seconds, self.clock = time.time(), 0.0, 0.0
        self.peak = 0
        self.stopped = ""
        # What a profile printed
        self.profile = ""
        # By the scoring of the trial before it
        self.disturbed = False

    def measure(self) -> Measurement:
        """Run the phases and say what they gave. Never raises for what a candidate can do."""
        begin = time.monotonic()
        try:
            self.value = self._measured()
        except Failure as failure:
            self.failure = failure
        finally:
            self.log.close()
        if self.bench.cancelled.is_set():
            self.failure = Failure("lost", "cancelled")
        self.seconds = time.monotonic() - begin
        return self.result()

    def result(self, notes: Sequence[str] = (), spoilt: float = 0.0) -> Measurement:
        """All that is known of it. `notes`, `spoilt`: what is to be said of attempts before it."""
        bench, failure, scrub = self.bench, self.failure, self.bench.scrub
        return Measurement(
            trial=self.trial,
            outcome=failure.outcome if failure else "ok",
            reason=scrub(str(failure)) if failure else "",
            suspicious=bool(failure and failure.suspicious),
            value=None if failure else self.value,
            metrics=self._metrics(scored=not failure),
            blocks=self.printed["evaluate"].blocks,
            self_reported=self.brief.evaluate is None,
            curve=self.printed["run"].curve,
            started=self.started,
            seconds=self.seconds,
            spoilt=spoilt,
            clock=self.clock,
            pace=1.0 if bench.slot.gpu else float(cores(bench.slot)),
            phases=self.phases,
            slot=bench.slot.name,
            sandbox=bench.isolation.strength,
            log=str(self.log.path.relative_to(bench.state)),
            tail=scrub(failure.tail) if failure else self.profile,
            hashes=self._hashes(),
            notes=[*self.notes, *notes],
        )

    def _measured(self) -> float | None:
        """The metric; None of a profile. Raises Failure."""
        with self.bench.turns.training(self.bench.cancelled.is_set) as beside:
            if not beside:
                device.await_free(self.bench.slot, self.bench.cancelled.is_set)
            if self.trial.stage == "profile":
                self._profile()
                return None
            self._check()
            self._train()
        if self.brief.evaluate:
            with self.bench.turns.scoring(shown=bool(self.printed["run"].curve)):
                self._score(self.brief.evaluate)
        return self._value()

    def _profile(self) -> None:
        if wanted := profile.command(self.brief):
            self._fresh(self.bench.tree)
            ended = self._phase("run", wanted, self.bench.tree)
            self.profile = self.bench.scrub(_text(ended.tail, profile.MOST))
            self._judge_run(ended)

    def _check(self) -> None:
        """Once a tree. One that fails is run again: a test that fails now and then is no fault of
        the candidate's, and said.
        """
        if not self.brief.check or self.trial.checked:
            return
        self._checkout(self.bench.tree)
        ended = self._phase("check", self.brief.check, self.bench.tree)
        if ended.reason or not ended.code:
            again = ended
        else:
            self._checkout(self.bench.tree)
            again = self._phase("check", self.brief.check, self.bench.tree)
        if again.code or again.reason:
            said = again.reason or f"The check failed (exit {again.code}): {_failed(again.tail)}"
            raise Failure("discard", said, _text(again.tail))
        if ended.code:
            what = _failed(ended.tail)
            self.notes.append(f"{FLAKY}: {what}")

    def _train(self) -> None:
        if run := self._run:
            cache = self._compiled(run, self.bench.tree)
            self._fresh(self.bench.tree)
            ended = self._phase("run", run, self.bench.tree, cache=cache)
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
        source, target = self.bench.tree, self.bench.scoring
        self._fresh(target)
        handed, left = self._handed(source, target) if self._run else ([], "")
        ended = self._phase("evaluate", command, target, handed)
        self.peak = max(self.peak, ended.peak)
        if odd := suspicion(ended):
            raise Failure("crash", f"Suspicious: {odd}", _text(ended.tail), suspicious=True)
        if ended.code or ended.reason:
            said = ended.reason or f"The scorer failed (exit {ended.code}): {_last(ended.tail)}"
            raise Failure("crash", f"{said} {left}".rstrip(), _text(ended.tail))

    def _handed(self, source: Path, target: Path) -> tuple[list[str], str]:
        """What is handed to the scorer, and what of `run`'s files is not, in a sentence or "".
        Raises Failure.
        """
        brief, prefix = self.brief, self.bench.workspace.prefix
        try:
            # A file that holds the metric is the scorer's alone to write
            handed = hand_over(source, target, prefix, brief.hand_over, but=brief.metric_file)
        except TooMuch as error:
            raise Failure("crash", str(error)) from None
        if not (left := left_behind(source, target, prefix)):
            return handed, ""
        what = f"{left[0]}{f' and {len(left) - 1} more' if len(left) > 1 else ''}"
        said = (
            f"`run` left {what}, not handed over: name data in `hand-over`, make programs in"
            " `evaluate`."
        )
        self.log.write(f"[{said}]\n".encode())
        return handed, said

    # -- phases --

    def _checkout(self, tree: Path) -> None:
        begin = time.monotonic()
        bench = self.bench
        bench.workspace.checkout(tree, self.trial.commit, sealed=bench.isolation.relocates)
        bench.isolation.prepare(tree / bench.workspace.prefix)
        self.phases["checkout"] = self.phases.get("checkout", 0.0) + time.monotonic() - begin

    def _fresh(self, tree: Path) -> None:
        """A checkout with this trial's own seed and scale in it: literal seeds, and the literals of
        a transfer, in this copy only.
        """
        self._checkout(tree)
        transfer = self.brief.transfer if self.trial.scale == "transfer" else None
        if not self.trial.reseed and not transfer:
            return
        chosen = self._sources(tree)
        missing = rewrite.set_literals(chosen, transfer.set) if transfer else []
        if missing:
            raise Failure(
                "crash",
                f"`transfer` sets {missing[0]}, which no editable file has as a module-level"
                " literal.",
            )
        for file in chosen if self.trial.reseed else ():
            source, lines = rewrite.reseed(file.read_bytes(), self.trial.seed % 2**31)
            if lines:
                file.write_bytes(source)
                name = file.relative_to(tree / self.bench.workspace.prefix)
                note = f"reseeded {name}:{','.join(map(str, lines))}"
                self.notes += [note] if note not in self.notes else []

    def _sources(self, tree: Path) -> list[Path]:
        """Files that may be rewritten: the editable ones, and the scripts that `run` names."""
        prefix = self.bench.workspace.prefix
        directory = tree / prefix
        names = [
            path.relative_to(tree).as_posix()
            for path in directory.rglob("*.py")
            if path.is_file() and not path.is_symlink()
        ]
        scripts = {word for word in (self.brief.run or "").split() if word.endswith(".py")}
        chosen = [tree / name for name in editable(names, prefix, self.brief)]
        chosen += [directory / name for name in scripts if (directory / name).is_file()]
        return list(dict.fromkeys(chosen))

    def _compiled(self, run: str, tree: Path) -> Path | None:
        """The compilers' caches for this trial, filled by an untimed pass where this is the tree's
        first; None without any.
        """
        decoy, bench = self.brief.decoy, self.bench
        if decoy is None or not decoy.is_dir() or not bench.isolation.relocates:
            return None
        caches = bench.caches
        name = f"{bench.workspace.tree(self.trial.commit)}-{self.trial.scale}"
        if not caches.known(name):
            self._fresh(tree)
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
        handed: Sequence[str] = (),
        cache: Path | None = None,
    ) -> Ended:
        if self.bench.cancelled.is_set():
            raise Failure("lost", "cancelled")
        if cache:
            self.bench.isolation.prepare(cache, whole=True)
        job = self._job(name, command, tree, handed, cache)
        file = self.brief.metric_file if name == self._scoring else None
        if file and any(self._place.glob(file)):
            raise Failure("crash", f"{file} is there before `{name}` writes it: commit it no more.")
        self.log.write(f"--- {name}: {command}\n".encode())
        process = sandbox.start(self.bench.isolation, job, self._limits(name), self.log)
        self.bench.running = process
        if self.bench.cancelled.is_set():
            process.kill("cancelled")
        try:
            ended = process.wait(lambda line: self._line(name, line, process))
        finally:
            self.bench.running = None
        self.printed[name].end()
        self.phases[name] = self.phases.get(name, 0.0) + ended.seconds
        if ended.reason:
            self.log.write(f"\n[{ended.reason}]\n".encode())
        return ended

    def _job(
        self, name: str, command: str, tree: Path, handed: Sequence[str], cache: Path | None
    ) -> Job:
        """What a phase's command sees. The scorer sees the evaluation data; the pass that compiles
        sees the decoy in place of the data.
        """
        bench, brief, scoring = self.bench, self.brief, name == "evaluate"
        checkpoint = [bench.checkpoint] if bench.checkpoint else []
        made = [bench.workspace.setup_folder] if bench.workspace.setup_folder.exists() else []
        data, decoys = brief.data, {}
        if name == "compile" and brief.decoy:
            data, decoys = brief.data[:1], {brief.data[0]: brief.decoy}
        return Job(
            command=command,
            tree=tree,
            mount_at=bench.workspace.root,
            directory=Path(bench.workspace.prefix),
            alias=bench.workspace.setup_tree if made else None,
            env=variables(name, brief, self.trial, bench.slot, bench.checkpoint, bool(cache)),
            readonly=bench.workspace.readonly(self.trial.commit, tree)
            | {name: tree / name for name in handed},
            data=(
                *data,
                *checkpoint,
                *(() if bench.isolation.relocates else made),
                *(brief.evaluate_data if scoring else ()),
            ),
            decoys=decoys,
            cache=cache,
            hidden=() if scoring else (*brief.evaluate_data, *_in_the_open(brief.evaluate_data)),
            network=brief.network,
            gpu=bench.slot.gpu,
            cores=bench.slot.cores,
        )

    def _limits(self, phase: str) -> Limits:
        brief, seconds = self.brief, FIRST_LIMIT
        if phase == "compile":
            seconds = COMPILE_LIMIT
        elif phase == "run":
            timed = 2 * brief.time_budget + START_UP if brief.fixed_time else FIRST_LIMIT
            seconds = brief.timeout or timed
        seconds = self.trial.limits.get(phase, seconds)
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
            self.stopped = (
                f"Stopped after {clock:.0f} s: its loss of {loss:.3f} trails the incumbent's by"
                " more"
                " than it would make up."
            )
            process.kill(self.stopped)

    # -- judging --

    def _judge_run(self, ended: Ended) -> None:
        tail = _text(ended.tail)
        if self.stopped:
            raise Failure("stopped", self.stopped)
        allowed = self.trial.clock_limit
        if allowed and self.clock > allowed:
            unit = "s" if self.bench.slot.gpu else "s of processor time"
            raise Failure(
                "discard",
                f"It took {self.clock:.1f} {unit} where {allowed:.1f} are allowed: equal time for"
                " all.",
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
        given = dict.fromkeys((*PASSED, *self.brief.env), "") | passed(self.brief)
        hashes["environment"] = device.fingerprint(self.bench.slot, given)
        return hashes | ({"data": workspace.setup_hash} if workspace.setup_hash else {})


def _in_the_open(folders: Sequence[Path]) -> Iterator[Path]:
    """What `hidden.txt` in a folder of evaluation data names: where on this machine the same text
    lies in the open.
    """
    for folder in folders:
        try:
            lines = (folder / "hidden.txt").read_text("utf-8", "surrogateescape").split("\n")
        except OSError:
            continue
        yield from (Path(line) for line in lines if line.startswith("/"))


def suspicion(ended: Ended) -> str:
    """What the scorer's end has in it that no honest candidate causes, in a sentence; or "".

    A scorer that fails may say so itself, in a line that begins with SUSPICIOUS.
    """
    if not ended.code or ended.reason:
        return ""
    for line in _text(ended.tail).splitlines():
        if line.startswith(SUSPICIOUS):
            return line.removeprefix(SUSPICIOUS).strip()
    # Of a shell's words for a child that died of a signal, and of the process's own
    number = -ended.code if ended.code < 0 else ended.code - 128
    if number in FAULTS:
        return f"the scorer died ({signal.Signals(number).name})."
    return ""


def _text(tail: bytes, most: int = TAIL) -> str:
    return tail.decode("utf-8", "replace")[-most:]


def _failed(tail: bytes) -> str:
    told = failing(tail.decode("utf-8", "replace"))
    return told if told.endswith((".", "!", "?")) else f"{told}."


def _last(tail: bytes) -> str:
    """The last line that says something, as a sentence's end."""
    lines = [line.strip() for line in tail.decode("utf-8", "replace").splitlines() if line.strip()]
    told = lines[-1][:300] if lines else "it printed nothing"
    return told if told.endswith((".", "!", "?")) else f"{told}."
