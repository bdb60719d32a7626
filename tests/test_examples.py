"""The folders of examples/, copied into a fresh repository and run as their READMEs say."""

from __future__ import annotations

import shutil
import subprocess
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


def test_a_plain_autoresearch_checkout_with_a_lock_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv.lock, no environment, no data yet, no front matter: what a person would run is its setup."""
    home = tiny.repository(tmp_path / "home", program="# autoresearch\n\nLower val_bpb.\n")
    (home / "pyproject.toml").write_text(
        '[project]\nname = "plain"\nversion = "0"\nrequires-python = ">=3.11"\n'
        "[tool.uv]\npackage = false\n"
    )
    (home / "prepare.py").write_text(
        "import pathlib\nTIME_BUDGET = 1\n"
        'folder = pathlib.Path("~/.cache/autoresearch").expanduser()\n'
        "folder.mkdir(parents=True, exist_ok=True)\n"
        '(folder / "tokens.txt").write_text("there")\n'
    )
    train = home / "train.py"
    train.write_text(
        "import pathlib, sys\n"
        'assert pathlib.Path("~/.cache/autoresearch/tokens.txt").expanduser().read_text()\n'
        'assert ".venv" in sys.prefix, sys.prefix\n' + train.read_text()
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    subprocess.run(["uv", "lock", "-q", "--offline"], cwd=home, check=True)
    (home / ".gitignore").write_text(".venv\n")
    tiny.commit(home)
    said = autoresearch(home, "run", "--max-experiments", "1", "--max-minutes", "5")
    assert "baseline 1." in said
