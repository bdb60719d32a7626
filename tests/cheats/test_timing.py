"""Cheats on a timing target: each ends discarded, crashed or honestly scored, and leaves nothing behind."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import bench
import pytest
import timing
from candidates import FAKES, Cheat
from strays import STRAYS
from test_loop import patience
from trio import MARK

from autoresearch_action.isolation.process import Limits
from autoresearch_action.records import Measurement
from autoresearch_action.trials import trial
from autoresearch_action.trials.slot import SlotContext
from autoresearch_action.workspace.trees import PatchRefused

LEAST, MOST = 0.4, 8.0  # times the honest seconds: the machine is shared


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> SlotContext:
    return timing.repository(tmp_path_factory.mktemp("timing") / "r")


@pytest.fixture(scope="module")
def honest(at: SlotContext) -> Measurement:
    several = [bench.base(at) for _ in range(5)]
    assert all(measured.outcome == "ok" for measured in several), (
        several[0].reason + several[0].tail
    )
    return min(several, key=lambda measured: measured.value or 0.0)


@pytest.fixture
def runner(at: SlotContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a runner has, and an earlier winner; all of it has to be the same afterwards."""
    for name in ("ENV", "OUTPUT", "PATH", "STEP_SUMMARY"):
        (tmp_path / f"set_{name}").write_text("before\n")
        (tmp_path / f"set_{name}").chmod(0o666)
        monkeypatch.setenv(f"GITHUB_{name}", str(tmp_path / f"set_{name}"))
    (at.state / "ledger.jsonl").write_text("{}\n")
    (at.state / "trials" / "0007").mkdir(parents=True, exist_ok=True)
    (at.state / "trials" / "0007" / "WINNER.json").write_text("{}")
    before = contents(at)
    yield
    assert contents(at) == before, "the user's repository was changed"
    assert {file.read_text() for file in tmp_path.glob("set_*")} == {"before\n"}
    assert strays() == [], "a process is left"
    home = os.path.expanduser("~")
    places = (
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        home,
        f"{home}/.cache",
        str(at.tree.parent),
        str(at.state),
        str(at.workspace.root.parent),
    )
    assert [path for place in places for path in glob.glob(f"{place}/*{MARK}*")] == []
    (at.state / "ledger.jsonl").unlink()


def contents(at: SlotContext) -> dict[str, str]:
    files = [p for p in at.workspace.root.rglob("*") if p.is_file() and at.state not in p.parents]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def strays() -> list[str]:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if MARK in line]


def scored_like(at: SlotContext, measured: Measurement, honest: Measurement) -> None:
    assert measured.outcome == "ok", measured.reason + measured.tail
    assert measured.value is not None and honest.value is not None
    if not LEAST < measured.value / honest.value < MOST:  # has the machine changed its speed?
        honest = min((bench.base(at) for _ in range(5)), key=lambda again: again.value or 0.0)
    assert honest.value is not None and LEAST < measured.value / honest.value < MOST


