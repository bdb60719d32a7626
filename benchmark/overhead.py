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

PROGRAM = """---
edit: [train.py]
run: "echo 'score: 1'"
metric: score
goal: maximize
exact: true
---
Nothing to find here.
"""


def repository(directory: Path, experiments: int) -> None:
    directory.mkdir()
    (directory / "program.md").write_text(PROGRAM)
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiments", type=int, default=60)
    experiments = parser.parse_args().experiments
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "r"
        repository(directory, experiments)
        command = [sys.executable, "-m", "autoresearch_action", "run", "--agent", "patches:../patches"]
        command += ["--max-experiments", str(experiments), "--max-minutes", "10"]
        begin = time.time()
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"CI": "true"})
        events = [json.loads(line) for line in (directory / ".autoresearch" / "ledger.jsonl").read_text().splitlines()]
    trials = [event for event in events if event["event"] == "trial"]
    verdicts = [event["at"] for event in events if event["event"] == "verdict" and event["number"]]
    gaps = [1000 * (later - earlier) for earlier, later in zip(verdicts, verdicts[1:], strict=False)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"experiments                        {len(verdicts)}")
    print(f"per experiment, median             {statistics.median(gaps):.1f} ms  (aim: at most 60)")
    print(f"per experiment, 90th percentile    {statistics.quantiles(gaps, n=10)[-1]:.1f} ms")
    print(
        f"  of which inside the trial        {1000 * statistics.median(t['seconds'] for t in trials):.1f} ms  (checkout, sandbox, command)"
    )
    print(f"start of the process to first trial {trials[0]['started'] - begin:.2f} s  (aim: at most 1)")
    print(f"peak memory, harness               {peak:.0f} MB  (aim: at most 120)")


if __name__ == "__main__":
    main()
