"""The real trio, small: prepare.py, train.py and program.md in a repository, with data that are prepared once.

A window of STEP seconds is one step long, so that an edit which changes nothing scores the same to the last digit.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import bench
import tiny

import prepare
from autoresearch_action.records import Measurement
from autoresearch_action.trials.slot import SlotContext

HERE = Path(prepare.__file__).resolve().parent
SMALL = prepare.Profile("cpu", 32, 400, 300.0, 4096, 8, 1 << 20, 2 << 20)
STEP = 0.001
KNOBS = {
    "DEPTH": "2",
    "WIDTH": "32",
    "HEAD_DIM": "16",
    "TOKENS_PER_STEP": "512",
    "VALUE_GATE_WIDTH": "8",
}
MARK = (
    f"cheat-{os.getpid()}-mark"  # in the name of everything that a candidate tries to leave behind
)


def program(data: Path) -> str:
    text = (HERE / "program.md").read_text()
    text, count = re.subn(
        r"^(data|evaluate-data): \[~/\.cache/autoresearch/(\w+)\]$",
        rf"\1: [{data}/\2]",
        text,
        flags=re.MULTILINE,
    )
    assert count == 2
    return text


def train() -> str:
    """train.py with a tiny model."""
    source = (HERE / "train.py").read_text()
    for name, value in KNOBS.items():
        source, count = re.subn(rf"^{name} = .*", f"{name} = {value}", source, flags=re.MULTILINE)
        assert count == 1, name
    return source


def edited(*edits: tuple[str, str]) -> str:
    """train.py with each (old, new) replaced; `old` must be there."""
    source = train()
    for old, new in edits:
        assert old in source, old
        source = source.replace(old, new, 1)
    return source


def first(code: str) -> str:
    """train.py with `code` before anything else."""
    return edited(
        ("from __future__ import annotations\n", f"from __future__ import annotations\n\n{code}\n")
    )


def last(code: str) -> str:
    """train.py with `code` after the model was handed in."""
    return edited(
        (
            "    prepare.submit(model)\n",
            "    prepare.submit(model)\n" + "".join(f"    {line}\n" for line in code.splitlines()),
        )
    )


def repository(directory: Path, data: Path) -> SlotContext:
    root = tiny.repository(
        directory,
        program=program(data),
        prepare__py=(HERE / "prepare.py").read_text(),
        train__py=train(),
    )
    (root / "score.py").unlink()
    (root / "tests").mkdir()
    (root / "tests" / "test_model.py").write_text("def test_it() -> None:\n    assert True\n")
    tiny.commit(root)
    at = bench.make(root)
    return dataclasses.replace(
        at, slot=type(at.slot)("cpu:0", cores=at.slot.cores[:1], memory=4 << 30)
    )


def measure(at: SlotContext, text: str, budget: float = STEP, **facts: object) -> Measurement:
    limits = {"run": 60.0, "evaluate": 60.0} | dict(facts.pop("limits", {}))  # type: ignore[call-overload]
    return bench.candidate(at, text, time_budget=budget, limits=limits, **facts)
