"""The embedded data are Python's own library, which every trial can read: what is evaluated on is hidden from it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import prepare
from autoresearch_action.trials.slot import SlotContext

CHEAT = """
import hashlib, os, sys
wanted = WANTED
places = {"/usr", "/opt", "/home", "/root", sys.prefix, sys.base_prefix, os.getcwd(), os.path.expanduser("~")}
found = set()
for place in places:
    for folder, below, names in os.walk(place):
        below[:] = [name for name in below if not name.endswith("-packages")]
        paths = [os.path.join(folder, name) for name in names if name.endswith(".py")]
        found |= {hashlib.sha256(open(path, "rb").read()).hexdigest() for path in paths if os.path.isfile(path)}
print("evaluation documents found:", len(wanted & found), "of", len(wanted), flush=True)
try:
    import turtle
    print("imported", turtle.__file__)
except ImportError as error:
    print(error, flush=True)
sys.exit(3)
"""


@pytest.mark.parametrize(
    "guarded",
    [True, pytest.param(False, marks=pytest.mark.battery, id="else the probe finds them")],
)
def test_evaluation_documents_do_not_lie_in_the_open(
    at: SlotContext, data: Path, guarded: bool
) -> None:
    source = prepare.open_source("stdlib", 0)
    pinned = [
        text for text, pin in source.documents() if pin and len(text) > 200
    ]  # shorter ones stand in many places
    wanted = {hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in pinned[::3]}
    assert len(wanted) > 10
    evaluated = at.brief.evaluate_data[0]
    text = trio.first(CHEAT.replace("WANTED", repr(wanted)))
    before = (evaluated / "hidden.txt").read_text()
    try:
        (evaluated / "hidden.txt").write_text(
            "".join(f"{path}\n" for path in source.hidden) if guarded else ""
        )
        measured = trio.measure(at, text)
    finally:
        (evaluated / "hidden.txt").write_text(before)
    log = (at.state / measured.log).read_text()
    (at.state / measured.log).unlink()
    assert measured.outcome == "crash", log
    assert (f"found: 0 of {len(wanted)}" in log) is guarded and (
        "is evaluation data here" in log
    ) is guarded, log
    assert ("imported " in log) is not guarded, log


def test_evaluation_is_on_pinned_documents_alone(tmp_path: Path) -> None:
    """A near-duplicate of a document that trials can read stays on the side of training."""
    texts = [f"def f{i}(x):\n    return x + {i * 7919}\n" * 30 for i in range(120)]
    for i, text in enumerate(texts):
        (tmp_path / f"{i:03d}.py").write_text(text)
    (tmp_path / "999.py").write_text(texts[119].upper() + "# twin")  # of a pinned one
    files = sorted(tmp_path.glob("*.py"))
    source = prepare._files("some", files, pinned=files[20:120])
    split = [side for side, _ in prepare.assign(source)]
    assert {*split[:20], split[119], split[120]} == {"train"} and {*split} == {
        "train",
        "val",
        "holdout",
    }
    count = sum(side != "train" for side in split)
    assert 0.25 * len(files) <= count <= 0.4 * len(files)


@pytest.mark.battery
def test_no_training_program_needs_what_is_hidden() -> None:
    code = "import sys, torch, numpy, tqdm, requests, torch.export, torch._dynamo, torch._inductor.compile_fx, torch.utils.data, prepare\n"
    code += "print([m for m in sys.modules if m.split('.')[0] in {n.removesuffix('.py') for n in prepare.SPARE}])"
    here = Path(prepare.__file__).parent
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=here, check=True, capture_output=True, text=True
    )
    assert shown.stdout.strip() == "[]"
