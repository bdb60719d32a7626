"""Where each second of an experiment goes, from the ledger of any run: a table and a picture of
slot use.

    python benchmark/timeline.py [STATE] [--picture FILE] [--write]
        STATE: a state folder, default .autoresearch

`run` is split into start-up, training and hand-in where the program prints progress lines, by the
clock that the harness read at the first and the last of them; `training_seconds`, where it is
printed, says how long training was. "Harness" is what a trial took beside its phases (sandbox,
hand-over, reading); "between trials" is a slot that waited, for a decision, a checkout, a model or
the end. Writes STATE/timeline.png. Reads nothing but ledger.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small import machine, publish, table

from autoresearch_action.ledger.experiments import measurement

PHASES = (
    "checkout",
    "check",
    "compile",
    "start-up",
    "training",
    "hand-in",
    "run",
    "evaluate",
    "harness",
)
COLOURS = {
    "checkout": "#8c6d31",
    "check": "#9467bd",
    "start-up": "#ff9e4a",
    "training": "#2a9d4a",
    "hand-in": "#c7a0dc",
    "run": "#2a9d4a",
    "compile": "#17becf",
    "evaluate": "#3b7dd8",
    "harness": "#d62728",
}
# Trials in the picture: the newest
WIDEST = 400


@dataclass(frozen=True)
class Stretch:
    """One trial: when, where, and its seconds by PHASES."""

    slot: str
    started: float
    seconds: float
    purpose: str
    outcome: str
    parts: dict[str, float]

    @property
    def ended(self) -> float:
        return self.started + self.seconds


def read(ledger: Path) -> Iterator[Stretch]:
    """The trials of a ledger as they were journalled; a torn last line is passed over."""
    with ledger.open("rb") as file:
        for line in file:
            if line.startswith(b'{"event":"trial"') and line.endswith(b"\n"):
                event = json.loads(line)
                facts = (
                    event["slot"],
                    event["started"],
                    event["seconds"],
                    measurement(event).trial.purpose,
                    event["outcome"],
                )
                yield Stretch(*facts, parts(event))


def parts(event: dict[str, Any]) -> dict[str, float]:
    """Seconds by phase; what is in none of them is the harness."""
    phases = dict(event["phases"])
    found = {
        name: phases.pop(name)
        for name in ("checkout", "check", "compile", "evaluate")
        if name in phases
    }
    if "run" in phases:
        found |= split(
            phases["run"], event["curve"], event["clock"], event["metrics"].get("training_seconds")
        )
    found["harness"] = max(0.0, event["seconds"] - sum(event["phases"].values()))
    return found


def split(
    run: float, curve: list[list[float]], clock: float, told: float | None
) -> dict[str, float]:
    """`run` in three; on a processor slot the clock is the whole tree's CPU time, so only its
    shares count.
    """
    if len(curve) < 2 or clock <= 0:
        return {"run": run}
    before, during = curve[0][0], curve[-1][0] - curve[0][0]
    after = max(0.0, clock - before - during)
    training = min(run, told if told is not None else run * during / (before + during + after))
    rest = run - training
    start = rest * before / (before + after) if before + after else 0.0
    return {"start-up": start, "training": training, "hand-in": rest - start}


def report(trials: list[Stretch]) -> list[str]:
    slots: dict[str, list[Stretch]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: trial.started):
        slots[trial.slot].append(trial)
    begin, end = min(trial.started for trial in trials), max(trial.ended for trial in trials)
    whole = (end - begin) * len(slots)
    gaps = [
        later.started - earlier.ended
        for row in slots.values()
        for earlier, later in zip(row, row[1:], strict=False)
    ]
    idle = whole - sum(trial.seconds for trial in trials)
    spent = {
        name: [trial.parts[name] for trial in trials if name in trial.parts] for name in PHASES
    }
    rows = [[name, *_cells(values, sum(values), whole)] for name, values in spent.items() if values]
    rows.append(["between trials", *_cells(gaps, idle, whole)])
    lines = [
        f"{len(trials)} trials on {len(slots)} slot{'s' * (len(slots) != 1)} in {end - begin:.1f}"
        " s.",
        "",
    ]
    lines += table(["where", "times", "median, s", "in all, s", "of slot time"], rows)
    uses: dict[tuple[str, str], list[float]] = defaultdict(list)
    for trial in trials:
        uses[trial.purpose, trial.outcome].append(trial.seconds)
    rows = [
        [purpose, outcome, str(len(s)), f"{sum(s):.1f}", f"{100 * sum(s) / whole:.1f} %"]
        for (purpose, outcome), s in uses.items()
    ]
    return lines + table(["what for", "outcome", "trials", "in all, s", "of slot time"], rows)


def _cells(values: list[float], total: float, whole: float) -> list[str]:
    return [
        str(len(values)),
        f"{statistics.median(values or [0.0]):.3f}",
        f"{total:.1f}",
        f"{100 * total / whole:.2f} %",
    ]


def draw(trials: list[Stretch], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    shown = sorted(trials, key=lambda trial: trial.started)[-WIDEST:]
    slots = sorted({trial.slot for trial in shown})
    begin = shown[0].started
    figure, axes = pyplot.subplots(figsize=(11, 1.6 + 0.6 * len(slots)), layout="constrained")
    for row, slot in enumerate(slots):
        for trial in (trial for trial in shown if trial.slot == slot):
            at = trial.started - begin
            for name in PHASES:
                if trial.parts.get(name):
                    axes.broken_barh(
                        [(at, trial.parts[name])],
                        (row - 0.4, 0.8),
                        color=COLOURS[name],
                        linewidth=0,
                    )
                    at += trial.parts[name]
            if trial.outcome != "ok":
                axes.text(
                    trial.ended - begin,
                    row + 0.42,
                    "×",
                    ha="right",
                    va="bottom",
                    fontsize=8,
                    color="#d62728",
                )
    axes.set_yticks(range(len(slots)), slots)
    axes.set_ylim(-0.6, len(slots) - 0.2)
    axes.set_xlim(0, max(trial.ended for trial in shown) - begin)
    axes.set_xlabel(
        "seconds from the first trial shown; white: the slot waits, ×: not measured to the end"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    used = [name for name in PHASES if any(trial.parts.get(name) for trial in shown)]
    handles = [Patch(color=COLOURS[name], label=name) for name in used]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(used), frameon=False, fontsize=9
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("state", nargs="?", type=Path, default=Path(".autoresearch"))
    parser.add_argument(
        "--picture", type=Path, help="where the picture goes (default STATE/timeline.png)"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="also write benchmark/results/timeline.md and timeline.png",
    )
    options = parser.parse_args()
    ledger = options.state / "ledger.jsonl"
    if not ledger.exists():
        sys.exit(
            f"{ledger} is not there: `autoresearch run` makes one (make demo), or name another"
            " state folder."
        )
    trials = list(read(ledger))
    if not trials:
        sys.exit(f"{ledger} holds no trial yet.")
    picture = options.picture or options.state / "timeline.png"
    draw(trials, picture)
    if options.write:
        draw(trials, Path(__file__).resolve().parent / "results" / "timeline.png")
    command = f"python benchmark/timeline.py {options.state}" + " --write" * options.write
    lines = ["# Where the time goes", "", f"`{command}` ({machine()})", "", *report(trials)]
    publish(
        "timeline",
        [*lines, *(["![slot use](timeline.png)"] if options.write else [f"Picture: {picture}"])],
        options.write,
    )


if __name__ == "__main__":
    main()
