"""What a model is shown and may do, over the wire: the requests that a real HTTP server on loopback
gets, and what becomes of its answers.

Not covered: what a real model makes of it.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from model_server import Answer, ModelServer, failing, reply, submit, using

from autoresearch_action import brief as briefs
from autoresearch_action.agents import AgentFailure, Context, Hot
from autoresearch_action.agents.claude import TURNS, ClaudeAgent
from autoresearch_action.records import Usage

KEY = "sk-ant-loopback-0123456789"
# Characters of code that are a token, at the least
A_TOKEN = 3
PACKAGE = """---
edit: [pack/**/*.py]
run: python bench.py
metric: cost
context: [docs/format.md]
---
Make it faster.
"""
Serve = Callable[..., ModelServer]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    servers: list[ModelServer] = []

    def start(*script: Answer, by: Callable[[dict[str, Any]], Answer] | None = None) -> ModelServer:
        servers.append(ModelServer(by or script).__enter__())
        monkeypatch.setenv("ANTHROPIC_BASE_URL", servers[-1].url)
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


def package(home: Path, files: int = 300, size: int = 2_000_000) -> Path:
    """A package of so many files and characters; bench.py runs core.py, which imports ten others."""
    dice = random.Random(1)
    each = size // files
    for number in range(files):
        lines = [f'"""Part {number}."""', ""]
        if number < 10:
            lines.append(
                f"from pack.sub{number + 10 - 10 * (number > 4)}.part{number + 10} import work{number + 10}"
            )
        while sum(map(len, lines)) < each:
            at = len(lines)
            lines += [
                f"def work{number}_{at}(value: int) -> int:",
                f"    return value * {dice.random()}",
                "",
            ]
        lines += [f"def work{number}(value: int) -> int:", f"    return value + {number}", ""]
        folder = home / "pack" / f"sub{number % 20}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"part{number}.py").write_text("\n".join(lines))
    imports = "\n".join(f"from pack.sub{n}.part{n} import work{n}" for n in range(10))
    (home / "pack" / "core.py").write_text(
        f'"""Core."""\n\n{imports}\n\n\ndef main() -> None:\n    print("cost:", work1(1))\n'
    )
    (home / "bench.py").write_text("from pack.core import main\n\nmain()\n")
    (home / "README.md").write_text("# Badges\n" * 500)
    (home / "docs").mkdir()
    (home / "docs" / "format.md").write_text("The format is a line a record.\n")
    (home / "program.md").write_text(PACKAGE)
    tiny.git(home, "init", "-q", "-b", "main")
    tiny.commit(home, "Start")
    return home


def context_of(home: Path, **facts: Any) -> Context:
    tree = home / ".autoresearch" / "slots" / "agent-0"
    shutil.copytree(home, tree, ignore=shutil.ignore_patterns(".git", ".autoresearch"))
    brief = briefs.read(Path("program.md"), home)
    return replace(Context(brief, tree, tree, parent="a" * 40, number=1, seed=7), **facts)


def words(request: dict[str, Any]) -> str:
    """All that the model reads of a request."""
    return json.dumps(
        [request["system"], request["messages"], request.get("tools")], ensure_ascii=False
    )


def results(request: dict[str, Any]) -> list[str]:
    """The tools' answers that a request brings."""
    return [
        block["content"]
        for block in request["messages"][-1]["content"]
        if block["type"] == "tool_result"
    ]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return package(home)


