"""The folders of examples/, copied into a fresh repository and run as their READMEs say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from test_cli import autoresearch
from test_loop import events

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = ("training", "library", "command")


def copied(name: str, folder: Path) -> Path:
    shutil.copytree(EXAMPLES / name, folder)
    tiny.git(folder, "init", "-q", "-b", "main")
    tiny.commit(folder, "Start")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("training", ["--max-experiments", "2"]),
        ("library", ["--agent", "patches:ideas"]),
        ("command", ["--agent", "patches:ideas"]),
    ],
)
def test_an_example_ends_in_a_preview(tmp_path: Path, name: str, words: list[str]) -> None:
    home = copied(name, tmp_path / "home")
    said = autoresearch(home, "run", *words, "--max-minutes", "5")
    assert "Read .autoresearch/PULL_REQUEST.md" in said
    assert (home / ".autoresearch" / "PULL_REQUEST.md").read_text().startswith("# autoresearch: ")
    assert len(events(home, "confirmation")) == 1
    assert tiny.git(home, "status", "--porcelain") == ""
    if "patches:ideas" in words:
        # A gain of a half and of a quarter is no matter of luck
        assert events(home, "confirmation")[0]["held"]
        assert tiny.git(home, "log", "--format=%s", "main..autoresearch/program")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_s_workflow_is_the_one_that_init_writes(tmp_path: Path, name: str) -> None:
    home = copied(name, tmp_path / "home")
    workflow = home / ".github" / "workflows" / "autoresearch.yml"
    before = workflow.read_text()
    workflow.unlink()
    autoresearch(home, "init")
    assert workflow.read_text() == before


def test_doctor_is_content_with_the_training_script(tmp_path: Path) -> None:
    """The one example that needs neither a key nor an idea."""
    home = copied("training", tmp_path / "home")
    assert "Nothing stands in the way" in autoresearch(home, "doctor")
