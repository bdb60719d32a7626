"""Devices, with an nvidia-smi that answers from files: which card a trial sees, who else is on it, locks of two accounts."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench
import pytest
import tiny

from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.isolation import bubblewrap, device, interpreters, sandbox
from autoresearch_action.isolation.device import Slot
from autoresearch_action.ledger import Ledger
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.research.scheduler import Scheduler
from autoresearch_action.trials import pool
from autoresearch_action.trials.pool import LocalPool
from autoresearch_action.trials.slot import SlotContext

SMI = """#!/bin/sh
next() { head -1 PLACE/$1; [ $(wc -l < PLACE/$1) -lt 2 ] || sed -i 1d PLACE/$1; }  # the last answer stays
case "$*" in
*query-gpu=index,uuid*) cat PLACE/cards;;
*compute_mode*) cat PLACE/mode;;
-L) cat PLACE/parts;;
*compute-apps*) next apps;;
*memory.used*) cat PLACE/used;;
*clocks_event*) exit 2;;  # a driver from before 535
*clocks_throttle*) next hot;;
esac
"""
CALM = {
    "cards": "0, GPU-a, 00000000:3B:00.0\n1, GPU-b, 00000000:86:00.0\n",
    "apps": "\n",
    "used": "4\n",
    "mode": "Default\n",
    "parts": "GPU 0: A (UUID: GPU-a)\nGPU 1: A (UUID: GPU-b)\n  MIG 1g.10gb Device 0: (UUID: MIG-c)\n",
    "hot": "Not Active, Not Active\n",
}
GPU = Slot("cuda:0", "0")


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with its answers."""
    place = tmp_path / "smi"
    place.mkdir()
    for name, text in CALM.items():
        (place / name).write_text(text)
    (place / "nvidia-smi").write_text(SMI.replace("PLACE", str(place)))
    (place / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr(device, "LOOKS", 0.05)
    monkeypatch.setattr(device, "_idle", {})
    device.card.cache_clear()
    yield place
    device.card.cache_clear()


def test_a_trial_sees_its_own_card_alone(
    smi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bus, minor in (("0000:3b:00.0", 5), ("0000:86:00.0", 0)):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t Fake\nDevice Minor: \t {minor}\n")
    assert device.card("0", tmp_path) == ("GPU-a", "nvidia5") and device.card("1", tmp_path) == (
        "GPU-b",
        "nvidia0",
    )
    monkeypatch.setattr(bubblewrap, "card", lambda gpu: device.card(gpu, tmp_path))
    exists = os.path.exists
    monkeypatch.setattr(
        bubblewrap.os.path, "exists", lambda path: path == "/dev/nvidiactl" or exists(path)
    )
    assert {
        name
        for name in bubblewrap._devices("0")
        if name[:11] == "/dev/nvidia" and name[11:].isdigit()
    } == {"/dev/nvidia5"}
    (smi / "cards").write_text("0, GPU-a, 00000000:3B:00.0\n")
    device.card.cache_clear()
    assert device.card("0", tmp_path) == ("0", "nvidia5"), (
        "of a single card the number is as good, and programs know it"
    )


def test_a_trial_is_told_its_card(smi: Path, tmp_path: Path) -> None:
    at = dataclasses.replace(bench.make(tiny.repository(tmp_path / "r")), slot=Slot("cuda:1", "1"))
    measured = bench.candidate(
        at,
        "import os; print('card', os.environ['CUDA_VISIBLE_DEVICES']); open('model.txt', 'w').write('1')",
    )
    assert "card GPU-b" in (at.state / measured.log).read_text()


@pytest.mark.parametrize(
    ("visible", "cards"),
    [("", []), ("-1", []), ("1", ["1"]), ("GPU-b", ["1"]), ("1,-1,0", ["1"]), ("MIG-c", ["1"]), ("GPU-x", [])],
)  # fmt: skip
def test_exactly_the_cards_that_are_named_are_used(
    smi: Path, monkeypatch: pytest.MonkeyPatch, visible: str, cards: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device.gpus() == cards
    told = [device.card(index)[0] for index in cards]
    assert told == ["MIG-c" if visible == "MIG-c" else "GPU-b" for _ in cards]


def slow(tmp_path: Path) -> tuple[SlotContext, Trial]:
    """A trial that is on the card for long enough to be looked at."""
    root = tiny.repository(tmp_path / "r")
    (root / "train.py").write_text(
        (root / "train.py").read_text().replace("PAUSE = 0.0", "PAUSE = 0.6")
    )
    tiny.commit(root)
    at = dataclasses.replace(bench.make(root), slot=GPU)
    return at, Trial(number=0, commit=at.workspace.base, seed=1, index=1)


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("apps", "\n1\n\n", "shared"),
        ("hot", f"Not Active, Active\n{CALM['hot']}", "throttled"),
        ("apps", "\n999999999\n\n", ""),
    ],
)
def test_a_card_that_was_disturbed_during_the_trial_is_measured_again(
    smi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, why: str
) -> None:
    """Also where all is calm again at the trial's end. A process that is not in our namespace may be our own."""
    monkeypatch.setattr(
        device, "await_free", lambda *_: None
    )  # else it might be the one that hears of it
    at, trial = slow(tmp_path)
    (smi / file).write_text(text)
    measured = pool.measure(at, trial)
    assert (
        measured.outcome == "ok"
        and len(measured.notes) == bool(why)
        and why in "".join(measured.notes)
    ), measured.notes


def test_what_is_always_hot_is_not_measured_three_times_for_ever(smi: Path, tmp_path: Path) -> None:
    at, trial = slow(tmp_path)
    (smi / "hot").write_text("Active, Not Active\n")
    assert [len(pool.measure(at, trial).notes) for _ in range(2)] == [3, 1]


STARTS = """
import os, time
print("began", time.time(), flush=True)
time.sleep(START)
for step in range(12):
    print(f"step {step:05d} ({step * 8}.0%) | loss: 1.0", flush=True)
open("model.txt", "w").write("0.5")
"""
SCORES = "import time; time.sleep(SCORE); print('scored', time.time()); print('val_bpb: 0.5')"


def crew(tmp_path: Path, start: float, score: float) -> Scheduler:
    """A scheduler on one card, whose program takes `start` seconds to begin with training, and whose scorer `score`."""
    train = STARTS.replace("START", str(start))
    at = bench.make(
        tiny.repository(
            tmp_path / "r", train__py=train, score__py=SCORES.replace("SCORE", str(score))
        )
    )
    workers = LocalPool(at.brief, at.workspace, at.isolation, [GPU], at.state)
    return Scheduler(workers, Ledger(at.state), str, lambda: None)


def two(at: Scheduler) -> list[Measurement]:
    """A trial, and another as soon as the scheduler takes one."""
    workspace = at.executor._benches[0].workspace  # type: ignore[attr-defined]
    trials = [Trial(number=0, commit=workspace.base, seed=seed) for seed in (1, 2)]
    at.start(trials[0], "cuda:0")
    done: list[Measurement] = []
    while not at.free:
        done += at.wait()
    at.start(trials[1], "cuda:0")
    while at.running:
        done += at.wait()
    at.executor.close()
    at.ledger.close()
    assert [run.trial.seed for run in done] == [1, 2] and {run.outcome for run in done} == {"ok"}
    return done


def told(at: Scheduler, run: Measurement, word: str) -> list[float]:
    lines = (at.ledger.path.parent / run.log).read_text().splitlines()
    return [float(line.split()[1]) for line in lines if line.startswith(word)]


def test_a_trial_starts_while_the_last_one_is_scored(smi: Path, tmp_path: Path) -> None:
    at = crew(tmp_path, start=4.0, score=2.0)
    first, second = two(at)
    assert told(at, second, "began")[0] < told(at, first, "scored")[0] and not second.notes


def test_nothing_overlaps_on_a_card_that_takes_one_process(smi: Path, tmp_path: Path) -> None:
    (smi / "mode").write_text("Exclusive_Process\n")
    at = crew(tmp_path, start=0.5, score=0.5)
    first, second = two(at)
    assert told(at, second, "began")[0] > told(at, first, "scored")[0]
    assert not second.notes


def test_a_training_that_a_scoring_disturbed_is_measured_again_and_nothing_overlaps_any_more(
    smi: Path, tmp_path: Path
) -> None:
    at = crew(tmp_path, start=0.0, score=3.0)
    first, second = two(at)
    assert (
        second.notes == ["measured again: the card was still scoring another trial"]
        and not first.notes
    )
    began, again = told(at, second, "began")
    assert began < told(at, first, "scored")[0] < again and not at.executor.takes_another("cuda:0")


def test_a_card_is_waited_for_until_it_and_its_memory_are_free(smi: Path) -> None:
    device.await_free(GPU, lambda: False, patience=0)
    for file, text, told in (
        ("apps", "999999999\n", "pid 999999999"),
        ("used", "1300\n", "1300 MiB"),
    ):
        (smi / file).write_text(text)
        with pytest.raises(EnvironmentFault, match=told):
            device.await_free(GPU, lambda: False, patience=0)
        device.await_free(GPU, lambda: True, patience=0)
        (smi / file).write_text(CALM[file])
    (smi / "apps").write_text(f"{os.getpid()}\n")
    device.await_free(GPU, lambda: False, patience=0)
    (smi / "apps").write_text("1\n")
    begin = time.monotonic()
    threading.Timer(0.3, (smi / "apps").write_text, ["\n"]).start()
    device.await_free(GPU, lambda: False, patience=1.0)
    assert time.monotonic() - begin > 0.3


def as_another_account(action: Callable[[], None]) -> bool:
    """Whether it ends without an exception in a child; as an account without rights where this one is root."""
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every account may read."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_lock_holds_against_another_account(
    place: Path, monkeypatch: pytest.MonkeyPatch, mask: int
) -> None:
    monkeypatch.setattr(device, "LOCKS", place / "locks")
    before = os.umask(mask)
    try:
        mine = device.Locks([GPU])
        mine.acquire(print, lambda: "", 0.0)
    finally:
        os.umask(before)

    def theirs(patience: float) -> None:
        told: list[str] = []
        mine.release()  # this process's copy of it
        try:
            device.Locks([Slot("cuda:1", "1")]).acquire(
                print, lambda: "", 0.0
            )  # they may make one, too
            device.Locks([GPU]).acquire(told.append, lambda: "", patience)
        except EnvironmentFault as fault:
            assert patience == 0.0 and told and "has held gpu-0" in str(fault)

    assert as_another_account(lambda: theirs(0.0))
    threading.Timer(0.3, mine.release).start()
    assert as_another_account(lambda: theirs(5.0))


