"""README and docs/ against the code: links, sentences, tables, sizes. Not how well they read."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_action.cli import main

HERE = Path(__file__).resolve().parent.parent
PAGES = [HERE / "README.md", *sorted(HERE.glob("docs/*.md"))]
PAGES += [HERE / name for name in ("AGENTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted(HERE.glob("examples/*/README.md"))
GAP = "…"


def sentences() -> list[str]:
    """Every string of the package and the installers, with what is put in at run time as a gap."""
    found = [path.read_text() for path in (HERE / ".github").glob("*.sh")]
    for path in (HERE / "autoresearch_action").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(
                        str(getattr(part, "value", GAP)) if isinstance(part, ast.Constant) else GAP
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def stands_in(message: str, texts: list[str]) -> bool:
    """Whether the fixed parts of the message follow each other in one of the texts."""
    parts = [re.escape(part.strip()) for part in message.split(GAP) if part.strip()]
    return any(re.search(".*".join(parts), text, re.DOTALL) for text in texts)


def messages() -> list[str]:
    page = (HERE / "docs" / "troubleshooting.md").read_text()
    return [found.strip() for found in re.findall(r"^- ``(.+)``$", page, re.MULTILINE)]


def test_troubleshooting_quotes_sentences_that_the_code_says() -> None:
    texts = sentences()
    assert len(messages()) > 30
    assert [message for message in messages() if not stands_in(message, texts)] == []
    assert not stands_in("… was never said …", texts)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HERE)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target, _, name = (link[0] or link[1]).partition("#")
        if "://" in target:
            continue
        place = page.parent / target if target else page
        if not place.exists() or (name and name not in anchors(place)):
            broken.append(link)
    assert broken == []


def test_the_reference_is_written_from_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "docs/reference.py"], cwd=HERE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_that_the_pages_name_is_one() -> None:
    """And every one is named in a page for people."""
    text = "".join(
        page.read_text() for page in PAGES if page.name not in ("reference.md", "LOG.md")
    )
    named = set(re.findall(r"(?:(?<!`)`|\n)autoresearch ([a-z]+)", text))
    assert named == set(main.commands)


def test_every_make_target_that_the_pages_name_is_one() -> None:
    text = "".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"^([a-z]+):", (HERE / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|\n)make ([a-z]+)", text)) <= targets


def test_the_tours_of_contributing_name_what_is_there() -> None:
    """`Name` (`path`): the file is in the package, and defines each part of the name."""
    page = " ".join((HERE / "CONTRIBUTING.md").read_text().split())
    named = re.findall(r"`([\w.]+)` \(`([\w/.]+\.py)`\)", page)
    assert len(named) > 20
    lost = []
    for name, path in named:
        source = (HERE / "autoresearch_action" / path).read_text()
        defined = set(re.findall(r"^\s*(?:class|def) (\w+)", source, re.MULTILINE))
        lost += [f"{name} in {path}"] if not set(name.split(".")) <= defined else []
    assert lost == []


@pytest.mark.parametrize(("name", "most"), [("README.md", 150), ("AGENTS.md", 40)])
def test_a_front_door_is_short(name: str, most: int) -> None:
    assert len((HERE / name).read_text().splitlines()) <= most


def test_no_sentence_stands_twice() -> None:
    """Among the pages for people; tables and examples may repeat names."""
    seen: dict[str, str] = {}
    twice = []
    for page in PAGES:
        if page.name == "reference.md" or page.parent.parent.name == "examples":
            continue
        text = re.sub(r"```.*?```|^\|.*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for sentence in re.split(r"(?<=[.:!?])\s+", " ".join(text.split())):
            if len(sentence) > 60 and seen.setdefault(sentence, page.name) != page.name:
                twice.append(sentence)
    assert twice == []
