"""A/A on the real train.py: edits that do nothing but move the random stream must end without a
claim; a real gain is claimed.

    python benchmark/null_edits.py [--write]

Two runs of the real command on processor cores, in windows of five seconds: one with 22 edits that
change which numbers are drawn, or how a formula is written, and nothing else; one with an edit that
is known to help in so short a window. Takes about 15 minutes on two cores. Not a simulation of the
rules (acceptance.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
INIT = "        self.embedding.weight.normal_(0, 1, generator=generator)\n"
HEAD = "        self.head.weight.normal_(0, 0.001, generator=generator)\n"
Edit = tuple[str, tuple[tuple[str, str], ...]]


def null_edits() -> list[Edit]:
    """(name, replacements) of edits without effect on the mathematics or the time of a step."""
    draw = "        torch.rand((), generator=generator)\n"
    found: list[Edit] = [
        (f"{n} unused draws before the initialisation", ((INIT, draw * n + INIT),))
        for n in (1, 2, 3, 5)
    ]
    found += [
        (
            f"data in the order of dice {n}",
            (("default_rng([seed, 1])", f"default_rng([seed, {n}])"),),
        )
        for n in range(2, 8)
    ]
    found += [
        (f"initialisation from seed + {n}", (("manual_seed(seed)", f"manual_seed(seed + {n})"),))
        for n in range(1, 7)
    ]
    found.append(("head initialised before the embedding", ((INIT + HEAD, HEAD + INIT),)))
    found.append(
        (
            "blocks initialised from the last to the first",
            (("in self.named_parameters():", "in reversed(list(self.named_parameters())):"),),
        )
    )
    found.append(
        (
            "soft cap by a sigmoid",
            (("torch.tanh(logits / SOFTCAP)", "(2 * torch.sigmoid(2 * logits / SOFTCAP) - 1)"),),
        )
    )
    found.append(
        (
            "gate by a hyperbolic tangent",
            (("2 * torch.sigmoid(self.gate(", "1 + torch.tanh(0.5 * self.gate("),),
        )
    )
    found.append(
        ("relu by clamping", (("F.relu(self.up(norm(x)))", "self.up(norm(x)).clamp_min(0)"),))
    )
    names = (
        ("self.up, self.down", "self.rise, self.fall"),
        ("self.down(F.relu(self.up(", "self.fall(F.relu(self.rise("),
        ("down.weight", "fall.weight"),
    )
    found.append(("modules renamed", names))
    return found


GAIN: list[Edit] = [
    ("one layer in place of two", (("DEPTH = 8 if CUDA else 2", "DEPTH = 8 if CUDA else 1"),))
]


def patches(home: Path, edits: list[Edit], folder: Path) -> None:
    source = (home / "train.py").read_text()
    folder.mkdir()
    for index, (name, replacements) in enumerate(edits):
        text = source
        for old, new in replacements:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (home / "train.py").write_text(text)
        diff = subprocess.run(
            ["git", "diff"], cwd=home, check=True, capture_output=True, text=True
        ).stdout
        (folder / f"{index:02d}.diff").write_text(f"Subject: {name}\n\n{diff}")
    (home / "train.py").write_text(source)


def run_state(edits: list[Edit], place: Path) -> list[dict[str, object]]:
    """Run them through the command in a clone of its own; the ledger's events."""
    home = place / "home"
    subprocess.run(["git", "clone", "-q", str(HERE), str(home)], check=True)
    patches(home, edits, place / "patches")
    command = [
        sys.executable,
        "-m",
        "autoresearch_action",
        "run",
        "--program",
        "benchmark/demo.md",
        "--agent",
        f"patches:{place / 'patches'}",
    ]
    command += ["--slots", str(min(2, os.cpu_count() or 1)), "--max-minutes", "60"]
    environment = os.environ | {
        "PYTHONPATH": str(HERE),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    subprocess.run(command, cwd=home, check=True, env=environment, stdout=sys.stderr)
    return [
        json.loads(line)
        for line in (home / ".autoresearch" / "ledger.jsonl").read_text().splitlines()
    ]


def table(events: list[dict[str, object]]) -> list[str]:
    rows = ["| edit | val_bpb | verdict | runs |", "| --- | ---: | --- | ---: |"]
    for event in events:
        if event["event"] == "verdict":
            metrics = event["metrics"]
            assert isinstance(metrics, dict)
            value = f"{metrics['val_bpb']:.4f}" if "val_bpb" in metrics else "–"
            rows.append(
                f"| {event['description']} | {value} | {event['status']}: {event['reason']} |"
                f" {event['runs']} |"
            )
    rows += [
        "",
        *(
            f"Confirmation: {event['reason']}"
            for event in events
            if event["event"] == "confirmation"
        ),
    ]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--write", action="store_true", help="write benchmark/results/null_edits.md"
    )
    write = parser.parse_args().write
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "null").mkdir()
        (Path(folder) / "gain").mkdir()
        empty = run_state(null_edits(), Path(folder) / "null")
        real = run_state(GAIN, Path(folder) / "gain")
    held = [
        [event["held"] for event in events if event["event"] == "confirmation"][-1]
        for events in (empty, real)
    ]
    lines = ["# Edits that do nothing, and one that helps, on the real train.py", ""]
    lines += [
        f"`python benchmark/null_edits.py --write`: {time.monotonic() - started:.0f} s on"
        f" {os.cpu_count()} cores.",
        "",
    ]
    lines += [
        "## Nothing but other dice and other spellings",
        "",
        *table(empty),
        "",
        "## A known improvement",
        "",
        *table(real),
        "",
    ]
    lines += [
        f"Claimed falsely: {'yes' if held[0] else 'no'}. Real gain claimed:"
        f" {'yes' if held[1] else 'no'}."
    ]
    print("\n".join(lines))
    if write:
        (HERE / "benchmark" / "results").mkdir(exist_ok=True)
        (HERE / "benchmark" / "results" / "null_edits.md").write_text("\n".join(lines) + "\n")
    return int(held[0] or not held[1])


if __name__ == "__main__":
    sys.exit(main())
