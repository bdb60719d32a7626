"""One trial with real processes: phases, hand-over, limits, what counts as a metric, what is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import bench
import pytest
import tiny
from test_loop import patience

from autoresearch_action.errors import InputError
from autoresearch_action.isolation import Isolation, Job, proc, process
from autoresearch_action.isolation.fallback import unshares
from autoresearch_action.isolation.process import Limits, Process, Start
from autoresearch_action.isolation.secrets import Secrets
from autoresearch_action.ledger import Ledger
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.research.scheduler import Scheduler
from autoresearch_action.trials import Executor
from autoresearch_action.trials.metrics import Printed
from autoresearch_action.trials.pool import measure
from autoresearch_action.trials.setup import digest, run_setup
from autoresearch_action.trials.slot import SlotContext
from autoresearch_action.workspace import rewrite
from autoresearch_action.workspace.folders import remove

LEVELS = ["full", "reduced", "none", *(["unshared"] if unshares() else [])]
SCORE = 'open("model.txt","w").write("0.5")\n'


@pytest.mark.parametrize("level", LEVELS)
def test_the_base_is_measured_at_every_level_of_isolation(tmp_path: Path, level: str) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"), level)
    one, again, other = bench.base(at, 1), bench.base(at, 1), bench.base(at, 2)
    assert one.outcome == "ok", one.reason + one.tail
    assert one.value == again.value != other.value
    assert (
        one.sandbox == ("reduced" if level == "unshared" else level)
        and one.clock > 0
        and one.phases.keys() == {"checkout", "run", "evaluate"}
    )
    assert (
        len(one.curve) == 10
        and one.metrics["peak_vram_mb"] == 100
        and one.metrics["peak_rss_mb"] > 1
    )
    assert one.hashes["frozen"] == at.workspace.frozen(at.workspace.base)
    held = bench.base(at, 1, stage="confirm")
    assert held.value == pytest.approx((one.value or 0) + 0.001, abs=2e-6)


class Bare:
    """The least that shuts a command in: a backend of one's own."""

    strength, relocates = "bare", False

    def describe(self) -> str:
        return "Sandbox: bare."

    def prepare(self, folder: Path, whole: bool = False) -> None:
        pass

    def command(self, job: Job, limits: Limits) -> Start:
        return Start(["/bin/sh", "-c", job.command], job.env, job.tree / job.directory)


def test_a_new_backend_is_one_class(tmp_path: Path) -> None:
    isolation: Isolation = Bare()
    at = bench.make(tiny.repository(tmp_path / "r"), "none", isolation=isolation)
    measured = bench.base(at)
    assert measured.outcome == "ok", measured.reason + measured.tail
    assert measured.sandbox == "bare"


class Inline:
    """The least that measures: an executor of one's own, one slot, in the caller's thread."""

    slots = ("here",)

    def __init__(self, slot: SlotContext) -> None:
        self.slot = slot

    def submit(self, trial: Trial, slot: str | None = None) -> Future[Measurement]:
        done = Future[Measurement]()
        done.set_result(measure(self.slot, trial))
        return done

    def takes_another(self, slot: str) -> bool:
        return False

    def cancel(self) -> None:
        self.slot.cancel()

    def close(self) -> None:
        self.cancel()


def test_a_new_executor_is_one_class(tmp_path: Path) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"), "none")
    executor: Executor = Inline(at)
    scheduler = Scheduler(executor, Ledger(at.state), str, lambda: None)
    scheduler.start(Trial(number=0, commit=at.workspace.base, seed=1), "here")
    (measured,) = scheduler.wait()
    scheduler.ledger.close()
    assert measured.outcome == "ok", measured.reason + measured.tail