@pytest.mark.parametrize("cheat", [*FAKES, *STRAYS], ids=lambda cheat: cheat.trick)
def test_a_cheat_wins_nothing(
    at: SlotContext,
    honest: Measurement,
    runner: None,
    cheat: Cheat,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        trial, "Limits", functools.partial(Limits, processes=100, disk_bytes=200 << 20)
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        text = cheat.text.replace("PORT", str(server.getsockname()[1]))
        assert text != timing.TARGET
        measured = timing.measure(at, text, limits={"run": cheat.seconds}, clock_limit=cheat.clock)
        with pytest.raises(BlockingIOError):
            server.accept()
    log = (at.state / measured.log).read_text()
    (at.state / measured.log).unlink()
    if cheat.outcome == "ok":
        scored_like(at, measured, honest)
        assert measured.metrics["seconds"] == measured.value
    else:
        assert measured.outcome == cheat.outcome and measured.value is None, (
            f"{measured.reason} {log[-2000:]}"
        )
        assert cheat.reason in measured.reason and "seconds" not in measured.metrics
    assert cheat.log in log
    assert len(log) < 1_000_000
    assert measured.seconds < 15 or measured.seconds < patience(15)
    assert measured.hashes["frozen"] == honest.hashes["frozen"]
    told = capfd.readouterr()
    assert (
        "::" not in told.out + told.err and "##[" not in told.out + told.err
    )  # nothing that a runner would obey


KEPT = next(cheat for cheat in STRAYS if "keeps answers" in cheat.trick)


def test_what_one_trial_kept_the_next_does_not_find(
    at: SlotContext, honest: Measurement, runner: None
) -> None:
    for _ in range(2):
        measured = timing.measure(at, KEPT.text)
        log = (at.state / measured.log).read_text()
        (at.state / measured.log).unlink()
        scored_like(at, measured, honest)
        assert "before: []" in log
        (now,) = [line for line in log.splitlines() if line.startswith("now: ")]
        assert all(
            place in now for place in ("'.'", "'/tmp'", "'/dev/shm'", "'.git'", "'__pycache__'")
        )  # it could write there


def test_what_one_trial_left_does_not_spoil_the_next(at: SlotContext, honest: Measurement) -> None:
    """Attributes in a work tree rule how git writes files: a rival, or the base itself, would crash."""
    lines = "target.py working-tree-encoding=UTF-16\\nbench.py eol=crlf\\n* text\\n"
    left = timing.measure(
        at,
        timing.in_run(f"""\
import os
open('.gitattributes', 'w').write('{lines}')
os.chmod('.gitattributes', 0o755)"""),
    )
    scored_like(at, left, honest)
    scored_like(
        at,
        timing.measure(
            at,
            timing.TARGET
            + """\

# a rival
""",
        ),
        honest,
    )
    left = timing.measure(
        at, timing.in_run(f"open('.gitattributes', 'w').write('{lines}')")
    )  # handed over
    scored_like(at, left, honest)
    scored_like(
        at,
        timing.measure(
            at,
            timing.TARGET
            + """\

# another rival
""",
        ),
        honest,
    )


def test_what_is_handed_over(at: SlotContext) -> None:
    """Many files in a folder, read-only there; no .git folder, whose configuration a scorer's git would obey."""
    text = timing.in_run("""\
import os
for top in ('a/.git', '.git', 'many'):
    os.makedirs(top)
    open(top + '/config', 'w').write('x')
for i in range(5_000):
    open(f'many/{i}.json', 'w').close()
open('b.txt', 'w').write('x')""")
    body = "try:\n    open('many/config', 'a').close()\n    return -1\nexcept OSError:\n    return -2 if len(numbers) > 9 else 3"
    measured = timing.measure(at, timing.instead(body) + text.removeprefix(timing.TARGET))
    assert "A wrong answer: b'-2" in measured.reason, measured.reason
    handed = {path.relative_to(at.scoring).as_posix() for path in at.scoring.rglob("*")}
    assert {"plan.json", "b.txt", "many/4999.json"} <= handed and not [
        path for path in handed if ".git" in Path(path).parts
    ]
    beside = timing.measure(
        at, timing.in_run("for i in range(2_001):\n    open(f'{i}.json', 'w').close()")
    )
    assert beside.outcome == "crash" and "make them in a folder" in beside.reason


def test_a_faster_function_is_faster(at: SlotContext, honest: Measurement) -> None:
    """The bounds above can be left: an honest gain shows."""
    body = """\
from collections import Counter
seen, found = Counter(), 0
for a in numbers:
    found += seen[total - a]
    seen[a] += 1
return found"""
    measured = timing.measure(at, timing.instead(body))
    assert (
        measured.outcome == "ok"
        and measured.value
        and honest.value
        and measured.value < LEAST * honest.value
    )


PATCHES = {
    "the scorer": ("bench.py", "print('seconds: 0')\n", r"bench\.py is not in `edit`"),
    "the tests": ("tests/test_target.py", "", "is not in `edit`"),
    "a new test": ("tests/conftest.py", "x = 1\n", "is not in `edit`"),
    "the brief": (
        "program.md",
        """\
---
evaluate: echo
---
""",
        "is not in `edit`",
    ),
    "sitecustomize": ("sitecustomize.py", "x = 1\n", "is not in `edit`"),
    "a .pth": ("x.pth", "import os\n", "is not in `edit`"),
    "attributes": (".gitattributes", "* text\n", "is not in `edit`"),
    "a workflow": (".github/workflows/x.yml", "on: push\n", "is not in `edit`"),
}


@pytest.mark.parametrize("what", PATCHES)
def test_a_patch_of_what_is_frozen_is_refused(at: SlotContext, what: str) -> None:
    name, text, reason = PATCHES[what]
    space, tree = at.workspace, at.state / "slots" / "edit"
    space.checkout(tree, space.base)
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text(text)
    with pytest.raises(PatchRefused, match=reason):
        space.commit(space.base, space.diff(tree, space.base), "A cheat")


RAW = {
    "a hook": """\
diff --git a/.git/hooks/post-commit b/.git/hooks/post-commit
new file mode 100644
--- /dev/null
+++ b/.git/hooks/post-commit
@@ -0,0 +1 @@
+x
""",
    "a link": """\
diff --git a/target.py b/target.py
deleted file mode 100644
--- a/target.py
+++ /dev/null
diff --git a/target.py b/target.py
new file mode 120000
--- /dev/null
+++ b/target.py
@@ -0,0 +1 @@
+/etc/passwd
""",
    "outside": """\
diff --git a/../x b/../x
new file mode 100644
--- /dev/null
+++ b/../x
@@ -0,0 +1 @@
+x
""",
    "another name below": """\
diff --git a/target.py b/target.py
--- a/bench.py
+++ b/bench.py
@@ -1 +1 @@
-x
+y
""",
}


@pytest.mark.parametrize("what", RAW)
def test_a_crafted_patch_is_refused(at: SlotContext, what: str) -> None:
    with pytest.raises(PatchRefused):
        at.workspace.commit(at.workspace.base, RAW[what], "A cheat")
