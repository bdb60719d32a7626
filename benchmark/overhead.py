"""The harness's own cost: time per experiment on a trial that does nothing, start-up, peak memory,
and a decision's cost on a short and on a very long ledger.

    python benchmark/overhead.py [--experiments 60]

Everything is on: checkout, sandbox, fsynced journal, verdict. The trial prints one number through
/bin/sh, so what is left is ours. Prints medians over the experiments of one run, and start-up and
memory of that very process; and what the sandbox alone costs over the same command started bare.
Most of that is waiting for the kernel's grace periods when mounts are taken away, which a busy
machine makes longer: see the load that is printed with it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import quick  # noqa: E402
import tiny  # noqa: E402
from model_server import ModelServer, reply  # noqa: E402

from autoresearch_action.isolation import Job  # noqa: E402
from autoresearch_action.isolation.log import Log  # noqa: E402
from autoresearch_action.isolation.process import Limits  # noqa: E402
from autoresearch_action.isolation.sandbox import choose, start  # noqa: E402
from autoresearch_action.records import Trial  # noqa: E402

# Per experiment (median), to the first trial, peak of the harness
MOST_MS, MOST_START, MOST_MB = 60, 1, 120
# Over a bare subprocess (median)
MOST_SANDBOX_MS, STARTS = 30, 30
# Experiments that a ledger holds already when the decisions on the next ones are timed
SHORT, LONG, DECISIONS = 100, 100_000, 24
PEAK = """import atexit, resource, sys
atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))
from autoresearch_action.cli import main
main()
"""
PROGRAM = """---
edit: [train.py]
run: "{run}"
metric: score
goal: maximize
exact: true
---
Nothing to find here.
"""


def repository(directory: Path, experiments: int, run: str = "echo 'score: 1'") -> None:
    """A repository whose experiments find nothing, and as many patches of it beside it."""
    directory.mkdir(parents=True)
    (directory / "program.md").write_text(PROGRAM.format(run=run))
    (directory / "train.py").write_text("x = 0\n")
    (directory / ".gitignore").write_text(".autoresearch/\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Start"]):
        subprocess.run([*git, *words], cwd=directory, check=True)
    (directory.parent / "patches").mkdir()
    for number in range(1, experiments + 1):
        (directory / "train.py").write_text(f"x = {number}\n")
        diff = subprocess.run(
            ["git", "diff"], cwd=directory, check=True, capture_output=True
        ).stdout
        (directory.parent / "patches" / f"{number:04d}.diff").write_bytes(diff)
    (directory / "train.py").write_text("x = 0\n")


def measure(experiments: int) -> dict[str, float]:
    """One whole run of the product on a trial that does nothing, and the sandbox alone.
    Milliseconds, seconds and megabytes by name.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "r"
        repository(directory, experiments)
        made = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            sys.executable,
            "-m",
            "autoresearch_action",
            "run",
            "--agent",
            "patches:../patches",
        ]
        command += ["--max-experiments", str(experiments), "--max-minutes", "10"]
        begin = time.time()
        environment = os.environ | {"CI": "true", "PYTHONPATH": str(ROOT)}
        subprocess.run(
            command, cwd=directory, check=True, stdout=subprocess.DEVNULL, env=environment
        )
        events = [
            json.loads(line)
            for line in (directory / ".autoresearch" / "ledger.jsonl").read_text().splitlines()
        ]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    trials = [event for event in events if event["event"] == "trial"]
    verdicts = [event["at"] for event in events if event["event"] == "verdict" and event["number"]]
    gaps = [
        1000 * (later - earlier) for earlier, later in zip(verdicts, verdicts[1:], strict=False)
    ]
    return {
        "experiments": len(verdicts),
        "median": statistics.median(gaps),
        "tenth": statistics.quantiles(gaps, n=10)[-1],
        "trial": 1000 * statistics.median(t["seconds"] for t in trials),
        "cpu": 1000
        * (after.ru_utime + after.ru_stime - made.ru_utime - made.ru_stime)
        / len(verdicts),
        "start": trials[0]["started"] - begin,
        "memory": (after.ru_maxrss if after.ru_maxrss > before.ru_maxrss else float("nan")) / 1024,
        **sandboxed(),
        **starts(),
        # Last: a child's peak is at least that of the process it was started by
        **decisions(),
    }


def starts() -> dict[str, float]:
    """Seconds to the first trial and peak megabytes of the harness, by agent: a run of a few ideas
    each.

    Claude's answers come from the tests' server on loopback.
    """
    told: dict[str, float] = {}
    edits = [
        reply([("train.py", "X = ", f"X = {number} + ")], f"Plus {number}")
        for number in range(1, 5)
    ]
    with tempfile.TemporaryDirectory() as place, ModelServer(edits) as server:
        directory = Path(place) / "r"
        repository(directory, 1)
        (directory / "train.py").write_text("X = 0.5\n")
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qam", "X"],
            cwd=directory,
            check=True,
        )
        for agent in ("optuna", "claude"):
            key = (
                {"ANTHROPIC_API_KEY": "nothing", "ANTHROPIC_BASE_URL": server.url}
                if agent == "claude"
                else {}
            )
            state, words = (
                Path(place) / agent,
                ["--agent", agent, "--max-experiments", "3", "--max-minutes", "5"],
            )
            begin = time.time()
            environment = os.environ | {"CI": "true", "PYTHONPATH": str(ROOT)} | key
            shown = subprocess.run(
                [sys.executable, "-c", PEAK, "run", *words, "--state", str(state)],
                cwd=directory,
                check=True,
                capture_output=True,
                text=True,
                env=environment,
            )
            trials = (
                event
                for line in (state / "ledger.jsonl").open()
                if (event := json.loads(line))["event"] == "trial"
            )
            told |= {
                f"{agent} start": next(trials)["started"] - begin,
                f"{agent} memory": float(shown.stderr.split()[-1]) / 1024,
            }
    return told