def test_a_folder_that_may_not_be_read_holds_no_interpreter(place: Path) -> None:
    (place / "closed" / "bin").mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "bin" / "python").symlink_to(place / "closed" / "bin" / "python")
    (place / "closed").chmod(0)

    def find() -> None:
        found = interpreters.prefixes(
            f"{place}/closed/bin:{place}/bin", "", Path("/srv/r"), Path("/srv/r")
        )
        assert found == [place / "bin"], found

    assert as_another_account(find)
    (place / "closed").chmod(0o755)


@pytest.fixture
def no_namespaces(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bubblewrap that says what it says on Ubuntu 24.04, and the setting that is the cause."""
    (place / "bin").mkdir()
    fake = place / "bin" / "bwrap"
    fake.write_text('#!/bin/sh\necho "bwrap: setting up uid map: Permission denied" >&2\nexit 1\n')
    fake.chmod(0o755)
    (place / "sys" / "kernel").mkdir(parents=True)
    (place / "sys" / "kernel" / "apparmor_restrict_unprivileged_userns").write_text("1\n")
    monkeypatch.setenv("PATH", f"{place}/bin:/usr/bin:/bin")
    monkeypatch.setattr(bubblewrap, "PROC_SYS", str(place / "sys"))
    return place


def test_a_bubblewrap_that_may_not_start_names_the_setting_and_the_remedy(
    no_namespaces: Path,
) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        sandbox.choose("require")
    told = str(fault.value)
    assert "setting up uid map: Permission denied" in told
    assert "apparmor_restrict_unprivileged_userns is 1" in told
    assert "AppArmor profile" in told
    assert "install bubblewrap`" not in told


def test_the_installer_says_that_bubblewrap_may_not_start_and_why(no_namespaces: Path) -> None:
    script = Path(__file__).parents[1] / ".github" / "install-bubblewrap.sh"
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=True)
    assert "may not start (bwrap: setting up uid map: Permission denied)" in done.stdout
