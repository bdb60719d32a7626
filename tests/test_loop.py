"""The loop from end to end, as a person runs it: real processes, git, sandbox and files, on a repository that is tiny."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
from model_server import ModelServer, failing, overloaded, reply

from autoresearch_action.ledger import RunState

PROGRAM = tiny.PROGRAM.replace("python ", "/usr/bin/python3 ")
HERE = Path(__file__).resolve().parent.parent


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "autoresearch_action", *words]


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GITHUB_", "ANTHROPIC_"))
    }
    return kept | {"PYTHONPATH": str(HERE)} | more


def run(home: Path, *words: str, code: int = 0, **more: str) -> str:
    done = subprocess.run(
        command("run", *words),
        cwd=home,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def events(home: Path, kind: str = "", state: str = ".autoresearch") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (home / state / "ledger.jsonl").read_text().splitlines()]
    return [line for line in lines if not kind or line["event"] == kind]


def tried(home: Path) -> int:
    """Experiments with a verdict, those that went on under another number counted once."""
    return RunState.of(home / ".autoresearch" / "ledger.jsonl").tried


def ideas(home: Path, folder: Path) -> None:
    tiny.patch(home, folder / "1.diff", ("LR = 0.1", "LR = 0.2"), subject="Raise the rate")
    tiny.patch(home, folder / "2.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider")
    tiny.patch(
        home, folder / "3.diff", ("with open", "loss += 9\nwith open"), subject="Far too high"
    )
    tiny.patch(
        home,
        folder / "4.diff",
        ('print("peak_vram_mb: 100.0")', "raise SystemExit(7)"),
        subject="Broken",
    )
    rest = "".join(f" {line}\n" for line in tiny.SCORE.splitlines()[1:4])
    frozen = f"diff --git a/score.py b/score.py\n--- a/score.py\n+++ b/score.py\n@@ -1,4 +1,4 @@\n-import os\n+import sys, os\n{rest}"
    (folder / "5.diff").write_text(f"Subject: Edit the scorer\n\n{frozen}")


def test_a_model_that_is_overloaded_for_a_while_costs_no_experiment_and_is_said_once(
    tmp_path: Path,
) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    # Nine requests are one call with its retries; seven failed calls in a row ended a run
    script = [overloaded()] * 75 + [reply([("train.py", "LR = 0.1", "LR = 0.2")])]
    with ModelServer(script) as server:
        said = run(
            home,
            *("--agent", "claude", "--max-minutes", "5", "--max-experiments", "1"),
            ANTHROPIC_BASE_URL=server.url,
            ANTHROPIC_API_KEY="sk-ant-loopback",
        )
    assert said.count("API is overloaded") == 1
    assert [event["status"] for event in events(home, "verdict")] == ["keep", "keep"]


def test_a_run_that_could_ask_nobody_says_so(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    with ModelServer([failing(401, "authentication_error")]) as server:
        said = run(
            home,
            *("--agent", "claude", "--max-minutes", "5"),
            code=3,
            ANTHROPIC_BASE_URL=server.url,
            ANTHROPIC_API_KEY="sk-ant-loopback",
        )
    assert "Nothing but the baseline was measured: The model's API refuses the key" in said
    assert "worth confirming" not in said


def test_from_a_brief_to_a_branch_and_a_preview(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    ideas(home, tmp_path / "ideas")
    (tmp_path / "ideas" / "6.diff").write_text("a note\n")
    said = run(home, "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5")
    assert "6.diff holds no diff" in said
    state = home / ".autoresearch"
    verdicts = {event["description"]: event for event in events(home, "verdict")}
    assert {name: verdict["status"] for name, verdict in verdicts.items() if not verdict["reason"].startswith("the incumbent moved")} == {
        "baseline": "keep", "Raise the rate": "keep", "Wider": "keep", "Far too high": "discard", "Broken": "crash",
        "Edit the scorer": "discard",
    }  # fmt: skip
    assert "exit" in verdicts["Broken"]["reason"]
    assert "score.py" in verdicts["Edit the scorer"]["reason"]
    (confirmation,) = events(home, "confirmation")
    assert confirmation["held"]
    assert confirmation["pairs"] >= 4
    assert abs(confirmation["baseline"] - (1 + 0.4 + 0.16 + 0.001)) < 0.02
    assert abs(confirmation["best"] - (1 + 0.1 + 0.04 + 0.001)) < 0.02

    log = tiny.git(home, "log", "--format=%s %T", "autoresearch/program").splitlines()
    assert {line.rsplit(" ", 1)[0] for line in log[:2]} == {"Raise the rate", "Wider"}
    assert log[2].startswith("Start")
    assert log[0].endswith(confirmation["tree"])
    assert tiny.git(home, "status", "--porcelain") == ""

    table = (state / "results.tsv").read_text().splitlines()
    assert table[0] == "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
    assert len(table) == 1 + len(events(home, "verdict"))
    assert Counter(line.split("\t")[3] for line in table[1:])["keep"] == 3
    body = (state / "PULL_REQUEST.md").read_text()
    # Seconds may have moved, which is a risk then
    headings = re.findall(r"^## (?!Risks)(.*)", body, re.MULTILINE)
    assert headings == ["Numbers", "Changes", "What you can do next", "All experiments", "How it was judged", "Reproduce", "Cost", "The brief"]  # fmt: skip
    assert "re-measured on this head" in body.split("## Numbers")[0]
    assert "Lower the loss." in body
    assert (state / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert "Holds" in said

    before = {
        name: (state / name).read_bytes()
        for name in ("results.tsv", "report.html", "PULL_REQUEST.md")
    }
    for name in before:
        (state / name).unlink()
    subprocess.run(command("report"), cwd=home, env=environment(), check=True, capture_output=True)
    assert {name: (state / name).read_bytes() for name in before} == before


def test_edits_that_only_move_the_dice_end_without_a_claim(tmp_path: Path) -> None:
    """A/A on 12 no-ops: a search that keeps lucky draws would claim one of them nearly always, this one in 3 of 100 runs."""
    claims = []
    for attempt in range(3):
        home = tiny.repository(tmp_path / f"home-{attempt}", noise=0.02, program=PROGRAM)
        count = tmp_path / f"count-{attempt}"
        script = f"sh -c 'echo x >> {count}; sed -i \"s/7919 + .*/7919 + $(wc -l < {count}))/\" train.py'"
        run(
            home,
            "--agent",
            f"command:{script}",
            "--usd-per-call",
            "0",
            "--max-experiments",
            "12",
            "--max-minutes",
            "5",
        )
        assert tried(home) == 12
        claims.append(any(event["held"] for event in events(home, "confirmation")))
        assert (tiny.git(home, "branch", "--list", "autoresearch/*") == "") != claims[-1]
        if claims.count(False) > claims.count(True):
            break
    assert claims.count(False) > claims.count(True), "two claims of nothing in three runs"


def killed(home: Path, dice: random.Random, longest: float, *words: str, **more: str) -> bool:
    """Start a run, kill it at a random moment; whether it was still going."""
    process = subprocess.Popen(
        command("run", *words),
        cwd=home,
        env=environment(**more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(dice.uniform(0.3, longest))
        return False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True


def survive(place: Path, kills: int, words: tuple[str, ...], seed: int) -> None:
    """Kill runs `kills` times in all, in a repository after the other where one is delivered before that."""
    dice, hits = random.Random(seed), 0
    for attempt in range(5 * kills):
        if hits < kills:
            hits += survive_one(
                tiny.repository(place / f"home-{attempt}", program=PROGRAM),
                kills - hits,
                words,
                dice,
            )
    assert hits == kills


def survive_one(home: Path, kills: int, words: tuple[str, ...], dice: random.Random) -> int:
    """How often it was killed before it was delivered, at most `kills` times."""
    ledger = home / ".autoresearch" / "ledger.jsonl"
    done, hits = b"", 0
    going = True
    while going and hits < kills:
        cut = killed(home, dice, 2.5, *words)
        hits += cut
        now = ledger.read_bytes() if ledger.exists() else b""
        whole = now[: now.rfind(b"\n") + 1]
        assert whole.startswith(done), "an event was lost"
        done = whole
        going = cut and b'"delivered"' not in done
    if b'"delivered"' not in done:  # one more start would be another run
        run(home, *words)
    ledger_now = ledger.read_bytes()
    assert ledger_now.startswith(done)
    folded = events(home)
    numbers = [event["number"] for event in folded if event["event"] == "proposal"]
    assert numbers == list(range(1, len(numbers) + 1)), "a number was skipped or given twice"
    settled = Counter(event["number"] for event in folded if event["event"] == "verdict")
    assert set(settled.values()) == {1}
    assert set(settled) == {0, *numbers}
    runs = Counter(
        (e["trial"]["commit"], e["trial"]["seed"], e["trial"]["stage"])
        for e in folded
        if e["event"] == "trial"
    )
    assert set(runs.values()) == {1}, "a finished trial was run again"
    asked = sum(1 for event in folded if event["event"] == "ask")
    answered = sum(1 for event in folded if event["event"] == "spend")
    assert asked - answered <= 2 * hits, "more was asked again than slots + 1 for each kill"
    assert folded[-1]["event"] in ("stop", "fact")
    assert any(e["event"] == "stop" and e["finished"] for e in folded)
    return hits


WORDS = ("--agent", "optuna", "--max-experiments", "8", "--max-minutes", "10")


def test_kill_anywhere_and_it_goes_on_where_it_was(tmp_path: Path) -> None:
    survive(tmp_path, 3, WORDS, seed=1)


def test_calls_in_flight_at_a_kill_stay_reserved(tmp_path: Path) -> None:
    """They may have been paid for: the run that goes on counts them at their worst price."""
    home, calls = tiny.repository(tmp_path / "home", program=PROGRAM), tmp_path / "calls"
    agent = f"sh -c 'echo x >> {calls}; sleep 100'"
    words = ("--usd-per-call", "1", "--max-usd", "3.5", "--max-minutes", "60")
    process = subprocess.Popen(
        command("run", "--agent", f"command:{agent}", *words),
        cwd=home,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    wait_for(
        lambda: calls.exists() and len(calls.read_text()) == 4, 100
    )  # one a slot, and one more
    process.kill()
    process.wait()
    assert RunState.of(home / ".autoresearch" / "ledger.jsonl").usd == 2
    run(home, "--agent", f"command:echo '#' $$ >> train.py; echo x >> {calls}", *words)
    assert len(calls.read_text()) == 6
    assert "3.5 dollars (3.00 spent)" in events(home, "stop")[-1]["reason"]


@pytest.mark.battery
@pytest.mark.parametrize("seed", range(8))
def test_kill_anywhere_many_times(tmp_path: Path, seed: int) -> None:
    survive(tmp_path, 6, WORDS, seed=10 + seed)


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def patience(seconds: float) -> float:
    """`seconds` on a machine that is free: stretched by as much as others slow down the start of a process at the moment."""
    began = time.monotonic()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", "import json, subprocess"], check=True)
    return seconds * max(1.0, (time.monotonic() - began) / 0.3)


def living(mark: str) -> list[str]:
    """Processes that carry `mark` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            pass
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_trial_and_keeps_everything(tmp_path: Path, number: int) -> None:
    mark = f"sleep-{os.getpid()}-{number}"
    home = tiny.repository(
        tmp_path / "home", program=PROGRAM.replace("timeout: 20", "timeout: 200")
    )
    (home / "train.py").write_text(
        (home / "train.py").read_text().replace("PAUSE = 0.0", "PAUSE = 0.0  # baseline")
    )
    tiny.commit(home)
    slow = f"__import__('subprocess').run(['/bin/sh', '-c', 'trap \"\" INT TERM; sleep 100; : {mark}'])"
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("time.sleep(PAUSE)", slow), subject="Hangs")
    words = ("--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "60")
    process = subprocess.Popen(
        command("run", *words), cwd=home, env=environment(), stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: living(mark), 200)
    sent = time.time()
    process.send_signal(number)
    allowed = patience(5)  # measured while it ends
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    assert "Nothing is lost" in said
    assert events(home)[-1]["at"] - sent < max(allowed, patience(5))
    assert not living(mark)
    *_, cut, last = events(home)
    assert (last["event"], last["reason"], last["finished"]) == (
        "stop",
        f"interrupted by {signal.Signals(number).name}",
        False,
    )
    assert cut["event"] == "cut", "what was cut off took the device's time"
    assert 0 < cut["seconds"] < 200, "what was cut off took the device's time"
    assert (home / ".autoresearch" / "report.html").exists()


def test_a_second_ctrl_c_ends_it_at_once_in_one_sentence(tmp_path: Path) -> None:
    mark = f"sleep-{os.getpid()}-twice"
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    (home / "train.py").write_text(
        f"import subprocess\nLR = 0.1\nsubprocess.run(['/bin/sh', '-c', 'sleep 100; : {mark}'])\n"
    )
    tiny.commit(home)
    process = subprocess.Popen(
        command("run", "--agent", "optuna"),
        cwd=home,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: living(mark), 200)
    while process.poll() is None:  # two may be taken for one, and people press it more often
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert "autoresearch: ended at once" in said, said
    assert "Traceback" not in said, said
    assert "Aborted" not in said, said
    wait_for(lambda: not living(mark), 30)
    assert events(home)[0]["event"] == "run"


def test_the_minutes_are_kept_whatever_the_trial_does(tmp_path: Path) -> None:
    """A machine that is too slow for the minutes, which is said, is given more of them: the cap is the cap all the same."""
    for minutes in (0.5, 1.0, 2.0, 4.0):
        home = tiny.repository(
            tmp_path / f"home-{minutes}", program=PROGRAM.replace("timeout: 20", "timeout: 2")
        )
        for index in range(30 * int(2 * minutes)):
            slow = f"time.sleep({100 + index})"
            tiny.patch(
                home,
                tmp_path / "ideas" / f"{index:03d}.diff",
                ("time.sleep(PAUSE)", slow),
                subject=f"Hang {index}",
            )
        words = ("--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", str(minutes))
        done = subprocess.run(
            command("run", *words),
            cwd=home,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0 or "is too small" in done.stderr, done.stdout + done.stderr
        times = [event["at"] for event in events(home)]
        assert times[-1] - times[0] < 60 * minutes + patience(1)
        crashed = [event for event in events(home, "verdict") if event["status"] == "crash"]
        assert all("2 s" in event["reason"] for event in crashed)
        if crashed and events(home, "stop")[-1]["finished"]:
            break
    assert "minutes are used up" in events(home, "stop")[-1]["reason"]


def test_a_budget_that_cannot_do_is_refused_at_once(tmp_path: Path) -> None:
    timed = PROGRAM.replace("timeout: 20", "time-budget: 60")
    home = tiny.repository(tmp_path / "home", program=timed)
    said = run(home, "--max-minutes", "3", code=2)
    assert "--max-minutes 3 is too small" in said
    assert re.search(r"needs --max-minutes 1[0-9.]+", said)
    assert "usd-per-call" in run(home, "--agent", "command:true", code=2)
    for words, name in (
        (("--max-experiments", "0"), "--max-experiments"),
        (("--max-usd", "-1"), "--max-usd"),
        (("--max-minutes", "nan"), "--max-minutes"),
    ):
        assert name in run(home, *words, code=2)
    (home / "program.md").write_text(timed.replace("edit: [train.py]", "edit: [train.py, more.py]"))
    (home / "more.py").write_text("x = 1\n")
    assert "`edit` names more.py, which is not committed" in run(home, code=2)
    (home / "train.py").write_text("changed = 1\n")
    assert "not committed" in run(home, code=2)


def test_experiments_and_dollars_are_hard_caps(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    counter = tmp_path / "calls"
    script = f"sh -c 'echo x >> {counter}; n=$(wc -l < {counter}); sed -i \"s/LR = .*/LR = 0.0$((10 + n))/\" train.py'"  # all worse
    words = (
        "--agent",
        f"command:{script}",
        "--usd-per-call",
        "1",
        "--max-usd",
        "3.5",
        "--max-minutes",
        "5",
    )
    run(home, *words)
    assert len(counter.read_text().splitlines()) == 3
    assert "3.5 dollars" in events(home, "stop")[-1]["reason"]
    run(home, "--fresh", "--max-experiments", "5", "--max-minutes", "5")
    assert tried(home) == 5
    assert events(home, "stop")[-1]["reason"] == "all 5 experiments are done"


def test_files_with_windows_line_ends_keep_them(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    (home / "train.py").write_bytes((home / "train.py").read_bytes().replace(b"\n", b"\r\n"))
    tiny.commit(home)
    run(
        home,
        "--agent",
        "command:sed -i 's/^LR = 0.1/LR = 0.3/' train.py",
        "--usd-per-call",
        "0",
        "--max-experiments",
        "1",
        "--max-minutes",
        "3",
    )
    told = tiny.git(home, "show", "--format=", "--numstat", "autoresearch/program")
    assert told.split() == ["1", "1", "train.py"]


def test_what_is_asked_before_the_noise_is_known_keeps_the_caps_too(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    agent = ("--agent", "command:echo '#' $$ $(date +%N) >> train.py", "--usd-per-call", "1")
    said = run(home, *agent, "--max-usd", "0.5", "--max-minutes", "3", "--state", "dollars")
    assert "could pass the 0.5 dollars (0.00 spent)" in said
    assert not events(home, "ask", "dollars")
    run(home, *agent, "--max-experiments", "1", "--max-minutes", "3", "--state", "number")
    assert len(events(home, "ask", "number")) == 1


def test_a_model_proposes_and_its_key_stays_out_of_everything(tmp_path: Path) -> None:
    key = "sk-ant-api03-planted-secret-value-0123456789"
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    rates = iter(range(15, 99))

    def answer(request: dict[str, Any]) -> Any:
        text = json.dumps(request)
        present = re.findall(r"LR = (0\.\d+)  # step", text)[-1]
        return reply(
            [("train.py", f"LR = {present}", f"LR = 0.{next(rates)}")],
            description=f"@everyone see #1 {key}",
        )

    with ModelServer(answer) as server:
        said = run(
            home,
            "--max-experiments",
            "4",
            "--max-minutes",
            "5",
            ANTHROPIC_API_KEY=key,
            ANTHROPIC_BASE_URL=server.url,
        )
        assert 4 <= len(server.requests) - len(events(home, "unmeasured")) <= 6
    spend = [event for event in events(home, "spend") if event.get("calls")]
    assert len(spend) >= 4
    assert all(event["usd"] > 0 for event in spend)
    assert key not in said
    for file in (home / ".autoresearch").rglob("*"):
        if file.is_file() and "repo.git" not in file.parts:
            assert key.encode() not in file.read_bytes(), file
    body = (home / ".autoresearch" / "PULL_REQUEST.md").read_text()
    assert "@everyone" not in body
    assert "everyone" in body


def test_a_plain_checkout_runs_unchanged(tmp_path: Path) -> None:
    """autoresearch-style: no front matter, no scorer, a literal seed, the time budget in prepare.py."""
    home = tmp_path / "home"
    source = (
        tiny.TRAIN.format(noise=0.01, salt=0)
        .replace('int(os.environ.get("AUTORESEARCH_SEED", "1"))', "SEED")
        .replace("LR = 0.1", "SEED = 1337\nLR = 0.1")
    )
    tiny.repository(
        home,
        program="# Research\n\nMake val_bpb lower. Only train.py may change.\n",
        prepare__py="TIME_BUDGET = 1\n",
    )
    (home / "train.py").write_text(source)
    tiny.commit(home)
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider")
    run(
        home,
        "--agent",
        f"patches:{tmp_path / 'ideas'}",
        "--max-minutes",
        "5",
        PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin",
    )
    assert [event["status"] for event in events(home, "verdict")] == ["keep", "keep"]
    assert events(home, "confirmation")[-1]["held"]
    assert events(home, "run")[0]["contract"]["run"] == "python train.py"
    body = (home / ".autoresearch" / "PULL_REQUEST.md").read_text()
    assert "self-reported" in body
    assert "literal seeds were replaced" in body


def test_a_second_run_goes_on_from_the_first_and_from_a_newer_base(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider")
    words = ("--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5")
    run(home, *words)
    (home / "README").write_text("A newer base.\n")
    base = tiny.commit(home, "Unrelated")
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("LR = 0.1", "LR = 0.2"), subject="Faster")
    run(home, *words)
    proposals = events(home, "proposal")
    assert [event["description"] for event in proposals][:2] == ["Wider", "Faster"]
    assert proposals[0]["parent"] == base
    assert events(home, "confirmation")[-1]["held"]
    assert tiny.git(home, "show", "autoresearch/program:README") == "A newer base."
    assert len(list((home / ".autoresearch" / "history").glob("*.jsonl"))) == 1


def test_a_folder_of_a_monorepo_is_a_project_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "root"
    home = root / "services" / "model"
    tiny.repository(home, program=PROGRAM)
    subprocess.run(["rm", "-rf", ".git"], cwd=home, check=True)
    (root / "other.py").write_text("KNOB = 1\n")
    tiny.git(root, "init", "-q", "-b", "main")
    tiny.commit(root)
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider")
    run(home, "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5")
    assert events(home, "confirmation")[-1]["held"]
    assert (
        tiny.git(root, "diff", "--name-only", "main", "autoresearch/services--model--program")
        == "services/model/train.py"
    )


def test_a_terminal_shows_where_it_stands(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    (home / "train.py").write_text(
        (home / "train.py").read_text().replace("PAUSE = 0.0", "PAUSE = 0.7")
    )
    tiny.commit(home)
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("LR = 0.1", "LR = 0.9"), subject="Too high")
    ours, theirs = pty.openpty()
    words = command("run", "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5")
    process = subprocess.Popen(
        words, cwd=home, env=environment(TERM="xterm", COLUMNS="100"), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65_536)
        except OSError:  # the other side has gone
            break
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "autoresearch · val_bpb" in text
    assert "the baseline on cpu:0 for" in text
    assert "incumbent: 1.5" in text
    assert "#1 discard" in text


@pytest.mark.battery
def test_a_proof_that_takes_too_long_is_cut_off_and_goes_on_next_time(tmp_path: Path) -> None:
    """The machine becomes slow after the search: the minutes are kept, and the next start finishes the confirmation."""
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    slow = "if held_out:\n    import time\n    time.sleep(6)\n"
    (home / "score.py").write_text((home / "score.py").read_text() + slow)
    tiny.commit(home)
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider")
    words = ("--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "1.2")
    started = time.monotonic()
    said = run(home, *words)
    assert time.monotonic() - started < 72
    assert "minutes are over" in said
    assert "Nothing is lost" in said
    before = events(home, "trial")
    run(home, *words[:-1], "5")
    assert events(home, "trial")[: len(before)] == before
    assert events(home, "confirmation")[-1]["held"]


SUSPECTS = """import os
import signal

loss = float(open("model.txt").read())
if 8.9 < loss < 10.5:
    os.kill(os.getpid(), signal.SIGSEGV)
if loss > 40:
    raise SystemExit("SUSPICIOUS: The model sees what it must not.")
print(f"val_bpb: {loss:.6f}")
"""


@pytest.fixture(scope="module")
def suspected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four ideas: one kills the scorer, one is caught by it, one fails, one is honest."""
    home = tiny.repository(tmp_path_factory.mktemp("suspects") / "home", score__py=SUSPECTS)
    for name, line in (("1", "loss = 9.5"), ("2", "loss += 50"), ("3", "loss = None")):
        tiny.patch(home, home / "ideas" / f"{name}.diff", ("with open", f"{line}\nwith open"))
    tiny.patch(home, home / "ideas" / "4.diff", ("WIDTH = 4", "WIDTH = 6"))
    run(home, "--agent", "patches:ideas", "--max-minutes", "5")
    return home


def test_what_no_honest_candidate_does_to_a_scorer_is_marked(suspected: Path) -> None:
    told = [event["suspicious"] for event in events(suspected, "verdict") if event["number"]]
    assert sorted(told) == [False, False, True, True]


@pytest.mark.parametrize("why", ["the scorer died (SIGSEGV).", "The model sees what it must not."])
def test_why_it_is_suspicious_is_said(suspected: Path, why: str) -> None:
    """By the signal that the scorer died of, and by the scorer's own word."""
    reasons = [event["reason"] for event in events(suspected, "verdict") if event["suspicious"]]
    assert f"Suspicious: {why}" in reasons


def test_the_report_counts_what_is_suspicious(suspected: Path) -> None:
    told = (suspected / ".autoresearch" / "PULL_REQUEST.md").read_text()
    assert "2 experiments did to the scorer what no honest one does" in told
