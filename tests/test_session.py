"""How a run begins, goes on and ends: evidence that has changed, setup, signals, and devices that another run holds."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from test_loop import PROGRAM, command, environment, events, living, run, wait_for


def begun(home: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words),
        cwd=home,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], said: str) -> str:
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=100)[0]
    assert process.returncode == 0, said
    assert "Stopped: interrupted by SIGTERM" in said, said
    assert "Nothing is lost" in said, said
    return said


def until(process: subprocess.Popen[str], words: str) -> str:
    """What it says up to the line that holds `words`."""
    said = ""
    assert process.stdout
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


def test_a_checkpoint_or_data_that_changed_begin_a_new_run(tmp_path: Path) -> None:
    checkpoint, data = tmp_path / "model.pt", tmp_path / "data"
    checkpoint.write_text("one")
    data.write_text("one")
    home = tiny.repository(
        tmp_path / "home",
        program=PROGRAM.replace("edit:", f"setup: cp -v {data} data.txt\nedit:", 1),
    )
    words = (
        "--agent",
        "command:sleep 100",
        "--usd-per-call",
        "0",
        "--max-minutes",
        "60",
        "--checkpoint",
        str(checkpoint),
    )
    runs = []
    for changed, told in (
        (None, ""),
        (None, "Resuming run"),
        (checkpoint, "changed since: the checkpoint"),
        (data, "changed since: setup's"),
    ):
        if changed:
            changed.write_text("two")
        process = begun(home, "run", *words)
        said = until(process, "baseline" if told != "Resuming run" else told)
        assert told in said
        ended(process, said)
        runs.append(events(home, "run")[0]["id"])
        assert all(event["trial"]["number"] == 0 for event in events(home, "trial"))
        assert len(events(home, "run")) == 1
    assert runs[0] == runs[1]
    assert len(set(runs)) == 3
    assert (home / ".autoresearch" / "trials" / "setup.log").exists()
    assert {path.stem for path in (home / ".autoresearch" / "history").glob("*.jsonl")} == set(
        runs[:3]
    )


def test_setup_ends_with_the_run_that_it_is_for(tmp_path: Path) -> None:
    """By a signal and by the minutes; with all it has started, and what was there before stays as it was."""
    mark = f"setup-{os.getpid()}"
    script = f"""trap "" TERM INT\nsetsid sh -c "sleep 100; : {mark}" &\nsetsid sh -c "(sleep 100; : {mark}) &"\nsleep 100; : {mark}\n"""
    home = tiny.repository(
        tmp_path / "home",
        program=PROGRAM.replace("edit:", "setup: sh setup.sh\nedit:", 1),
        setup__sh=script,
    )
    (home / "program.md").write_text((home / "program.md").read_text() + "More.\n")
    process = begun(home, "run", "--agent", "optuna")
    said = until(process, "Setting up")
    wait_for(lambda: len(living(mark)) == 2, 100)
    assert "program.md is not committed" in said
    assert "during `setup`" in ended(process, said)
    assert not living(mark)
    said = run(home, "--agent", "optuna", "--max-minutes", "0.15")
    assert "the 0.15 minutes are over during `setup`" in said
    assert not living(mark)
    assert not events(home)


def test_setup_s_secrets_stay_out_of_its_log_and_its_error(tmp_path: Path) -> None:
    lines = "begin-of-a-key\nmiddle-of-a-key\n"
    script = 'printf "https://me:%s" "$INDEX" "$PRIVATE_TOKEN"; sleep 0.2; printf "@index\\n%s" "$DEPLOY_SECRET"; echo "by $RUNNER_TRACKING_ID"; exit 1\n'
    front = "setup: sh setup.sh\nsetup-env: [PRIVATE_TOKEN, INDEX, DEPLOY_SECRET]\nedit:"
    home = tiny.repository(
        tmp_path / "home", program=PROGRAM.replace("edit:", front, 1), setup__sh=script
    )
    values = {
        "PRIVATE_TOKEN": "planted-secret-1",
        "INDEX": "planted-value-2",
        "DEPLOY_SECRET": lines,
        "RUNNER_TRACKING_ID": "job-77",
    }
    said = (
        run(home, code=2, **values) + (home / ".autoresearch" / "trials" / "setup.log").read_text()
    )
    assert said.count("https://me:***https://me:***@index") == 2
    assert "by job-77" in said
    assert not re.search("planted|of-a-key", said)


TIMED = """---
run: /usr/bin/python3 train.py
edit: [train.py]
metric: seconds
---
Faster.
"""
SOURCE = """import os, random
LR = 0.1
print(f"seconds: {1 + random.Random(os.environ['AUTORESEARCH_SEED']).random()}")
"""


@pytest.mark.parametrize("words", ["run --agent optuna", "measure --pairs 2", "doctor"])
def test_a_device_that_another_run_holds_is_waited_for(tmp_path: Path, words: str) -> None:
    home = tiny.repository(tmp_path / "home", program=TIMED)
    (home / "train.py").write_text(SOURCE)
    tiny.commit(home)
    code = "import sys; from autoresearch_action.isolation import device; device.LOCKS = device.Path(sys.argv.pop()); from autoresearch_action.cli import main; main()"
    locks = tmp_path / "locks"
    locks.mkdir()
    with (locks / "machine.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words.split(), str(locks)],
            cwd=home, env=environment(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        said = until(process, "holds machine: waiting for it")
        if "run" in words:
            ended(process, said)
            return
        time.sleep(0.3)
        assert process.poll() is None
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