TRICKS = {
    "exit code": (
        "import sys; print('last words'); sys.exit(3)",
        "crash",
        "exit code 3: last words",
    ),
    "a traceback": ("1 / 0", "crash", "ZeroDivisionError"),
    "no metric": ("open('model.txt','w').write('nan')", "crash", "nan, not a finite number"),
    "infinite": ("open('model.txt','w').write('-inf')", "crash", "-inf, not a finite"),
    "nothing handed": ("print('val_bpb: 0.1')", "crash", "scorer failed"),
    "a link handed": (
        "import os; os.symlink('/etc/hostname','model.txt')",
        "crash",
        "scorer failed",
    ),
    "an executable handed": (
        SCORE + "import os; os.chmod('model.txt', 0o755)",
        "crash",
        "`run` left model.txt, not handed over: name data in `hand-over`, make programs in `evaluate`.",
    ),
    "a module handed": (
        SCORE + "open('json.py','w').write('print(\"val_bpb: 0\")')\nopen('os.py','w').write('x')",
        "ok",
        "",
    ),
    "settings of tools handed": (
        SCORE
        + "import os\nfor name in ('pytest.ini', 'setup.cfg', 'Makefile', '.env', '.npmrc', 'x.toml', 'package.json', 'a.js', 'b.jar', 'conftest.txt', 'GO.MOD', 'jest.config.json', 'a.cs', 'b.sbt', 'Directory.Build.props', 'dune', 'rust-toolchain'): open(name, 'w').write('x')\n"
        "os.mkdir('a.dist-info'); open('a.dist-info/entry_points.txt', 'w').write('x')\n"
        "os.mkdir('.github'); open('.github/x.txt', 'w').write('x'); os.mkdir('out'); open('out/tox.ini', 'w').write('x'); open('out/config.json', 'w').write('1')",
        "ok",
        "",
    ),
    "the scorer overwritten": (
        SCORE + "open('score.py','w').write('print(\"val_bpb: 0\")')",
        "crash",
        "Read-only",
    ),
    "ten megabytes in a line": (SCORE + "print('val_bpb: ' + '1' * 10_000_000)", "ok", ""),
}


TRACKED = {"train.py", "score.py", "program.md", ".gitignore"}
DATA = ("w.pt", "w.pt2", "w.npy", "w.npz", "w.safetensors", "w.bin", "w.json", "w.jsonl", "w.txt", "w.csv", "w.parquet", "w.onnx", "w.h5", "w.gguf",
        "step.00012.pt", "epoch=3-step=100.ckpt", "requirements-of-mine.txt", "predictions_test.txt", "W.JSON", "packed.gz")  # fmt: skip
NAMED = ("w", "w.zip", "w.pkl", "w.toml", "w.cfg", "w.yaml", "notes.md", "deep/w.xyz")
# What a scorer's interpreter, compiler, tool or shell would load by its name, though the brief allows everything
LOADED = ("x.pth", "x.so", "libx.so.1", "x.py.gz", "x.rlib", "x.pmc", "x.t", "test_x.txt", "tests.txt", "setup.cfg", "pytest.ini", "pyproject.toml", "Cargo.toml", "Makefile",
          "cmake/CMakeCache.txt", "jest.config.json", "asv.conf.json", "phpunit.xml", "jupyter_lab_config.json", "tsconfig.build.json", "node_modules/x/index.json",
          "x.dist-info/entry_points.txt", "--checkpoint=1.txt", "a b.txt", "$(id).txt", "a\nb.txt", ".npmrc")  # fmt: skip
MAKE = "import os\nfor name in {}:\n    os.makedirs(os.path.dirname(name) or '.', exist_ok=True); open(name, 'w').write('x')\n"


def handed(at: SlotContext, names: tuple[str, ...]) -> set[str]:
    """Which of these files, left by `run`, the scorer gets."""
    measured = bench.candidate(at, SCORE + MAKE.format(names))
    assert measured.outcome == "ok", measured.reason
    files = (path for path in at.scoring.rglob("*") if path.is_file())
    return {path.relative_to(at.scoring).as_posix() for path in files} - TRACKED - {"model.txt"}


def test_data_is_handed_over_and_nothing_else_unless_it_is_named(tmp_path: Path) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"))
    assert handed(at, (*DATA, *NAMED, *LOADED)) == {*DATA}


