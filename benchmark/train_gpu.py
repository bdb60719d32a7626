"""train.py on a CUDA card, and autoresearch's own train.py beside it: the same data, window, card
and scoring.

    python benchmark/train_gpu.py [--theirs DIR] [--seeds 6] [--window 300] [--minutes 180]
        [--write]
    python benchmark/train_gpu.py --cpu
        no card: ours for seconds, to see that the benchmark works

DIR is a checkout of autoresearch that you made. Its train.py runs as it is but for its literal
seeds, with autoresearch_adapter.py as its prepare.py. The two take turns, A B B A, so that a card
that warms up favours neither; no pair is begun that the minutes would cut off. Data are what is
prepared (`python prepare.py --source climbmix`: enough that nothing is seen twice).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from small import HERE, ROOT, machine, prepared, publish, table

from autoresearch_action.acceptance.sign_flip import interval
from autoresearch_action.workspace.rewrite import reseed

# Steps at the beginning that autoresearch's clock leaves out; ours compiles on a pass that trains
# nothing
UNTIMED = 11
STEP = re.compile(rb"step \d{5}")
# The best first
ATTENTION = {
    "kernels": "FlashAttention 3 from the package kernels, in both (in ours on a Hopper only)",
    "flash_attn_interface": "FlashAttention 3 as installed, in both; `kernels` is stood in for",
    "flex": (
        "no FlashAttention 3; theirs: flex_attention where a window slides, else"
        " scaled_dot_product_attention; ours: only that"
    ),
    "sdpa": (
        "no FlashAttention 3; scaled_dot_product_attention in both, with theirs' windows as masks,"
        " which is slow on a card"
    ),
}
SAME_KERNEL = """from kernels import get_kernel

