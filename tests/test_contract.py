"""What the keys of a brief do in a whole run: check, limits, target, transfer, exact, maximize, and seeds without effect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import tiny
from test_loop import PROGRAM, events, run

WIDER = ("WIDTH = 4", "WIDTH = 6")


def repository(folder: Path, *keys: str, **files: str) -> Path:
    program = PROGRAM.replace(
        "metric: val_bpb\n", "metric: val_bpb\n" + "".join(f"{key}\n" for key in keys)
    )
    return tiny.repository(folder / "home", program=program, **files)


def run_state(home: Path, folder: Path, *edits: tuple[str, str], code: int = 0) -> dict[str, str]:
    """Each edit as a patch of its own; the reasons by description."""
    for index, edit in enumerate(edits):
        tiny.patch(home, folder / "ideas" / f"{index}.diff", edit, subject=f"Idea {index}")
    run(home, "--agent", f"patches:{folder / 'ideas'}", "--max-minutes", "5", code=code)
    return {
        event["description"]: f"{event['status']}: {event['reason']}"
        for event in events(home, "verdict")
    }


def test_a_failed_check_is_a_discard(tmp_path: Path) -> None:
    home = repository(
        tmp_path,
        "check: /usr/bin/python3 check.py",
        check__py="import ast\nassert 'WIDTH = 6' not in open('train.py').read()\n",
    )
    told = run_state(home, tmp_path, WIDER)
    assert told["Idea 0"].startswith("discard: ") and "check" in told["Idea 0"]


def test_a_check_is_run_once_a_tree(tmp_path: Path) -> None:
    home = repository(tmp_path, "check: /usr/bin/python3 check.py", check__py="import ast\n")
    run_state(home, tmp_path, WIDER)
    runs = [event for event in events(home, "trial") if event["outcome"] == "ok"]
    checked = [event["trial"]["commit"] for event in runs if "check" in event["phases"]]
    assert len(runs) > len(checked)
    # The baseline's first runs may start side by side
    assert set(Counter(checked).values()) <= {1, 2}
    assert {event["trial"]["commit"] for event in runs} == set(checked)


def test_a_check_that_fails_now_and_then_is_said_and_costs_nothing(tmp_path: Path) -> None:
    """On one tree: the first time it fails, and names its test."""
    flag = tmp_path / "flag"
    home = repository(
        tmp_path,
        "sandbox: none\ncheck: /usr/bin/python3 check.py",
        check__py=f"import os\nif not os.path.exists({str(flag)!r}):\n"
        f"    open({str(flag)!r}, 'w').close()\n"
        "    raise SystemExit('FAILED tests/test_x.py::test_y - AssertionError')\n",
    )
    told = run_state(home, tmp_path, WIDER)
    assert told["Idea 0"].startswith("keep: ")
    page = (home / ".autoresearch" / "PULL_REQUEST.md").read_text()
    assert "passed when it was run again" in page
    assert r"test\_y" in page


def test_a_broken_limit_is_a_discard_and_a_kept_one_is_none(tmp_path: Path) -> None:
    home = repository(tmp_path, "limits: {peak_vram_mb: +10%}")
    heavy = ('print("peak_vram_mb: 100.0")', 'print("peak_vram_mb: 150.0")')
    told = run_state(home, tmp_path, heavy, WIDER)
    assert told["Idea 0"].startswith("discard: peak_vram_mb is 150") and told["Idea 1"].startswith(
        "keep: "
    )


def test_the_run_stops_at_its_target(tmp_path: Path) -> None:
    home = repository(tmp_path, "target: 1.5")
    run_state(
        home,
        tmp_path,
        WIDER,
        ("LR = 0.1", "LR = 0.2"),
        ("NOISE = 0.01", "NOISE = 0.011"),
        ("PAUSE = 0.0", "PAUSE = 0.001"),
    )
    assert (
        "target 1.5 is reached" in events(home, "stop")[-1]["reason"]
        and events(home, "confirmation")[-1]["held"]
    )


def test_the_transfer_is_a_line_of_its_own(tmp_path: Path) -> None:
    home = repository(tmp_path, "transfer: {set: {LR: 0.25}}")
    run_state(home, tmp_path, WIDER)
    confirmation = events(home, "confirmation")[-1]
    (note,) = [note for note in confirmation["notes"] if note.startswith("transfer: ")]
    assert confirmation["held"] and "better there too" in note


@pytest.mark.battery
def test_the_transfer_may_be_a_condition(tmp_path: Path) -> None:
    home = repository(tmp_path, "transfer: {set: {LR: 0.25, WIDTH: 8}, require: true}")
    run_state(home, tmp_path, WIDER)
    confirmation = events(home, "confirmation")[-1]
    assert (
        not confirmation["held"]
        and "larger one, which the brief requires" in confirmation["reason"]
    )


def test_an_exact_count_is_decided_by_one_run_on_this_instance(tmp_path: Path) -> None:
    home = repository(tmp_path, "exact: true")
    (home / "train.py").write_text(
        (home / "train.py").read_text().replace("NOISE = 0.01", "NOISE = 0.0")
    )
    tiny.commit(home)
    told = run_state(home, tmp_path, ("PAUSE = 0.0", "PAUSE = 0.001"), WIDER)
    assert told["Idea 0"] == "discard: no change (exact)" and told["Idea 1"].startswith(
        "keep: −0.12 (exact)"
    )
    confirmation = events(home, "confirmation")[-1]
    assert (
        confirmation["held"]
        and confirmation["pairs"] == 1
        and "on this instance" in confirmation["reason"]
    )
    assert "on this instance" in (home / ".autoresearch" / "PULL_REQUEST.md").read_text()


def test_without_seeds_that_matter_nothing_is_claimed(tmp_path: Path) -> None:
    home = repository(tmp_path)
    source = (
        (home / "train.py")
        .read_text()
        .replace('int(os.environ.get("AUTORESEARCH_SEED", "1"))', "len(os.getcwd()) * 0 + 3")
    )
    (home / "train.py").write_text(source)
    tiny.commit(home)
    run_state(home, tmp_path, WIDER)
    confirmation = events(home, "confirmation")[-1]
    assert not confirmation["held"] and "luck cannot be told from a gain" in confirmation["reason"]
    assert tiny.git(home, "branch", "--list", "autoresearch/*") == ""