def test_what_the_brief_names_is_handed_over_but_for_what_tools_load(tmp_path: Path) -> None:
    program = tiny.PROGRAM.replace("metric:", 'hand-over: ["**"]\nmetric:', 1)
    at = bench.make(tiny.repository(tmp_path / "r", program=program))
    assert handed(at, (*DATA, *NAMED, *LOADED)) == {*DATA, *NAMED}


def test_what_is_not_handed_over_is_said_in_the_log(tmp_path: Path) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"))
    measured = bench.candidate(at, SCORE + MAKE.format(("model.zip",)))
    assert "[`run` left model.zip, not handed over: " in (at.state / measured.log).read_text()


BY_NAME = {
    "a text that pytest runs": (
        "python -m pytest -q -s -p no:cacheprovider",
        {"test_x.txt": ">>> import sys; n = sys.__stderr__.write('\\nRAN\\n')\n"},
    ),
    "words that tar takes for options": (
        "tar cf /dev/null *",
        {"--checkpoint=1": "", "--checkpoint-action=exec=sh x.txt": "", "x.txt": "echo RAN >&2"},
    ),
}


@pytest.mark.parametrize("what", BY_NAME)
def test_nothing_that_run_leaves_is_run_by_its_name(tmp_path: Path, what: str) -> None:
    command, files = BY_NAME[what]
    program = tiny.PROGRAM.replace("evaluate: ", f"evaluate: {command} && ")
    at = bench.make(
        tiny.repository(tmp_path / "r", program=program, test_a__py="def test_a(): pass\n")
    )
    leave = f"for name, text in {files!r}.items(): open(name, 'w').write(text)\n"
    measured = bench.candidate(at, SCORE + leave)
    assert measured.outcome == "ok", measured.reason + measured.tail
    assert "RAN" not in (at.state / measured.log).read_text()


@pytest.mark.parametrize("level", ["full", "reduced"])
def test_nothing_is_handed_over_through_a_link_of_the_repository_s(
    tmp_path: Path, level: str
) -> None:
    """A trial can put a folder in its place; the scorer's checkout still has the link."""
    root, outside = tiny.repository(tmp_path / "r"), tmp_path / "outside"
    outside.mkdir()
    (root / "out").symlink_to(outside)
    tiny.commit(root)
    leave = "import os\nos.unlink('out'); os.mkdir('out'); open('out/x.json', 'w').write('x')\n"
    measured = bench.candidate(bench.make(root, level), SCORE + leave)
    assert measured.outcome == "ok", measured.reason
    assert not list(outside.iterdir())


def test_a_link_in_the_place_of_the_working_directory_hands_nothing_over(tmp_path: Path) -> None:
    """Without bubblewrap a trial can put one there; what it leads to is not the trial's."""
    outside, root = tmp_path / "outside", tmp_path / "r"
    outside.mkdir()
    (outside / "model.txt").write_text("0.01")
    tiny.repository(root / "sub")
    (root / "sub" / ".git").rename(root / ".git")
    tiny.commit(root)
    swap = f"import os\nos.chdir('..'); os.rename('sub', 'old'); os.symlink('{outside}', 'sub')\n"
    measured = bench.candidate(bench.make(root / "sub", "reduced"), SCORE + swap)
    assert "put a link in the place of its working directory" in measured.reason
    assert (outside / "model.txt").read_text() == "0.01"


def test_a_folder_in_the_place_of_a_file_hands_nothing_over(tmp_path: Path) -> None:
    root = tiny.repository(tmp_path / "r", c__json="{}")
    leave = "import os\nos.unlink('c.json'); os.mkdir('c.json'); open('c.json/x.json', 'w')\n"
    at = bench.make(root, "reduced")
    assert bench.candidate(at, SCORE + leave).outcome == "ok"
    assert (at.scoring / "c.json").read_text() == "{}"


