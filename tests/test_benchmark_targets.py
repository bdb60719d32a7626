"""The targets of benchmark/targets/: each runs by one command to a preview, an honest gain is kept, cheats are refused.

The patches lie in tests/targets/NAME: `honest/`, and `cheats/`, which say in a line `Refused:` by what words. Not
covered: what a model finds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# Of code that is fetched no patch is kept: it would quote it
NAMES = sorted(path.name for path in (HERE / "targets").iterdir())
# They count, so that one run decides; what is timed or fetched takes minutes
EXACT = ("bugfix", "circles", "matmul", "sql")


def benchmark(name: str, ideas: Path, place: Path) -> list[dict[str, Any]]:
    """The ledger of a run of the target on the patches, one after another."""
    command = [sys.executable, "-m", "benchmark", "run", name, "--agent", f"patches:{ideas}"]
    command += ["--minutes", "12", "--place", str(place), "--", "--slots", "1"]
    told = {
        key: text
        for key, text in os.environ.items()
        if not key.startswith(("GITHUB_", "ANTHROPIC_"))
    }
    done = subprocess.run(
        command, cwd=HERE.parent, env=told, capture_output=True, text=True, timeout=1000
    )
    assert done.returncode == 0, done.stdout + done.stderr
    state = place / name / ".autoresearch"
    assert (state / "PULL_REQUEST.md").read_text().startswith("# autoresearch: ")
    return [json.loads(line) for line in (state / "ledger.jsonl").read_text().splitlines()]


def cheats(name: str) -> dict[str, str]:
    """What each cheat of a target is refused by, by its subject."""
    texts = [path.read_text() for path in (HERE / "targets" / name / "cheats").glob("*.diff")]
    found = [re.match(r"Subject: (.+)\nRefused: (.+)\n", text) for text in texts]
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize(
    "name",
    [name if name in EXACT else pytest.param(name, marks=pytest.mark.battery) for name in NAMES],
)
def test_an_honest_gain_is_proven_and_no_cheat_is_kept(tmp_path: Path, name: str) -> None:
    ideas = tmp_path / "ideas"
    ideas.mkdir()
    # Cheats first: a change of the same lines that was kept would be in their way
    for order, kind in enumerate(("cheats", "honest")):
        for path in (HERE / "targets" / name / kind).glob("*.diff"):
            shutil.copy(path, ideas / f"{order}-{path.name}")
    events = benchmark(name, ideas, tmp_path / "place")
    verdicts = {event["description"]: event for event in events if event["event"] == "verdict"}
    wanted = cheats(name)
    assert len(wanted) >= 3
    assert {
        cheat: why for cheat, why in wanted.items() if why in verdicts[cheat]["reason"]
    } == wanted
    assert {verdicts[cheat]["status"] for cheat in wanted} <= {"crash", "discard"}
    (confirmation,) = (event for event in events if event["event"] == "confirmation")
    assert confirmation["held"]
