"""`autoresearch init`: a program.md and a workflow for the repository at hand. Never overwrites a
file.

Knows three kinds of repositories: autoresearch-style checkouts (train.py and prepare.py), suites
with pytest-benchmark, and a plain script that prints a number: where it imports modules that lie
beside it, those are to be edited and the script stays as it is. What it guessed is said in the
files it writes.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

from autoresearch_action.brief import DEFAULT_TIME_BUDGET, literal_time_budget, metric_names
from autoresearch_action.errors import InputError
from autoresearch_action.workspace.git import GitError, line

ACTION = "autoresearch-action/autoresearch-action"
PROGRAM, WORKFLOW, SCORER = (
    Path("program.md"),
    Path(".github/workflows/autoresearch.yml"),
    Path("autoresearch_score.py"),
)
TESTS = ("test_*.py", "*_test.py", "bench_*.py")
_PRINTED = re.compile(r"""print\(\s*f?["']\s*([^\W\d][\w./-]*)\s*[:=]\s*\{?""")
_GPU = re.compile(
    r"^\s*(?:import|from)\s+(?:torch|jax|tensorflow|cupy|triton|numba)\b", re.MULTILINE
)
# In a comment of the brief; doctor asks about it
GUESSED = "guessed: check"

PROSE = """
# What to try

Say here, in plain English, what the agent should look for: what is slow or weak, what has been
tried, what must not change. One small change an experiment; when two do the same, the simpler one
wins.
"""


def init(directory: Path) -> list[Path]:
    """Write what is missing and return it, relative to `directory`; the workflow goes to the
    repository's top.

    Raises InputError where nothing is missing, or nothing can be guessed.
    """
    files: dict[Path, str] = {}
    top = _top(directory)
    workflow = Path(os.path.relpath(top, directory.resolve())) / WORKFLOW
    if not (directory / PROGRAM).exists():
        files |= _program(directory)
    if not (directory / workflow).exists():
        files[workflow] = _workflow(
            directory.resolve().relative_to(top).as_posix(), _uses_gpu(directory)
        )
    if not files:
        raise InputError(f"{PROGRAM} and {workflow} are both here already: nothing to write.")
    for path, text in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
    return list(files)


def _top(directory: Path) -> Path:
    """The top of the repository that the folder is in; itself where there is none."""
    try:
        return Path(line("rev-parse", "--show-toplevel", cwd=directory)).resolve()
    except GitError:
        return directory.resolve()


def _program(directory: Path) -> dict[Path, str]:
    if (directory / "train.py").exists() and (directory / "prepare.py").exists():
        return {PROGRAM: _trio(directory)}
    tests = _benchmarks(directory)
    if tests:
        return {PROGRAM: _suite(directory, tests), SCORER: _SCORER.replace("TESTS", repr(tests))}
    return {PROGRAM: _script(directory)}


def _front(**keys: str) -> str:
    return (
        "---\n"
        + "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in keys.items())
        + f"---\n{PROSE}"
    )


def _trio(directory: Path) -> str:
    run = "uv run train.py" if (directory / "uv.lock").exists() else "python train.py"
    budget = f"{literal_time_budget(directory / 'prepare.py') or DEFAULT_TIME_BUDGET:g}"
    return _front(
        edit="[train.py]",
        run=run,
        metric="val_bpb",
        goal="minimize",
        time_budget=budget,
        data="[~/.cache/autoresearch]",
    )


def _benchmarks(directory: Path) -> list[str]:
    """Test files that use the `benchmark` fixture of pytest-benchmark."""
    found = []
    for pattern in TESTS:
        for file in directory.rglob(pattern):
            inside = file.relative_to(directory)
            if any(
                part.startswith(".") or part in ("node_modules", "venv") for part in inside.parts
            ):
                continue
            if re.search(r"def test\w*\([^)]*\bbenchmark\b", file.read_text("utf-8", "replace")):
                found.append(inside.as_posix())
    return sorted(set(found))[:50]


def _suite(directory: Path, tests: list[str]) -> str:
    packages = sorted(
        p.parent.relative_to(directory).as_posix()
        for p in [*directory.glob("*/__init__.py"), *directory.glob("src/*/__init__.py")]
    )
    edit = [f"{name}/" for name in packages if not name.startswith("test")] or ["'*.py'"]
    edit += [
        f"'!{name}'"
        for name in (SCORER.name, *(f"**/{pattern}" for pattern in (*TESTS, "conftest.py")))
    ]
    return _front(
        edit=f"[{', '.join(edit)}]",
        check="python -m pytest -q --benchmark-disable",
        evaluate=f"python {SCORER}",
        metric="median_seconds",
        goal="minimize",
    )


_SCORER = '''"""Score a candidate: the geometric mean of the benchmarks' median seconds."""

import json
import math
import subprocess
import sys
import tempfile

BENCHMARKS = TESTS

with tempfile.NamedTemporaryFile(suffix=".json") as file:
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-only"]
    command += [f"--benchmark-json={file.name}", *BENCHMARKS]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    medians = [bench["stats"]["median"] for bench in json.load(file)["benchmarks"]]
print(f"METRIC median_seconds={math.exp(sum(map(math.log, medians)) / len(medians)):.9g}")
'''


def _script(directory: Path) -> str:
    for file in sorted(
        directory.glob("*.py"),
        key=lambda f: (f.name not in ("main.py", "run.py", "bench.py", "benchmark.py"), f.name),
    ):
        names = _PRINTED.findall(file.read_text("utf-8", "replace"))
        if names:
            goal = metric_names.goal(names[-1]) or f"maximize  # {GUESSED}, the name does not say"
            metric = f"{names[-1]}  # {GUESSED}, the last `name: value` that it prints"
            if beside := _imported(file):
                return _front(
                    edit=f"[{', '.join(beside)}]",
                    evaluate=f"python {file.name}",
                    metric=metric,
                    goal=goal,
                )
            own = (
                "  # which prints its own score: better measure it by a frozen file, as `evaluate`"
            )
            return _front(
                edit=f"[{file.name}]{own}", run=f"python {file.name}", metric=metric, goal=goal
            )
    raise InputError(
        "No objective was found here (no train.py with prepare.py, no pytest-benchmark tests, no"
        " script that prints `name: value`): write a program.md by hand; the README shows one."
    )


def _imported(script: Path) -> list[str]:
    """Patterns of the modules and packages beside a script that it imports."""
    try:
        nodes = [*ast.walk(ast.parse(script.read_bytes()))]
    except (SyntaxError, ValueError):
        return []
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    tops = sorted({name.partition(".")[0] for name in names})
    beside = [(f"{top}.py", f"{top}.py") for top in tops] + [
        (f"{top}/__init__.py", f"{top}/") for top in tops
    ]
    return [pattern for file, pattern in beside if (script.parent / file).is_file()]


def _uses_gpu(directory: Path) -> bool:
    """Whether a program of the folder's own imports something that computes on one."""
    return any(_GPU.search(file.read_text("utf-8", "replace")) for file in directory.glob("*.py"))


def _workflow(folder: str, gpu: bool) -> str:
    """For the project in this folder of the repository; on a hosted runner where it uses no GPU."""
    given = {} if folder == "." else {"working-directory": json.dumps(folder)}
    given |= (
        {}
        if gpu
        else {
            "runs-on": "'[\"ubuntu-latest\"]' # no GPU seems needed; without this line:"
            ' ["self-hosted", "gpu"]'
        }
    )
    where = (
        "\n    with:" + "".join(f"\n      {key}: {value}" for key, value in given.items())
        if given
        else ""
    )
    return f"""# Experiments every night, or on demand; what is proven becomes a pull request.
name: autoresearch
on:
  schedule:
    - cron: "17 1 * * *"
  workflow_dispatch:
    inputs:
      brief:
        description: What to try (replaces the prose of program.md)
        required: false
permissions: {{}}
jobs:
  autoresearch:
    permissions:
      contents: write
      pull-requests: write
      actions: read
    uses: {ACTION}/.github/workflows/autoresearch.yml@main # pin this to a commit{where}
    secrets:
      anthropic-api-key: ${{{{ secrets.ANTHROPIC_API_KEY }}}}
"""