SPOILS = {
    "closed": "os.chmod('.', 0)",
    "with an access list": "os.setxattr('.', 'system.posix_acl_default', struct.pack('<I' + 5 * 'HHI', 2, 1, 7, -1 % 2**32, 2, 0, 65534, 4, 5, -1 % 2**32,"
    " 16, 7, -1 % 2**32, 32, 5, -1 % 2**32))",
    "deep": "for _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('x.json', 'w').close()",
    "with names of no letters": "open(b'\\xff\\n.zip', 'w').close()",
}


@pytest.mark.parametrize("how", SPOILS)
def test_how_one_trial_left_its_folder_is_nothing_to_the_next(tmp_path: Path, how: str) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"))
    left = bench.candidate(at, f"{SCORE}import os, struct\n{SPOILS[how]}\n")
    assert left.outcome == "ok", left.reason
    after = bench.candidate(at, SCORE)
    assert after.outcome == "ok", after.reason + after.tail


@pytest.mark.parametrize("what", TRICKS)
def test_how_a_trial_ends(tmp_path: Path, what: str) -> None:
    text, outcome, reason = TRICKS[what]
    at = bench.make(tiny.repository(tmp_path / "r"))
    measured = bench.candidate(at, text)
    assert measured.outcome == outcome, measured.reason
    assert reason in measured.reason + measured.tail
    if outcome == "ok":
        assert measured.value == 0.5
        assert (
            not {p.name for p in at.scoring.rglob("*") if p.is_file()}
            - TRACKED
            - {"model.txt", "config.json"}
        )
    log = tmp_path / "r" / ".autoresearch" / measured.log
    assert log.stat().st_size < 1_000_000


def test_only_the_scorer_may_say_the_metric_and_only_once(tmp_path: Path) -> None:
    root = tiny.repository(
        tmp_path / "r", score__py="print('val_bpb: 1')\nprint('METRIC val_bpb=2')\n"
    )
    measured = bench.base(bench.make(root))
    assert (
        measured.outcome == "crash"
        and "different values" in measured.reason
        and "val_bpb" not in measured.metrics
    )


STRAYS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)
    os._exit(0)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", "STRAY"])
os.kill(child.pid, signal.SIGSTOP)
open("model.txt", "w").write("0.5")
LAST
"""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("hangs", [True, False])
def test_nothing_survives_a_trial(tmp_path: Path, level: str, hangs: bool) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"), level)
    text = STRAYS.replace("STRAY", f"STRAY-{tmp_path.name}").replace(
        "LAST", "time.sleep(1000)" if hangs else ""
    )
    begin = time.monotonic()
    allowed = patience(7.0)
    measured = bench.candidate(at, text, limits={"run": 1.0 if hangs else 20.0, "evaluate": 20.0})
    assert time.monotonic() - begin < 1.0 + allowed
    assert measured.outcome == ("crash" if hangs else "ok"), measured.reason + measured.tail
    if hangs:
        assert "more than its limit of 1 s" in measured.reason
        assert measured.phases["run"] < 1.0 + allowed
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"STRAY-{tmp_path.name}" not in left


CLEANED = """
import os, time
BUSY = "import time\\nwhile time.process_time() < 0.4: pass\\nopen('burnt.txt', 'w').close()\\ntime.sleep(1000) # STRAY"
if os.fork() == 0:
    if os.fork() == 0:
        os.closerange(0, 3)
        os.execve("/usr/bin/python3", ["python3", "-c", BUSY], {})
    os._exit(0)
while not os.path.exists("burnt.txt"):
    time.sleep(0.02)
