"""The Action's own parts without a workflow runner: how its steps are started, install.sh, the fleet's plan, a failure's summary."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import yaml

from autoresearch_action import action

HERE = Path(__file__).resolve().parent.parent


def starts() -> dict[str, str]:
    """The command of every step that starts the harness, by file and step."""
    found = {}
    for file in (HERE / "action.yml", *sorted((HERE / ".github" / "actions").glob("*/action.yml"))):
        for step in yaml.safe_load(file.read_text())["runs"]["steps"]:
            if "autoresearch_action.action" in step.get("run", ""):
                found[f"{file.parent.name if file.parent != HERE else ''}/{step['name']}"] = step[
                    "run"
                ]
    return found


def start(command: str, workspace: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """As the runner does it: a shell in the workspace, the action's folder in the environment."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(workspace),
        "AUTORESEARCH_PYTHON": sys.executable,
        "GITHUB_WORKSPACE": str(workspace),
    }
    environ |= {
        "GITHUB_ACTION_PATH": str(HERE / ".github/actions/x/" if "../.." in command else HERE),
        "GITHUB_ACTIONS": "true",
    } | more
    return subprocess.run(
        ["bash", "-c", command], cwd=workspace, env=environ, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", starts())
def test_the_harness_imports_nothing_of_the_users(name: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    for folder in (tmp_path, theirs, tmp_path / "autoresearch_action"):
        folder.mkdir(exist_ok=True)
        for module in ("click", "yaml", "json", "github", "pydantic", "__init__"):
            (folder / f"{module}.py").write_text("raise SystemExit('the wrong one')\n")
    done = start(
        starts()[name],
        tmp_path,
        PYTHONPATH=str(theirs),
        STEP="settle",
        AUTORESEARCH_IN_PROGRAM="none.md",
    )
    for told in (done.stdout, done.stderr):
        assert "the wrong one" not in told
        assert "Traceback" not in told
    assert done.returncode == (2 if name in ("/Research", "/Publish", "publish/Publish") else 0), (
        done.stderr
    )


def test_trials_see_the_users_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/harness")
    monkeypatch.setenv("AUTORESEARCH_PYTHONPATH", "/theirs:/more")
    action._forget_own_path()
    assert (
        os.environ["PYTHONPATH"] == "/theirs:/more" and "AUTORESEARCH_PYTHONPATH" not in os.environ
    )
    action._forget_own_path()
    assert "PYTHONPATH" not in os.environ


def test_research_that_fails_says_why_in_the_summary(tmp_path: Path) -> None:
    home = tiny.repository(
        tmp_path / "home", program=tiny.PROGRAM.replace("python ", "/usr/bin/python3 ")
    )
    (home / "train.py").write_text(
        (home / "train.py")
        .read_text()
        .replace("time.sleep", "raise SystemExit('boom')\ntime.sleep")
    )
    tiny.commit(home)
    summary, told = tmp_path / "summary", {}
    for program in ("program.md", "none.md"):
        done = start(starts()["/Research"], home, AUTORESEARCH_IN_PROGRAM=program, AUTORESEARCH_IN_MAX_MINUTES="5",
                     AUTORESEARCH_IN_STATE_DIRECTORY=str(tmp_path / "state"), GITHUB_STEP_SUMMARY=str(summary))  # fmt: skip
        assert done.returncode == 2, done.stdout
        told[program] = summary.read_text()
        summary.unlink()
    assert (
        "research failed.** The baseline does not run" in told["program.md"]
        and "\nboom\n```" in told["program.md"]
    )
    assert "none.md is not there" in told["none.md"]


def test_a_bug_s_words_stay_within_the_fence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise ValueError("a\n::add-mask::b\x1b[2J")

    monkeypatch.setattr(action, "_STEPS", {"settle": broken})
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert action.main("settle") == 1
    out, err = capfd.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("::")]
    assert [line.split("=")[0].split("::")[1] for line in lines[:3]] == [
        "error title",
        "stop-commands",
        "add-mask",
    ]
    assert lines[3] == f"::{lines[1].rpartition('::')[2]}::"
    assert "\x1b" not in out
    assert err == ""


def plan(folder: Path, **more: str) -> tuple[list[dict[str, str]], str]:
    """(the matrix of the fleet's plan, the error)."""
    steps = yaml.safe_load((HERE / ".github/workflows/autoresearch-fleet.yml").read_text())["jobs"][
        "plan"
    ]["steps"]
    out = folder / "out"
    out.unlink(missing_ok=True)
    environ = {
        "SHARDS": "4",
        "AGENTS": "",
        "MAX_EXPERIMENTS": "100",
        "MAX_USD": "10",
        "GITHUB_OUTPUT": str(out),
    } | more
    assert set(environ) - {"GITHUB_OUTPUT"} == set(steps[0]["env"])
    done = subprocess.run(
        [sys.executable, "-c", steps[0]["run"]], env=environ, capture_output=True, text=True
    )
    return (
        json.loads(out.read_text().partition("=")[2])["include"] if out.exists() else []
    ), done.stderr


def test_a_fleet_shares_its_budget_and_no_more(tmp_path: Path) -> None:
    for shards, experiments, usd in (
        ("4", "100", "10"),
        ("3", "100", "10"),
        ("256", "5", "0.1"),
        ("7", "7", "0"),
    ):
        rows, _ = plan(
            tmp_path,
            SHARDS=shards,
            MAX_EXPERIMENTS=experiments,
            MAX_USD=usd,
            AGENTS="optuna\nclaude\n",
        )
        counts = [int(row["experiments"]) for row in rows]
        assert (
            sum(counts) == int(experiments) and min(counts) >= 1 and max(counts) - min(counts) <= 1
        )
        assert sum(float(row["usd"]) for row in rows) <= float(usd) + 1e-9
    for more in (
        {"SHARDS": "0"},
        {"SHARDS": "many"},
        {"MAX_EXPERIMENTS": "1.5"},
        {"MAX_USD": "ten"},
        {"MAX_USD": "nan"},
        {"MAX_USD": "-1"},
    ):
        rows, said = plan(tmp_path, **more)
        assert not rows and re.fullmatch(
            r"::error::[a-z-]+: '.*' is not a number from .* to .*\.\n", said
        ), said


def test_the_harness_is_installed_once_by_one_alone(tmp_path: Path) -> None:
    """install.sh for real, with a lock file that holds one small package of ours."""
    place, tools, out = tmp_path / "action", tmp_path / "tools", tmp_path / "out"
    (place / ".github").mkdir(parents=True)
    shutil.copy(HERE / ".github" / "install.sh", place / ".github")
    found = re.search(
        r"^idna==.*?(?=^\w)", (HERE / "requirements.txt").read_text(), re.MULTILINE | re.DOTALL
    )
    assert found
    (place / "requirements.txt").write_text(found[0])
    theirs = tmp_path / "hashlib.py"
    theirs.write_text("raise SystemExit('the wrong one')\n")
    environ = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environ |= {
        "PATH": os.environ["PATH"],
        "RUNNER_TOOL_CACHE": str(tools),
        "GITHUB_OUTPUT": str(out),
        "PYTHONPATH": str(tmp_path),
    }
    command = ["/bin/bash", str(place / ".github" / "install.sh")]

    def install() -> Path:
        out.unlink(missing_ok=True)
        subprocess.run(
            command, cwd=tmp_path, env=environ, check=True, capture_output=True, timeout=300
        )
        return Path(out.read_text().strip().removeprefix("python="))

    python = install()
    assert subprocess.run([python, "-I", "-c", "import idna"], check=False).returncode == 0
    made = python.lstat().st_mtime_ns
    assert install() == python and python.lstat().st_mtime_ns == made, "what is there is used"

    (python.parent.parent / "ready").unlink()
    with (python.parent.parent.parent / f"{python.parent.parent.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another job of this host is at it
        waiting = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL)
        time.sleep(1.0)
        assert waiting.poll() is None
        (python.parent.parent / "ready").touch()
    assert waiting.wait(timeout=300) == 0 and python.lstat().st_mtime_ns == made, (
        "what the other one made is used"
    )

    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "dirname").symlink_to(shutil.which("dirname") or "")
    done = subprocess.run(
        command, env=environ | {"PATH": str(bare)}, capture_output=True, text=True
    )
    assert done.returncode == 3 and done.stdout.startswith(
        "::error::autoresearch needs Python 3.11 or newer"
    )


def test_a_tool_cache_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "tools").write_text("no folder")
    environ = {"RUNNER_TOOL_CACHE": str(tmp_path / "tools"), "RUNNER_TEMP": str(tmp_path)}
    found = action.state_directory(action.Inputs({}), environ, "program")
    assert found == tmp_path / "autoresearch" / "state" / "local" / "program"
