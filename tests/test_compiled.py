"""The untimed pass that compiles a tree: once, on a decoy, under a limit; what it leaves is read by that tree alone."""

from __future__ import annotations

from pathlib import Path

import bench
import pytest
import tiny

from autoresearch_action.trials.compiled import MOST_PACKED
from autoresearch_action.trials.slot import SlotContext

COMPILES = """
import os, pathlib, sys, time
cache = pathlib.Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "cache"))
cache.mkdir(parents=True, exist_ok=True)
kernel = cache / "kernel"
cold = not kernel.exists()
text = open("DATA/text").read()
print("saw", text, "cold" if cold else "warm", os.environ["AUTORESEARCH_TIME_BUDGET"], sorted(p.name for p in cache.iterdir()))
if cold:
    time.sleep(1)
    kernel.write_text("compiled")
(cache / f"left by {text}").write_text("x")
TRICK
open("model.txt", "w").write("0.5")
"""


def at(tmp_path: Path, trick: str = "", level: str = "full") -> tuple[SlotContext, str]:
    """A bench whose program compiles, and that program's text."""
    for name in ("data", "decoy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(name)
    text = COMPILES.replace("DATA", str(tmp_path / "data")).replace("TRICK", trick)
    keys = f"data: [{tmp_path / 'data'}]\ndecoy: {tmp_path / 'decoy'}\nmetric:"
    root = tiny.repository(
        tmp_path / "r", program=tiny.PROGRAM.replace("metric:", keys, 1), train__py=text
    )
    return bench.make(root, level), text


def said(here: SlotContext, log: str) -> list[str]:
    return [
        line[4:] for line in (here.state / log).read_text().splitlines() if line.startswith("saw ")
    ]


def test_a_tree_is_compiled_once_and_no_other_tree_reads_it(tmp_path: Path) -> None:
    here, text = at(tmp_path)
    first = bench.base(here, 1)
    assert first.outcome == "ok", first.reason + first.tail
    assert said(here, first.log)[:2] == [
        "decoy cold 1 []",
        "data warm 300 ['kernel', 'left by decoy']",
    ]
    assert first.phases["compile"] > 1
    second = bench.base(here, 2)
    assert "compile" not in second.phases  # and nothing of the first trial is there
    assert said(here, second.log)[-1] == "data warm 300 ['kernel', 'left by decoy']"
    other = bench.candidate(here, text + "# another tree\n")
    assert said(here, other.log)[-2:] == [
        "decoy cold 1 []",
        "data warm 300 ['kernel', 'left by decoy']",
    ]


LEFT = {
    "weights": f"if cold: (cache / 'weights').write_bytes(os.urandom({MOST_PACKED + 1}))",
    "a pipe": "if cold: os.mkfifo(cache / 'pipe')",
    "a link": "if cold: os.symlink('/etc/passwd', cache / 'link')",
    "a crash": "if text == 'decoy': sys.exit(3)",
}


@pytest.mark.parametrize("what", LEFT)
def test_what_no_compiler_leaves_is_not_carried_over(tmp_path: Path, what: str) -> None:
    here, _ = at(tmp_path, LEFT[what])
    measured = bench.base(here, 1)
    assert measured.outcome == "ok", measured.reason + measured.tail
    assert said(here, measured.log)[1] == "data cold 300 []"
    assert bool(measured.notes) == (what == "a crash")


def test_a_pass_that_hangs_costs_its_limit(tmp_path: Path) -> None:
    here, _ = at(tmp_path, "time.sleep(100)")
    measured = bench.base(here, 1, limits={"compile": 2.0, "run": 60.0})
    assert (
        measured.outcome == "crash"
        and "untimed pass" in measured.reason
        and "limit of 2 s" in measured.reason
    )
    assert "run" not in measured.phases


def test_without_mounts_of_its_own_everything_is_timed(tmp_path: Path) -> None:
    here, _ = at(tmp_path, level="reduced")
    measured = bench.base(here, 1)
    assert measured.outcome == "ok" and "compile" not in measured.phases
    assert said(here, measured.log) == ["data cold 300 []"]


TORCH = """
import os, time, torch
from torch._dynamo.utils import counters
text = open("DATA/text").read()
f = torch.compile(lambda x: (x.sin() + x.cos()).sum())
f(torch.randn(64, 64))
print("saw", text, counters["inductor"]["fxgraph_cache_hit"])
open("model.txt", "w").write("0.5")
"""


@pytest.mark.battery
def test_torch_finds_what_the_pass_compiled(tmp_path: Path) -> None:
    here, _ = at(tmp_path)
    limits = {"compile": 300.0, "run": 300.0}
    measured = bench.candidate(here, TORCH.replace("DATA", str(tmp_path / "data")), limits=limits)
    assert measured.outcome == "ok", measured.reason + measured.tail
    assert said(here, measured.log) == ["decoy 0", "data 1"]