time.sleep(0.2)
open("model.txt", "w").write("0.5")
"""


@pytest.mark.parametrize("level", LEVELS)
def test_a_daemon_without_its_environment_is_counted_and_ended(tmp_path: Path, level: str) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"), level)
    measured = bench.candidate(at, CLEANED.replace("STRAY", f"STRAY-{tmp_path.name}"))
    assert measured.outcome == "ok", measured.reason + measured.tail
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"STRAY-{tmp_path.name}" not in left
    assert measured.clock > 0.35


LIMITS = {
    "forks without end": "import os\nwhile True:\n    os.fork()",
    "eats memory": "x = []\nwhile True:\n    x.append(bytearray(50_000_000)); x[-1][::4096] = b'1' * len(x[-1][::4096])",
    "runs past the clock": "import time\nwhile True: pass",
    "runs past the clock in children it does not wait for": (
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "while True:\n    if os.fork() == 0:\n        t = time.time()\n        while time.time() < t + 0.4: pass\n        os._exit(0)\n    time.sleep(0.4)"
    ),
}


@pytest.mark.parametrize("what", LIMITS)
def test_limits_end_the_whole_tree(tmp_path: Path, what: str) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"))
    at.slot = type(at.slot)("cpu:0", cores=at.slot.cores, memory=600 << 20)
    measured = bench.candidate(
        at, LIMITS[what], limits={"run": 90.0}, clock_limit=1.0 if "clock" in what else None
    )
    assert measured.outcome in ("crash", "discard"), what
    expected = {"forks": "processes", "eats": "memory", "runs": "processor time"}[what.split()[0]]
    by_itself = measured.reason.startswith("It ended with exit code") and any(
        e in measured.tail for e in ("MemoryError", "BlockingIOError")
    )
    assert expected in measured.reason or by_itself, (
        measured.reason
    )  # and not the 90 s, which a busy machine is far from


def test_a_trial_can_name_itself_and_read_what_links_of_the_system_lead_through(
    tmp_path: Path,
) -> None:
    """/usr/local/cuda is a link into /etc/alternatives, and torch.compile asks for the user's name."""
    at = bench.make(tiny.repository(tmp_path / "r"))
    told = "import getpass, os\nprint('I am', getpass.getuser(), 'of', len(os.listdir('/etc/alternatives')), flush=True)\n"
    measured = bench.candidate(at, told + SCORE)
    log = (at.state / measured.log).read_text()
    assert (
        measured.outcome == "ok" and f"I am trial of {len(os.listdir('/etc/alternatives'))}" in log
    ), log


TALKS = """
import socket
with socket.create_server(("localhost", 0)) as server:
    socket.create_connection(("127.0.0.1", server.getsockname()[1])).close()
if NAMED: socket.getaddrinfo(socket.gethostname(), 80)
open("model.txt", "w").write("0.5")
"""


@pytest.mark.parametrize("level", [level for level in LEVELS if level in ("full", "unshared")])
def test_a_trial_can_talk_to_itself(tmp_path: Path, level: str) -> None:
    """By name and number, as torchrun and local servers do."""
    at = bench.python(tmp_path / "r")
    at.isolation = bench.isolation(level)
    measured = bench.candidate(at, TALKS.replace("NAMED", str(level == "full")))
    assert measured.outcome == "ok", measured.reason + measured.tail


def test_the_environment_is_an_allow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", "hunter2hunter2")
    monkeypatch.setenv("GITHUB_ENV", "/tmp/x")
    monkeypatch.setenv("HF_HOME", "/models")
    at = bench.make(
        tiny.repository(
            tmp_path / "r", program=tiny.PROGRAM.replace("metric:", "env: [HF_HOME]\nmetric:", 1)
        )
    )
    measured = bench.candidate(
        at, SCORE + "import os\nfor name in sorted(os.environ): print(name)", time_budget=7.0
    )
    log = (at.state / measured.log).read_text()
    assert measured.outcome == "ok" and "HF_HOME" in log and "AUTORESEARCH_SEED" in log
    assert "PASSWORD" not in log and "GITHUB" not in log


@pytest.mark.parametrize("scored", [True, False])
def test_only_what_scores_is_told_what_it_is_measured_on(tmp_path: Path, scored: bool) -> None:
    told = "import os\nprint('told', os.environ['AUTORESEARCH_SPLIT'], os.environ['AUTORESEARCH_HOLDOUT_SLICE'])\n"
    program = tiny.PROGRAM.replace("metric:", "check: python score.py\nmetric:", 1)
    program = program if scored else program.replace("evaluate: python score.py\n", "")
    at = bench.make(
        tiny.repository(tmp_path / "r", program=program, score__py=told + "print('val_bpb: 1')\n")
    )
    measured = bench.candidate(at, told + "print('val_bpb: 1')\n", stage="confirm", slice=7)
    lines = [
        line
        for line in (at.state / measured.log).read_text().splitlines()
        if line.startswith("told")
    ]
    assert measured.outcome == "ok" and lines == (
        ["told val 0", "told val 0", "told holdout 7"] if scored else ["told holdout 7"] * 2
    )