flash_attn_func = get_kernel("varunneal/flash-attention-3").flash_attn_interface.flash_attn_func
"""


class Failed(Exception):
    """A script did not do what it should; the message is a sentence and the end of its output."""


@dataclass(frozen=True)
class Run:
    """One training: its summary block with val_bpb in it, and seconds from the outside."""

    told: dict[str, float]
    # To the first progress line, one step included
    start: float
    # From the last one to the end: hand-in (ours), evaluation (theirs)
    end: float
    # By a process of its own (ours)
    evaluation: float = 0.0

    @property
    def speed(self) -> float:
        return 1e6 * self.told["total_tokens_M"] / self.told["training_seconds"]


def lay_out_ours(folder: Path, attention: str = "") -> None:
    """Our two files; and the kernel that theirs fetches, where there is one, under the name that
    ours looks for.
    """
    folder.mkdir()
    for name in ("train.py", "prepare.py"):
        shutil.copy(ROOT / name, folder)
    if attention == "kernels":
        (folder / "flash_attn_interface.py").write_text(SAME_KERNEL)


def lay_out_theirs(folder: Path, choices: Iterable[str] = ATTENTION) -> str:
    """All but train.py, which each seed has its own of. Returns the first attention that works
    here.
    """
    folder.mkdir()
    shutil.copy(HERE / "autoresearch_adapter.py", folder / "prepare.py")
    shutil.copy(ROOT / "prepare.py", folder / "scorer.py")
    for choice in choices:
        env = os.environ | {"AUTORESEARCH_ATTENTION": choice}
        tried = subprocess.run(
            [sys.executable, "prepare.py"], cwd=folder, env=env, capture_output=True, text=True
        )
        if tried.returncode == 0:
            if choice != "kernels":
                (folder / "kernels.py").write_text("from prepare import get_kernel\n")
            return choice
    raise Failed(f"The adapter does not run: {tried.stderr.strip()[-2000:]}")


def measure(folder: Path, seed: int, window: float, attention: str = "") -> Run:
    """train.py in `folder`, and `prepare.py evaluate` where it printed no val_bpb."""
    env = os.environ | {
        "AUTORESEARCH_SEED": str(seed),
        "AUTORESEARCH_TIME_BUDGET": f"{window:g}",
        "AUTORESEARCH_SPLIT": "val",
    }
    # Cold the first time
    env |= {
        "AUTORESEARCH_ATTENTION": attention,
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    begin, first, last, text = time.perf_counter(), 0.0, 0.0, b""
    with open(folder / "errors.txt", "w+b") as errors:
        process = subprocess.Popen(
            [sys.executable, "train.py"], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            text += chunk
            if STEP.search(text[-len(chunk) - 10 :]):
                last = time.perf_counter()
                first = first or last
        code, end = process.wait(), time.perf_counter()
        errors.seek(0)
        tail = (text[-1000:] + errors.read()[-2000:]).decode(errors="replace")
    block = text.decode(errors="replace").rpartition("---\n")[2]
    told = {
        name: float(value)
        for name, value in re.findall(r"^(\w+): +([\d.]+)\s*$", block, re.MULTILINE)
    }
    if code or not first or "num_steps" not in told:
        raise Failed(
            f"{folder.name}, seed {seed}: train.py ended with {code}. The end of its"
            f" output:\n{tail}"
        )
    # Its tokens include those of the steps that its seconds leave out
    if "val_bpb" in told:
        told["total_tokens_M"] *= 1 - UNTIMED / max(UNTIMED + 1, told["num_steps"])
        return Run(told, first - begin, end - last)
    begun = time.perf_counter()
    scored = subprocess.run(
        [sys.executable, "prepare.py", "evaluate"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    found = re.search(r"^val_bpb: (\S+)$", scored.stdout, re.MULTILINE)
    if found is None:
        raise Failed(f"{folder.name}, seed {seed}: not scored: {scored.stderr.strip()[-2000:]}")
    return Run(
        told | {"val_bpb": float(found[1])}, first - begin, end - last, time.perf_counter() - begun
    )


def report(runs: Mapping[str, list[Run]]) -> list[str]:
    """A column for each script, and whether ours reached the lower val_bpb."""
    bpb = {name: [run.told["val_bpb"] for run in side] for name, side in runs.items()}

    def row(name: str, cell: Callable[[list[Run]], str]) -> list[str]:
        return [name, *map(cell, runs.values())]

    def mean(name: str, key: str, form: str) -> list[str]:
        return row(name, lambda side: format(fmean(run.told[key] for run in side), form))

    lines = table(
        [f"{len(bpb['ours'])} seeds", *runs],
        [
            mean("val_bpb, mean", "val_bpb", ".6f"),
            [
                "  standard deviation",
                *(f"{stdev(b):.6f}" if len(b) > 1 else "–" for b in bpb.values()),
            ],
            ["  range", *(f"{min(b):.6f} to {max(b):.6f}" for b in bpb.values())],
            row("tokens/s", lambda side: f"{fmean(run.speed for run in side):,.0f}"),
            mean("MFU as it counts it, %", "mfu_percent", ".2f"),
            mean("peak memory, MB", "peak_vram_mb", ",.0f"),
            row("start to first step, s: cold", lambda side: f"{side[0].start:.1f}"),
            row(
                "  then, median",
                lambda side: f"{median(run.start for run in side[1:]):.1f}" if side[1:] else "–",
            ),
            mean("training, s", "training_seconds", ".1f"),
            row(
                "hand-in, s",
                lambda side: f"{fmean(run.end for run in side):.1f}" if side[0].evaluation else "–",
            ),
            row(
                "evaluation, s",
                lambda side: f"{fmean(run.evaluation or run.end for run in side):.1f}",
            ),
            mean("steps", "num_steps", ",.0f"),
        ],
    )
    if "theirs" not in runs:
        return lines
    gaps = [b - a for a, b in zip(bpb["ours"], bpb["theirs"], strict=True)]
    low, high = interval(gaps)
    chance = low is None or low <= 0
    verdict = (
        "Ours did NOT reach"
        if fmean(gaps) <= 0
        else "Chance aside, ours reached"
        if chance
        else "Ours reached"
    )
    told = (
        f"95 % interval {low:+.6f} to {high:+.6f}"
        if low is not None
        else "too few for a 95 % interval, which takes 6"
    )
    return [
        *lines,
        f"{verdict} the lower val_bpb: theirs − ours {fmean(gaps):+.6f} over {len(gaps)} pairs,"
        f" {told}.",
    ]


def facts(window: float) -> list[str]:
    import torch

    import prepare

    told, lines = (
        prepare.meta(),
        [machine(), f"Python {platform.python_version()}, torch {torch.__version__}"],
    )
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        lines.append(
            f"{card.name}, {card.total_memory / 2**30:.0f} GB, CUDA {torch.version.cuda}, cuDNN"
            f" {torch.backends.cudnn.version()}"
        )
    return [
        *lines,
        f"{Path(told['source']).name}, profile {told['profile']['name']}:"
        f" {told['tokens']['train']:,} tokens for training, "
        f"contents {told['contents'][:12]}; windows of {window:g} s",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--theirs",
        type=Path,
        metavar="DIR",
        help="a checkout of autoresearch; without it ours alone is measured",
    )
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument(
        "--window", type=float, help="seconds of training, default 300 (with --cpu 3)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=180.0,
        help="most that it takes; fewer seeds then (default 180)",
    )
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="ours alone on processor cores, as a test of this benchmark",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="also write benchmark/results/train_gpu.md (not with --cpu)",
    )
    options, begun = parser.parse_args(), time.monotonic()
    if options.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    import prepare

    if options.cpu and options.theirs:
        print("autoresearch's train.py needs CUDA: ours runs alone.", file=sys.stderr)
        options.theirs = None
    elif not options.cpu and not torch.cuda.is_available():
        print(
            "There is no CUDA card that torch can use here: --cpu tries the benchmark without one.",
            file=sys.stderr,
        )
        return 3
    script = options.theirs / "train.py" if options.theirs else None
    if script and not script.is_file():
        print(
            f"{options.theirs} holds no train.py: name a checkout of autoresearch.", file=sys.stderr
        )
        return 2
    prepared() if options.cpu else prepare.prepare(None, prepare.PROFILES["cuda"])
    window, attention, took = options.window or (3.0 if options.cpu else 300.0), "", 0.0
    runs: dict[str, list[Run]] = {"ours": [], "theirs": []} if script else {"ours": []}
    notes = [f"`{' '.join(['python', 'benchmark/train_gpu.py', *sys.argv[1:]])}`", *facts(window)]
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in runs}
        try:
            if script:
                attention = lay_out_theirs(folders["theirs"])
                lines = reseed(script.read_bytes(), 0)[1]
                notes.append(
                    f"theirs: train.py {prepare.sha256(script)[:12]}, literal seeds replaced in"
                    f" lines {lines}; its MFU is against "
                    f"an H100, and {UNTIMED} steps come before its clock starts"
                )
                notes.append(f"attention: {ATTENTION[attention]}")
            lay_out_ours(folders["ours"], attention)
            for seed in range(1, options.seeds + 1):
                pair = time.monotonic()
                # The first one compiles
                if seed > 2 and pair - begun + took > 60 * options.minutes:
                    print(f"The minutes end it after {seed - 1} seeds.", flush=True)
                    break
                for name in list(runs)[:: 1 if seed % 2 else -1]:
                    if name == "theirs" and script:
                        (folders[name] / "train.py").write_bytes(
                            reseed(script.read_bytes(), seed)[0]
                        )
                    runs[name].append(run := measure(folders[name], seed, window, attention))
                    print(
                        f"{name}, seed {seed}: val_bpb {run.told['val_bpb']:.6f}, {run.speed:,.0f}"
                        " tokens/s, first step after "
                        f"{run.start:.1f} s, hand-in {run.end:.1f} s, evaluation"
                        f" {run.evaluation:.1f} s",
                        flush=True,
                    )
                took = time.monotonic() - pair
        except Failed as problem:
            print(problem, file=sys.stderr)
            return 1
    lines = ["# train.py on a CUDA card", "", *(f"- {note}" for note in notes), "", *report(runs)]
    publish("train_gpu", lines, options.write and not options.cpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
