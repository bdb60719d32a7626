"""The harness's own cost: time per experiment on a trial that does nothing, start-up, and peak memory.

    python benchmark/overhead.py [--experiments 60]

Everything is on: checkout, sandbox, fsynced journal, verdict. The trial prints one number through /bin/sh, so what is
left is ours. Prints medians over the experiments of one run, and start-up and memory of that very process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MOST_MS, MOST_START, MOST_MB = 60, 1, 120  # per experiment (median), to the first trial, peak of the harness
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
        diff = subprocess.run(["git", "diff"], cwd=directory, check=True, capture_output=True).stdout
        (directory.parent / "patches" / f"{number:04d}.diff").write_bytes(diff)
    (directory / "train.py").write_text("x = 0\n")


def measure(experiments: int) -> dict[str, float]:
    """One whole run of the product on a trial that does nothing. Milliseconds, seconds and megabytes by name."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "r"
        repository(directory, experiments)
        made = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "autoresearch_action", "run", "--agent", "patches:../patches"]
        command += ["--max-experiments", str(experiments), "--max-minutes", "10"]
        begin = time.time()
        environment = os.environ | {"CI": "true", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL, env=environment)
        events = [json.loads(line) for line in (directory / ".autoresearch" / "ledger.jsonl").read_text().splitlines()]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    trials = [event for event in events if event["event"] == "trial"]
    verdicts = [event["at"] for event in events if event["event"] == "verdict" and event["number"]]
    gaps = [1000 * (later - earlier) for earlier, later in zip(verdicts, verdicts[1:], strict=False)]
    return {
        "experiments": len(verdicts),
        "median": statistics.median(gaps),
        "tenth": statistics.quantiles(gaps, n=10)[-1],
        "trial": 1000 * statistics.median(t["seconds"] for t in trials),
        "cpu": 1000 * (after.ru_utime + after.ru_stime - made.ru_utime - made.ru_stime) / len(verdicts),
        "start": trials[0]["started"] - begin,
        "memory": (after.ru_maxrss if after.ru_maxrss > before.ru_maxrss else float("nan")) / 1024,
    }


def report(told: dict[str, float]) -> list[str]:
    return [
        f"experiments                        {told['experiments']:.0f}",
        f"per experiment, median             {told['median']:.1f} ms  (aim: at most {MOST_MS})",
        f"per experiment, 90th percentile    {told['tenth']:.1f} ms",
        f"  of which inside the trial        {told['trial']:.1f} ms  (checkout, sandbox, command)",
        f"processor time per experiment      {told['cpu']:.1f} ms  (git, sandbox, start-up and report of the run included)",
        f"start of the process to first trial {told['start']:.2f} s  (aim: at most {MOST_START})",
        f"peak memory, harness               {told['memory']:.0f} MB  (aim: at most {MOST_MB})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiments", type=int, default=60)
    print("\n".join(report(measure(parser.parse_args().experiments))))


if __name__ == "__main__":
    main()