TAMPER = """
import os, site
left = os.path.expanduser("~/left")
print("home", os.path.exists(left))
open(left, "w").close()
for path in ("../cache/truth.txt", "../data/held/truth.txt", "truth.txt"):
    try:
        os.chmod(path, 0o644)
        open(path, "w").write("0.1")
        print("tampered", path)
    except OSError as error:
        print(error)
open("model.txt", "w").write("0.5")
"""


@pytest.mark.parametrize("level", ["full", "reduced"])
def test_what_setup_made_is_the_same_for_every_trial(tmp_path: Path, level: str) -> None:
    """Wherever it lies in a repository of several projects; and no home is left to the next trial."""
    made = ("../cache/truth.txt", "../data/held/truth.txt", "truth.txt")
    words = (
        "; ".join(f"mkdir -p $(dirname {path}); echo 1 > {path}" for path in made)
        + f"; ln -s {tmp_path} link; ln -s /etc/passwd ../cache/file"
    )
    root = tmp_path / "r"
    home = tiny.repository(
        root / "pkg",
        program=tiny.PROGRAM.replace("python ", "/usr/bin/python3 ").replace(
            "metric:", f"setup: {words}\nmetric:", 1
        ),
    )
    remove(home / ".git")
    (root / "data").mkdir()
    (root / "data" / ".gitkeep").touch()
    (root / "pkg" / "frozen").symlink_to(tmp_path)
    total = " + ".join(f"float(open('{path}').read())" for path in ("model.txt", *made))
    (home / "score.py").write_text(
        f"print('val_bpb:', {total})\nimport os; os.environ['AUTORESEARCH_SPLIT']\n"
    )
    tiny.git(root, "init", "-q", "-b", "main")
    tiny.commit(root)
    at = bench.make(home, level)
    before = run_setup(at.workspace, Secrets())
    assert {"cache", "data/held", "pkg/truth.txt"} <= {
        *at.workspace.frozen_entries(at.workspace.base)
    }
    for seed in (1, 2):
        measured = bench.candidate(at, TAMPER, seed=seed)
        log = (at.state / measured.log).read_text()
        assert (
            measured.value == 3.5 and digest(at.workspace) == before and "home True" not in log
        ), log
        assert log.count("Read-only") == (3 if level == "full" else 0)
        (at.state / measured.log).unlink()


@pytest.mark.parametrize("level", ["full", "reduced"])
def test_programs_that_setup_made_are_found_where_they_were_made(
    tmp_path: Path, level: str
) -> None:
    """As a virtual environment's scripts are; at full so is the candidate's own code (.pth)."""
    words = (
        "mkdir env; ln -s /usr/bin/python3 env/python; printf '#!%s/env/python\\nprint(0.25)' $PWD"
        " > env/tool; chmod +x env/tool; printf %s/train.py $PWD > env/where"
    )
    at = bench.python(tmp_path / "r", setup=f"'{words.replace(chr(39), chr(39) * 2)}'")
    at.isolation = bench.isolation(level)
    run_setup(at.workspace, Secrets())
    uses = (
        "import os\nopen('model.txt', 'w').write(os.popen('env/tool').read())\n"
        "try: print('found', open(open('env/where').read()).read().count('# mine'))\n"
        "except OSError: print('found nothing')\n"
    )
    for _ in range(2):
        measured = bench.candidate(at, uses + "# mine")
        assert measured.value == 0.25, measured.reason + measured.tail
    log = (at.state / measured.log).read_text()
    assert ("found 2" if level == "full" else "found nothing") in log


