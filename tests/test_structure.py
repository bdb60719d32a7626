"""The house holds its shape: floors, circles, sizes, and docstrings that name what there is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
PACKAGE = HERE / "autoresearch_action"
ROOT = "autoresearch_action."
# From the ground up: a floor imports of its own and of those below, whatever the kind of import
FLOORS = (
    {"errors", "text", "syntax", "shapes"},
    {"records"},
    {"brief", "budget"},
    {"ledger"},
    {"acceptance"},
    {"workspace"},
    {"isolation"},
    {"trials"},
    {"agents"},
    {"research"},
    {"report"},
    {"github"},
    {"commands"},
    {"cli", "action"},
    {"__main__"},
)
CORE = ("brief", "records", "shapes", "ledger", "budget", "research", "acceptance", "cli")
# What the core imports of the outer rings: their protocols, and the one class that is the workspace
PROTOCOLS = {
    "agents",
    "agents.edits",
    "agents.lessons",
    "agents.novelty",
    "trials",
    "trials.profile",
    "workspace.trees",
}
# Conveniences that lie beside what they are about: nothing of the core needs them
CONVENIENCES = {"acceptance.forecast", "research.fleet"}
# The aim is 4,000
CORE_LINES = 6_200
LONGEST, LONGEST_IN_CORE = 500, 300


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


NAMES = {name(path): path for path in modules()}


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules of the package that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` is an import of the module
            rooms = {full for full in inner if full.removeprefix(ROOT) in NAMES}
            found |= rooms if rooms == inner else {*rooms, node.module}
    return frozenset({full.removeprefix(ROOT) for full in found} & NAMES.keys() - {"__init__"})


def ring(module: str) -> str:
    return module.split(".")[0]


FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def test_every_part_has_a_floor() -> None:
    assert {ring(module) for module in NAMES} - {"__init__"} == set(FLOOR)


def test_no_import_runs_back_up() -> None:
    back = [
        f"{module} imports {other}"
        for module, path in NAMES.items()
        for other in imports(path)
        if module != "__init__" and FLOOR[ring(other)] > FLOOR[ring(module)]
    ]
    assert back == []


def circle(graph: dict[str, frozenset[str]]) -> list[str]:
    """A way from a node back to it; [] where there is none."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node not in done:
            for other in sorted(graph[node]):
                if found := walk(other, [*way, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in graph if (found := walk(node, []))), [])


def test_no_import_is_part_of_a_circle() -> None:
    # A package's door opens onto its rooms; they know its protocols by it
    graph = {module: imports(path) - {module} for module, path in NAMES.items()}
    assert circle(graph) == []


def test_a_circle_is_seen() -> None:
    assert circle({"a": frozenset("b"), "b": frozenset("ca"), "c": frozenset()}) == ["a", "b", "a"]


def core() -> dict[str, Path]:
    ours = {module: path for module, path in NAMES.items() if ring(module) in CORE}
    return {module: path for module, path in ours.items() if module not in CONVENIENCES}


def test_the_core_can_be_read_in_an_evening() -> None:
    assert sum(len(path.read_text().splitlines()) for path in core().values()) <= CORE_LINES


def test_the_core_knows_the_outer_rings_by_their_protocols() -> None:
    known = {
        other
        for module, path in core().items()
        if module != "cli"
        for other in imports(path)
        if ring(other) not in (*CORE, "errors", "text", "syntax")
    }
    assert known <= PROTOCOLS


def test_the_core_needs_no_convenience() -> None:
    needed = {other for path in core().values() for other in imports(path)}
    assert needed & CONVENIENCES == set()


@pytest.mark.parametrize("module", NAMES)
def test_no_module_is_long(module: str) -> None:
    usual = LONGEST_IN_CORE if ring(module) in CORE else LONGEST
    assert len(NAMES[module].read_text().splitlines()) <= usual


# Programs of others
THEIRS = {"nvidia-smi", "taskset", "train.py", "evaluate-data"}
# Words that are no name of ours
FOREIGN = re.compile(
    r"--|[/@:*{}$<>=\[\]()\s]|^[A-Z_]+$|^-|^\.|\.(yml|yaml|json|jsonl|tsv|png|html|md|diff|txt|sh)$"
)


@cache
def known() -> set[str]:
    """Every name in the package's code, its strings and comments left out, and its files."""
    found = set()
    for path in modules():
        found |= {path.stem, path.name, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if node.value.isidentifier() else set()
    return found


def backticked(module: str) -> Iterator[str]:
    for quoted in re.findall(
        r"`([^`\n]+)`", ast.get_docstring(ast.parse(NAMES[module].read_text())) or ""
    ):
        if quoted not in THEIRS and not FOREIGN.search(quoted):
            yield quoted


@pytest.mark.parametrize("module", NAMES)
def test_what_a_module_s_docstring_names_is_there(module: str) -> None:
    missing = [
        quoted
        for quoted in backticked(module)
        if any(part not in known() for part in re.split(r"\.(?!py$)", quoted))
    ]
    assert missing == []


@pytest.mark.parametrize("module", NAMES)
def test_a_file_that_a_module_s_docstring_names_is_there(module: str) -> None:
    text = ast.get_docstring(ast.parse(NAMES[module].read_text())) or ""
    files = [*modules(), *HERE.glob("*.py"), *HERE.glob("benchmark/*.py")]
    named = re.findall(r"(?<![\w/])((?:\w+/)*\w+\.py)\b", text)
    # What a user's repository may have
    theirs = {"conftest.py", "setup.py"}
    missing = [
        file
        for file in named
        if file not in theirs and not any(str(path).endswith(f"/{file}") for path in files)
    ]
    assert missing == []
