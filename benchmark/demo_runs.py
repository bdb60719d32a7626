"""The demo, several times over, each with other seeds: how long it takes and in how many runs a
gain is confirmed.

    python benchmark/demo_runs.py [--runs 10] [--place DIR] [--write]

Runs benchmark/demo.sh (what `make demo` runs after its set-up) in a fresh clone each time and reads
the ledgers. About six minutes a run on two quiet cores; the data are prepared once, by the first
run that needs them. With `--place` the clones stay, and what is finished there is not run again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from small import HERE, machine, publish, table

from autoresearch_action.acceptance.early_stop import clopper_pearson
from autoresearch_action.ledger import RunState, read


def demo(place: Path, minutes: float) -> tuple[float, RunState]:
    """One demo in `place`: (minutes from its beginning, the data prepared, to its end; its
    run_state).
    """
    if (
        not (place / ".autoresearch" / "PULL_REQUEST.md").exists()
        or not read(place / ".autoresearch").finished
    ):
        _run(place, minutes)
    run_state = read(place / ".autoresearch")
    return (run_state.stopped - run_state.first) / 60, run_state


def _run(place: Path, minutes: float) -> None:
    env = os.environ | {
        "DEMO_DIRECTORY": str(place),
        "DEMO_MINUTES": f"{minutes:g}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run(["sh", "demo.sh"], cwd=HERE, env=env, check=True, stdout=sys.stderr)


def row(number: int, minutes: float, run_state: RunState) -> list[str]:
    told = run_state.confirmation
    assert told is not None
    kept = ", ".join(run_state.experiments[n].description for n in run_state.kept) or "–"
    if told.baseline is None or told.best is None:
        values, change = "–", "–"
    else:
        values, change = (
            f"{told.baseline:.4f} → {told.best:.4f}",
            f"{100 * (told.best / told.baseline - 1):+.1f} %".replace("-", "−"),
        )
    held = "yes" if told.held else "no"
    return [
        str(number),
        kept,
        f"{minutes:.1f}",
        str(run_state.tried),
        str(run_state.trials),
        held,
        values,
        change,
        str(told.pairs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="the demo's own limit (default 20)"
    )
    parser.add_argument(
        "--place",
        type=Path,
        help="where the clones are kept; default: a folder that goes at the end",
    )
    parser.add_argument(
        "--write", action="store_true", help="also write benchmark/results/demo_runs.md"
    )
    options = parser.parse_args()
    before, rows, held, took = machine(), [], 0, []
    with (
        nullcontext(options.place)
        if options.place
        else tempfile.TemporaryDirectory(prefix="autoresearch-demo-") as folder
    ):
        for number in range(1, options.runs + 1):
            minutes, run_state = demo(Path(folder).resolve() / f"run-{number}", options.minutes)
            rows.append(row(number, minutes, run_state))
            held += bool(run_state.improved)
            took.append(minutes)
    low, high = (clopper_pearson(held, options.runs, 0.025)[side] for side in (0, 1))
    lines = ["# The demo, over and over", ""]
    lines += [
        f"`python benchmark/demo_runs.py --runs {options.runs}" + " --write" * options.write + "`",
        "",
    ]
    lines += [f"{before}; at the end {machine()}.", ""]
    head = [
        "run",
        "kept",
        "minutes",
        "experiments",
        "trials",
        "confirmed",
        "held-out val_bpb",
        "change",
        "pairs",
    ]
    lines += table(head, rows)
    lines += [
        f"A gain was confirmed in {held} of {options.runs} runs (95 % interval {100 * low:.0f} to"
        f" {100 * high:.0f} %, Clopper & Pearson);"
        f" {min(took):.1f} to {max(took):.1f} minutes a run."
    ]
    publish("demo_runs", lines, options.write)


if __name__ == "__main__":
    main()