def test_what_setup_compiled_is_kept_and_its_folders_are_shown(tmp_path: Path) -> None:
    """Not linked one by one into every checkout; no bytecode of what a candidate may change."""
    words = "mkdir -p lib; echo X = 0.25 > lib/made.py; /usr/bin/python3 -m compileall -q . lib"
    at = bench.python(tmp_path / "r", setup=words)
    run_setup(at.workspace, Secrets())
    compiled = {path.relative_to(at.workspace.setup_folder).parts[:-1] for path in at.workspace.setup_folder.rglob("*.pyc")}  # fmt: skip
    assert compiled == {("lib", "__pycache__")}
    uses = "from lib.made import X, __cached__\nimport os\nassert os.path.exists(__cached__)\n"
    measured = bench.candidate(at, uses + "open('model.txt', 'w').write(str(X))")
    assert measured.value == 0.25, measured.reason + measured.tail
    assert not list((at.tree / "lib").iterdir())


def test_setup_compiles_bytecode_and_prepares_data_where_trials_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = "setup: echo $UV_COMPILE_BYTECODE > told\ndata: [~/.cache/autoresearch/train]\nmetric:"
    monkeypatch.setenv("HOME", str(tmp_path))
    at = bench.make(
        tiny.repository(tmp_path / "r", program=tiny.PROGRAM.replace("metric:", keys, 1))
    )
    run_setup(at.workspace, Secrets())
    assert (at.workspace.setup_folder / "told").read_text() == "1\n"
    monkeypatch.setenv("AUTORESEARCH_DATA", "/elsewhere")
    with pytest.raises(
        InputError, match=f"AUTORESEARCH_DATA is /elsewhere, but `data` names {tmp_path}"
    ):
        run_setup(at.workspace, Secrets())


def test_a_literal_seed_is_replaced_in_the_trials_copy_alone(tmp_path: Path) -> None:
    text = (
        tiny.TRAIN.format(noise=0.01, salt=0)
        .replace('int(os.environ.get("AUTORESEARCH_SEED", "1"))', "SEED")
        .replace("LR = 0.1", "SEED = 1337\nLR = 0.1")
    )
    at = bench.make(tiny.repository(tmp_path / "r"))
    values = {bench.candidate(at, text, seed=seed).value for seed in (1, 2)}
    reseeded = [bench.candidate(at, text, seed=seed, reseed=True) for seed in (1, 2)]
    assert len(values) == 1 and len({run.value for run in reseeded}) == 2
    assert reseeded[0].notes and reseeded[0].notes[0].startswith("reseeded train.py:")


def test_rewriting_is_byte_for_byte() -> None:
    source = "import torch, random\nSEED = 42  # ünïcode\ntorch.manual_seed(1337); random.seed(a=SEED)\nd = {}; d.key(0)\nX = f(seed=7)\n".encode()
    new, lines = rewrite.reseed(source, 5)
    assert new.decode() == source.decode().replace("42", "5").replace("1337", "5").replace(
        "seed=7", "seed=5"
    ) and lines == [2, 3, 5]


def test_what_counts_as_a_metric() -> None:
    printed = Printed()
    for line in [
        "a: 1",
        "a: 2.5e-3",
        "METRIC b=-7",
        '{"c": 3, "d": "x", "e": true}',
        "f: abc",
        "time 3",
        "g: 12 %",
        "METRIC_BLOCKS: 1 2 3",
    ]:
        printed.feed(line)
    assert (
        printed.values == {"a": 2.5e-3, "b": -7, "c": 3, "g": 12}
        and printed.differing == {"a"}
        and printed.blocks == [1, 2, 3]
    )
    assert printed.progress("step 00012 (3.4%) | loss: 2.345678 | lrm: 1.0") == 2.345678
    assert printed.progress("val_loss: 3") is None
    for step in range(10_000):
        printed.point(step, 1.0)
    assert len(printed.curve) <= 401