def sandboxed() -> dict[str, float]:
    """Median milliseconds of /bin/sh that does nothing: bare, and as a trial is started, watched
    and ended.
    """
    isolation, taken = choose(), {"bare": [], "sandboxed": []}  # type: ignore[var-annotated]
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        tree.mkdir()
        job = Job(
            "true",
            tree,
            tree,
            Path(),
            {"PATH": os.environ["PATH"]},
            cores=sorted(os.sched_getaffinity(0)),
        )
        for _ in range(STARTS):
            begin = time.perf_counter()
            subprocess.run(["/bin/sh", "-c", "true"], check=True)
            taken["bare"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            start(isolation, job, Limits(), Log(tree.with_name("log"))).wait()
            taken["sandboxed"].append(time.perf_counter() - begin)
    told = {name: 1000 * statistics.median(seconds) for name, seconds in taken.items()}
    return told | {"own": told["sandboxed"] - told["bare"], "load": os.getloadavg()[0]}


def decisions() -> dict[str, float]:
    """Median milliseconds from one verdict to the next, proposal and git included, on trials that
    take no time, by the number of experiments that the ledger holds. Time is the metric, so that
    the rule looks back on what others measured.
    """
    told = {}
    for size in (SHORT, LONG):
        with tempfile.TemporaryDirectory() as place:
            home = Path(place) / "home"
            ledger = long_ledger(home, size)
            edits = [("LR = 0.1", f"LR = 0.3{number:02d}") for number in range(DECISIONS)]
            quick.go(home, quick.Agent(edits), slower, max_experiments=size + DECISIONS)
            last = ledger.read_text().splitlines()[-9 * DECISIONS :]
            events = [json.loads(line) for line in last]
        at = [event["at"] for event in events if event["event"] == "verdict"][-DECISIONS:]
        gaps = [later - earlier for earlier, later in zip(at, at[1:], strict=False)]
        told[f"decision {size}"] = 1000 * statistics.median(gaps)
    return told


def long_ledger(home: Path, size: int) -> Path:
    """A repository whose run, interrupted, has tried `size` experiments; its ledger."""
    quick.repository(home, "LR = 0.1\n")
    program = (home / "program.md").read_text().replace("val_bpb", "seconds")
    (home / "program.md").write_text(program)
    tiny.commit(home)
    quick.go(home, quick.Agent([("LR = 0.1", "LR = 0.2")]), slower, max_experiments=1)
    ledger = home / ".autoresearch" / "ledger.jsonl"
    prolong(ledger, size)
    return ledger


def slower(literals: dict[str, float], trial: Trial) -> float:
    return 100 + 10 * (literals["LR"] != 0.1) + random.Random(trial.seed).gauss(0, 0.1)


def prolong(ledger: Path, size: int) -> None:
    """The ledger of one experiment as that of `size`: its lines again and again, renumbered."""
    lines = ledger.read_text().splitlines()
    events = [(json.loads(line), line) for line in lines]
    (made,) = (event for event, _ in events if event["event"] == "proposal")
    mine = [line for event, line in events if event.get("number") == 1]
    first = ("run", "session", "trial", "fact", "verdict")
    with ledger.open("w") as file:
        for event, line in events:
            if event["event"] in first and event.get("number", 0) == 0:
                file.write(f"{line}\n")
        for number in range(1, size + 1):
            commit = f"{number:040x}"
            for line in mine:
                line = line.replace('"number":1,', f'"number":{number},')
                line = line.replace(made["commit"], commit).replace(made["tree"], commit[::-1])
                file.write(f"{line}\n")
        # Or the run's own syncs wait for all of it
        file.flush()
        os.fsync(file.fileno())


def report(told: dict[str, float]) -> list[str]:
    return [
        f"experiments                        {told['experiments']:.0f}",
        f"per experiment, median             {told['median']:.1f} ms  (aim: at most {MOST_MS})",
        f"per experiment, 90th percentile    {told['tenth']:.1f} ms",
        f"  of which inside the trial        {told['trial']:.1f} ms  (checkout, sandbox, command)",
        f"processor time per experiment      {told['cpu']:.1f} ms"
        "  (git, sandbox, start-up and report of the run included)",
        f"start of the process to first trial {told['start']:.2f} s  (aim: at most {MOST_START})",
        f"peak memory, harness               {told['memory']:.0f} MB  (aim: at most {MOST_MB})",
        *(
            f"with {agent:8} start {told[f'{agent} start']:.2f} s, peak"
            f" {told[f'{agent} memory']:.0f} MB  (aim: at most {most})"
            for agent, most in (("optuna", "1 s, 120 MB"), ("claude", "2 s, 180 MB"))
        ),
        *(
            f"a decision after {size:7,} experiments {told[f'decision {size}']:.1f} ms"
            for size in (SHORT, LONG)
        ),
        f"/bin/sh, bare                      {told['bare']:.1f} ms  (median of {STARTS})",
        f"/bin/sh, in the sandbox            {told['sandboxed']:.1f} ms",
        f"  the sandbox's own                {told['own']:.1f} ms"
        f"  (aim: at most {MOST_SANDBOX_MS}, at load {told['load']:.0f})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiments", type=int, default=60)
    print("\n".join(report(measure(parser.parse_args().experiments))))


if __name__ == "__main__":
    main()