def test_of_a_large_package_the_model_sees_what_matters_and_can_change_any_line(
    large: Path, serve: Serve
) -> None:
    hot = [
        Hot(file=f"pack/sub{n % 20}/part{n}.py", line=1, name=f"work{n}", share=0.09)
        for n in range(40, 50)
    ]
    far = "pack/sub19/part299.py"
    last = (large / far).read_text().rstrip().split("\n")[-1]
    server = serve(
        using(
            ("list_files", {"pattern": "pack/sub19/**"}), ("search", {"pattern": "def work299\\b"})
        ),
        using(("read_file", {"file": far, "first": 1})),
        using(("edit", {"file": far, "search": "    return value + 298", "replace": "x"})),
        using(("edit", {"file": far, "search": last, "replace": "    return value"})),
        using(submit(), text="The last part is the bottleneck."),
    )
    context = context_of(large, hot=hot)
    draft = ClaudeAgent(context.brief, KEY).propose(context)
    first = words(server.requests[0])
    assert len(first) / A_TOKEN <= 40_000
    for number in range(10):
        assert f"pack/sub{number}/part{number}.py" in first
    for one in hot:
        assert f"def {one.name}(value: int)" in first
    assert "The format is a line a record." in first
    assert "# Badges" not in first
    listed, found = results(server.requests[1])
    assert f"{far} (" in listed
    assert f"{far}:" in found
    (read,) = results(server.requests[2])
    assert '1\t"""Part 299' in read
    (wrong,) = results(server.requests[3])
    assert f"the nearest line is `{last.strip()}`" in wrong
    assert server.requests[3]["messages"][-1]["content"][0]["is_error"] is True
    assert "    return value\n" in (context.directory / far).read_text()
    assert draft.usage.calls == 5
    assert draft.details["analysis"] == "The last part is the bottleneck."
    assert draft.predicted == 0.1


def test_small_code_goes_whole_in_one_call_without_tools(tmp_path: Path, serve: Serve) -> None:
    home = tiny.repository(tmp_path / "home")
    server = serve(reply([("train.py", "LR = 0.1", "LR = 0.2")]))
    context = context_of(home)
    ClaudeAgent(context.brief, KEY).propose(context)
    assert "tools" not in server.requests[0]
    fields = [*server.requests[0]["output_config"]["format"]["schema"]["properties"]]
    assert fields[0] == "analysis"
    assert fields[-1] == "edits"


def test_turns_and_dollars_end_before_they_are_passed(large: Path, serve: Serve) -> None:
    looking = using(("list_files", {"pattern": "docs/**"}))
    server = serve(looking)
    context = context_of(large)
    agent = ClaudeAgent(context.brief, KEY)
    with pytest.raises(AgentFailure, match=f"within its {TURNS} turns") as failure:
        agent.propose(context)
    assert len(server.requests) == TURNS
    each = failure.value.usage.usd / TURNS
    server = serve(looking)
    with pytest.raises(AgentFailure, match="reserved for a call") as failure:
        agent.propose(replace(context, allowance=8 * each))
    assert 0 < failure.value.usage.usd <= 8 * each
    assert server.requests[-1]["max_tokens"] < server.requests[0]["max_tokens"]


def test_what_is_reserved_follows_what_calls_cost(tmp_path: Path, serve: Serve) -> None:
    home = tiny.repository(tmp_path / "home")
    context = context_of(home)
    agent = ClaudeAgent(context.brief, KEY)
    assert agent.worst_usd is not None
    before = agent.worst_usd
    usages: list[Usage] = []
    for value in ("0.2", "0.3"):
        serve(reply([("train.py", "LR = 0.1", f"LR = {value}")]))
        usages.append(agent.propose(context).usage)
        (context.directory / "train.py").write_text((home / "train.py").read_text())
    mean = sum(usage.usd for usage in usages) / 2
    assert mean <= agent.worst_usd <= 3 * mean
    assert agent.worst_usd < before


def test_a_server_that_takes_no_tools_is_asked_in_one_call(large: Path, serve: Serve) -> None:
    def by(body: dict[str, Any]) -> Answer:
        if "tools" in body:
            return failing(400, "invalid_request_error")
        return reply([("pack/core.py", "work1(1)", "work1(2)")])

    server = serve(by=by)
    context = context_of(large)
    assert ClaudeAgent(context.brief, KEY).propose(context).usage.calls == 1
    assert ["tools" in request for request in server.requests] == [True, False]


def test_tools_read_nothing_outside_the_tree(large: Path, serve: Serve) -> None:
    context = context_of(large)
    (context.directory / "away.py").symlink_to("/etc/passwd")
    asked = [
        ("read_file", {"file": file})
        for file in ("../../../program.md", "/etc/passwd", "away.py", ".git")
    ]
    server = serve(
        using(
            *asked,
            ("nothing", {}),
            ("edit", {"file": "bench.py", "search": "main()", "replace": ""}),
        ),
        Answer(text="That was all."),
    )
    with pytest.raises(AgentFailure, match="turns"):
        ClaudeAgent(context.brief, KEY).propose(context)
    answers = results(server.requests[1])
    assert all("There is no" in answer for answer in answers[:5])
    assert "may not be edited" in answers[5]