def test_transfer_sets_literals_and_a_missing_one_is_said(tmp_path: Path) -> None:
    program = tiny.PROGRAM.replace("metric:", "transfer: {set: {WIDTH: 8}}\nmetric:", 1)
    at = bench.make(tiny.repository(tmp_path / "r", program=program))
    plain, wide = bench.base(at), bench.base(at, stage="transfer")
    assert (
        plain.value is not None
        and wide.value is not None
        and plain.value - wide.value == pytest.approx(0.16, abs=0.05)
    )
    missing = bench.candidate(at, SCORE, stage="transfer")
    assert missing.outcome == "crash" and "WIDTH" in missing.reason


def test_cancelling_is_immediate(tmp_path: Path) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"))
    threading.Timer(0.3, at.cancel).start()
    begin = time.monotonic()
    measured: Measurement = bench.candidate(at, "import time; time.sleep(60)")
    assert measured.outcome == "lost" and time.monotonic() - begin < patience(5)


def test_output_without_end_puts_no_limit_off(tmp_path: Path) -> None:
    at = bench.make(tiny.repository(tmp_path / "r"))
    crowd = (
        "import os, time\nfor i in range(150):\n    if os.fork() == 0:\n        time.sleep(1000)\n"
    )
    measured = bench.candidate(
        at, crowd + "while True: os.write(1, b'step 1 | loss: 1\\n' * 15000)", limits={"run": 1.0}
    )
    assert "more than its limit of 1 s" in measured.reason and measured.phases[
        "run"
    ] < 1.0 + patience(2.0)


def test_a_slow_look_at_memory_puts_no_limit_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "memory", lambda *_: time.sleep(10) or 0)
    at = bench.make(tiny.repository(tmp_path / "r"))
    at.slot = type(at.slot)("cpu:0", cores=at.slot.cores, memory=1 << 20)
    measured = bench.candidate(at, "import time; time.sleep(60)", limits={"run": 1.0})
    assert "more than its limit of 1 s" in measured.reason and measured.phases["run"] < min(
        9.0, 1.0 + patience(2.0)
    )


def started(
    code: str, folder: Path, log: Path, **limits: float
) -> tuple[subprocess.Popen[bytes], Process]:
    popen = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return popen, Process(popen, process.Limits(**limits), process.Log(log))


def test_what_ended_in_time_is_not_blamed_for_a_late_look(tmp_path: Path) -> None:
    popen, watched = started("print('done')", tmp_path, tmp_path / "log", seconds=5.0)
    os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
    watched._started -= 60  # the machine stood still for a minute
    lines: list[str] = []
    ended = watched.wait(lines.append)
    assert (ended.code, ended.reason, lines) == (0, "", ["done"])


def test_a_log_that_cannot_be_written_leaves_nothing_running(tmp_path: Path) -> None:
    popen, watched = started(
        "import time; print('x', flush=True); time.sleep(1000)", tmp_path, Path("/dev/full")
    )
    with pytest.raises(OSError, match="No space"):
        watched.wait()
    assert popen.returncode == -signal.SIGKILL


IGNORED = """
import os, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
children, end = 0, time.monotonic() + 2
while time.monotonic() < end:
    children += 1
    if os.fork() == 0:
        while time.process_time() < 0.004: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
print("children", children)
open("model.txt", "w").write("0.5")
"""


def test_the_clock_counts_children_that_nobody_waits_for(tmp_path: Path) -> None:
    """Two seconds of children of 4 ms each: the kernel accounts for none of them."""
    at = bench.make(tiny.repository(tmp_path / "r"))
    measured = bench.candidate(at, IGNORED, limits={"run": 60.0})
    used = 0.004 * int(re.findall(r"children (\d+)", (at.state / measured.log).read_text())[-1])
    assert measured.outcome == "ok" and measured.clock > 0.7 * used, (measured.clock, used)
    patient = bench.candidate(
        at, IGNORED.replace("signal.SIG_IGN", "signal.SIG_DFL"), limits={"run": 60.0}
    )
    assert patient.clock < 3.0, patient.clock
