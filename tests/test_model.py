"""What a model is shown and may do, over the wire: the requests that a real HTTP server on loopback
gets, and what becomes of its answers.

Not covered: what a real model makes of it.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import quick
import tiny
from model_server import Answer, ModelServer, failing, reply, submit, using
from test_loop import run

from autoresearch_action import brief as briefs
from autoresearch_action.agents import AgentFailure, Context, registry
from autoresearch_action.agents.claude import TURNS, ClaudeAgent
from autoresearch_action.agents.digest import digest
from autoresearch_action.agents.novelty import Ideas, Known
from autoresearch_action.errors import InputError
from autoresearch_action.records import Experiment, Measurement, Proposal, Trial, Usage, Verdict
from autoresearch_action.report import tables
from autoresearch_action.trials import profile

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
            lines.append(f"from pack.sub{number + 10}.part{number + 10} import work{number + 10}")
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
    printed = "".join(
        f"PROFILE 0.09 pack/sub{n % 20}/part{n}.py:1 work{n}\n" for n in range(40, 50)
    )
    facts = {"trial": Trial(number=0, commit="c", seed=1, stage="profile"), "outcome": "ok"}
    made = Measurement(**facts, tail=printed)  # type: ignore[arg-type]
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
    context = context_of(large, profile=made)
    draft = ClaudeAgent(context.brief, KEY).propose(context)
    first = words(server.requests[0])
    assert len(first) / A_TOKEN <= 40_000
    for number in range(10):
        assert f"pack/sub{number}/part{number}.py" in first
    for number in range(40, 50):
        assert f"def work{number}(value: int)" in first
        assert f"9.0% work{number} (pack/sub" in first
    assert "The format is a line a record." in first
    assert "# Badges" not in first
    listed, found = results(server.requests[1])
    assert f"{far} (" in listed
    assert f"{far}:" in found
    (read,) = results(server.requests[2])
    assert '1\t"""Part 299' in read
    (wrong,) = results(server.requests[3])
    assert wrong.endswith(f"\n{last}")
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
    with pytest.raises(AgentFailure, match="left for a call") as failure:
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


CHECK = """import re
rate = float(re.search(r"\\nLR = ([0-9.]+)", open("train.py").read())[1])
if rate > 0.5:
    print("E   AssertionError: the rate must stay below one half")
    print(f"FAILED test_rate.py::test_rate - AssertionError: {rate} is no rate")
    raise SystemExit(1)
"""
NIGHT = tiny.PROGRAM.replace("python ", "/usr/bin/python3 ").replace(
    "metric:", "check: /usr/bin/python3 check.py\nmetric:", 1
)


def researcher(rates: Sequence[float]) -> Callable[[dict[str, Any]], Answer]:
    """Answers one rate after the other, each as an edit of the code that the request shows."""
    left = list(rates)

    def answer(request: dict[str, Any]) -> Answer:
        present = re.findall(r"\nLR = ([0-9.]+)  # step", words_of(request))[-1]
        rate = left.pop(0) if len(left) > 1 else left[0]
        return reply(
            [("train.py", f"LR = {present}  #", f"LR = {rate}  #")],
            f"The rate is {rate}",
            expected_gain=0.1,
            expected_low=0.0,
            expected_high=0.3,
            kind="parameter",
            notes=f"after {rate} the width",
            lessons=[{"number": 1, "text": "A rate above one half fails the check"}],
        )

    return answer


def words_of(request: dict[str, Any]) -> str:
    return "\n".join(block["text"] for block in request["messages"][0]["content"])


def night(home: Path, server: ModelServer, *options: str) -> str:
    """The last request of a run."""
    run(
        home,
        *("--max-minutes", "5", *options),
        ANTHROPIC_API_KEY=KEY,
        ANTHROPIC_BASE_URL=server.url,
    )
    return words_of(server.requests[-1])


def test_a_night_shows_the_model_what_was_measured(tmp_path: Path) -> None:
    program = NIGHT
    home = tiny.repository(tmp_path / "home", program=program, check__py=CHECK)
    train = home / "train.py"
    more = "def slow():\n    return sorted(range(300_000), key=str)\n\n\nslow()\n"
    more += 'print(f"num_steps: {100 + 100 * LR:.0f}")\n'
    train.write_text(train.read_text() + more)
    tiny.commit(home)
    rates = [0.9, 0.8, 0.2, 0.25, 0.26, 0.27, 0.05]
    with ModelServer(researcher(rates)) as server:
        last = night(home, server, "--max-experiments", "7")
        bodies = [json.dumps(request) for request in server.requests]
    assert len({*bodies}) == len(bodies)
    # Of the code that is shown, beside the baseline's
    assert re.search(r"val_bpb 1\.\d+.* \(baseline 1\.\d+: a gain of \+0\.\d+ in all\)", last)
    for name in (
        "num_steps 1",
        "peak_vram_mb 100",
        "peak_rss_mb ",
        "Training loss at 10/25/50/100 %",
    ):
        assert name in last
    assert re.search(r"Seconds by phase: .*run [0-9.]+ s", last)
    assert "The smallest gain that can be seen, by runs of each code" in last
    assert re.search(r"Left: [0-9.]+ minutes for the search, \d experiments, 9\.\d+ dollars", last)
    shutil.copytree(home / ".autoresearch", "/tmp/lasthome", dirs_exist_ok=True)
    # The time of what it calls counts for the function
    assert re.search(r"Profile of .*\n(.*\n)?[5-9]\d\.\d% slow \(train\.py:\d+\)", last)
    # Of what was tried
    told = "(The check failed (exit 1): FAILED test_rate.py::test_rate - AssertionError: 0.9 is no"
    assert told in last
    assert "expected +0.1 (+0 to +0.3)" in last
    assert re.search(r"#\d \+0\.\d+ ± .*rate is 0\.2; train\.py \+1 −1.*num_steps \+9\.09 %", last)
    assert "learnt: A rate above one half fails the check" in last
    assert re.search(r"Your notes from your last call: after 0\.\d+ the width", last)
    assert last.count("The rate is 0.2;") == 1
    assert "carried on as" not in last
    assert "- #1 " in (home / ".autoresearch" / "lessons.md").read_text()
    # Nobody was asked before the baseline had run
    first = words_of(server.requests[0])
    assert "The code you see is the baseline; over 1 run" in first


def test_calls_in_flight_tell_each_other_of_their_ideas(large: Path, serve: Serve) -> None:
    ideas, both, edited = Ideas(), threading.Event(), threading.Event()
    change = ("edit", {"file": "pack/core.py", "search": "work1(1)", "replace": "1"})

    def by(body: dict[str, Any]) -> Answer:
        began = len(body["messages"]) == 1
        if "experiment #1." in words(body):
            # So that the other one is asked before this idea is known
            assert both.wait(20)
            edited.set() if not began else None
            return using(change) if began else using(submit("A constant in core.py"))
        both.set()
        assert edited.wait(20)
        return using(("list_files", {"pattern": "docs/**"})) if began else using(submit())

    server = serve(by=by)
    context = context_of(large)
    agent = ClaudeAgent(context.brief, KEY)
    trees = [context, replace(context, directory=large, tree=large)]

    def call(place: int) -> None:
        number = ideas.begin(place, 1)
        facts = {
            "others": lambda: ideas.others(place),
            "intend": lambda line: ideas.intend(place, line),
        }
        with suppress(AgentFailure):
            agent.propose(replace(trees[place], number=number, **facts))

    threads = [threading.Thread(target=call, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
        # The first has its number
        time.sleep(0.1)
    for thread in threads:
        thread.join(60)
    second = [words(body) for body in server.requests if "experiment #2." in words(body)]
    assert "The call for #1: its idea is not known yet" in second[0]
    # As soon as it is known: the file that is edited, then the idea
    assert "The call for #1: edits pack/core.py" in second[1] or (
        "The call for #1: A constant in core.py" in second[1]
    )


def test_an_idea_is_told_while_its_reply_is_still_on_its_way(tmp_path: Path, serve: Serve) -> None:
    server = serve(replace(reply([("train.py", "x" * 4_000, "y")], "Another optimiser"), hang=True))
    context, ideas = context_of(tiny.repository(tmp_path / "home")), Ideas()
    ideas.begin(1, 1)
    assert ideas.begin(2, 1) == 2
    told = replace(context, intend=lambda line: ideas.intend(1, line))

    def call() -> None:
        with suppress(AgentFailure):
            ClaudeAgent(context.brief, KEY).propose(told)

    thread = threading.Thread(target=call)
    thread.start()
    assert server.hung.wait(20)
    for _ in range(100):
        if ideas.others(2) == ["The call for #1: Another optimiser"]:
            break
        time.sleep(0.05)
    else:
        raise AssertionError(ideas.others(2))
    context.cancelled.set()
    thread.join(20)


def test_a_model_that_can_think_is_asked_to(tmp_path: Path, serve: Serve) -> None:
    context = context_of(tiny.repository(tmp_path / "home"))
    good = reply([("train.py", "LR = 0.1", "LR = 0.2")])
    server = serve(failing(400, "invalid_request_error"), good, good)
    agent = registry.make(["claude"], context.brief, key=KEY, effort="high")
    agent.propose(context)
    (context.directory / "train.py").write_text("LR = 0.1\n")
    agent.propose(context)
    first, second, third = server.requests
    assert first["output_config"]["effort"] == "high"
    assert first["thinking"] == {"type": "adaptive"}
    # A model that cannot is asked without, from then on
    assert "thinking" not in second
    assert "thinking" not in third
    with pytest.raises(InputError, match="low, medium, high"):
        registry.make(["claude"], context.brief, key=KEY, effort="utmost")


def test_training_is_spoken_of_where_the_brief_trains(tmp_path: Path, serve: Serve) -> None:
    home = tiny.repository(tmp_path / "home")
    timed = tiny.PROGRAM.replace("timeout: 20", "time-budget: 1")
    server = serve(reply([("train.py", "LR = 0.1", "LR = 0.2")]))
    for program in (tiny.PROGRAM, timed):
        (home / "program.md").write_text(program)
        context = context_of(home)
        ClaudeAgent(context.brief, KEY).propose(context)
        shutil.rmtree(context.directory)
    plain, trained = (words(request).partition("<brief>")[0] for request in server.requests)
    schemas = [request["output_config"]["format"]["schema"] for request in server.requests]
    assert "train" not in plain
    assert "trained and scored" in trained
    assert ["comparable" in schema["properties"] for schema in schemas] == [False, True]


def made(number: int, status: str, gain: float, patch: str) -> Experiment:
    """An experiment whose edit was measured."""
    facts = {"number": number, "status": status, "description": "An idea", "agent": "claude"}
    verdict = Verdict(**facts, reason="measured", estimate=gain, spread=0.1, runs=1)  # type: ignore[arg-type]
    proposal = Proposal(parent="a" * 40, patch=patch, agent="claude", description="An idea")
    return Experiment(number=number, proposal=proposal, verdict=verdict)


def diff(old: str, new: str, at: int = 1) -> str:
    head = "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n"
    return f"{head}@@ -{at} +{at} @@\n-{old}\n+{new}\n"


def test_what_an_edit_would_repeat() -> None:
    tried = (
        made(1, "keep", 1.0, diff("LR = 0.1", "LR = 0.3")),
        made(2, "discard", -1.0, diff("WIDTH = 4", "WIDTH = 1")),
        made(3, "discard", 0.05, diff("DEPTH = 1", "DEPTH = 2")),
    )
    known = Known({"f" * 40: "#7"}, tried)
    assert known.repeats("f" * 40, "") == "it is the same code as #7"
    # On another incumbent it stands on another line
    assert "takes back #1" in known.repeats("0", diff("LR = 0.3", "LR = 0.1", at=9))
    assert "repeats #2" in known.repeats("0", diff("WIDTH = 4", "WIDTH = 1", at=9))
    assert known.repeats("0", diff("WIDTH = 4", "WIDTH = 2")) == ""
    # Within the noise is not refuted
    assert known.repeats("0", diff("DEPTH = 1", "DEPTH = 2", at=9)) == ""


def test_an_edit_that_only_repeats_is_told_to_its_author_before_it_costs_a_trial(
    large: Path, tmp_path: Path, serve: Serve
) -> None:
    refused = "it repeats #2, which was refuted (worse)"
    context = context_of(tiny.repository(tmp_path / "small"))
    file = context.directory / "train.py"

    def why(path: Path = file, text: str = "LR = 0.2") -> str:
        return refused if text in path.read_text() else ""

    edits = [reply([("train.py", "LR = 0.1", f"LR = {value}")]) for value in ("0.2", "0.3")]
    server = serve(*edits)
    ClaudeAgent(context.brief, KEY).propose(replace(context, refusal=why))
    assert refused in server.requests[1]["messages"][2]["content"]
    assert "LR = 0.3" in file.read_text()
    # In turns it stays in the tree, to be changed
    context = context_of(large)
    core = context.directory / "pack" / "core.py"
    change = {"file": "pack/core.py", "search": "work1(1)", "replace": "work1(2)"}
    back = {"file": "pack/core.py", "search": "work1(2)", "replace": "work1(3)"}
    server = serve(using(("edit", change), submit()), using(("edit", back), submit()))
    later = replace(context, refusal=lambda: why(core, "work1(2)"))
    ClaudeAgent(context.brief, KEY).propose(later)
    assert refused in results(server.requests[1])[1]


def test_an_edit_that_takes_back_a_kept_one_is_not_measured(tmp_path: Path) -> None:
    home = quick.repository(tmp_path / "home", "LR = 0.1\nWIDTH = 4\n")
    agent = quick.Agent([("LR = 0.1", "LR = 0.3"), ("LR = 0.3", "LR = 0.1")], patient=True)

    def formula(literals: dict[str, float], trial: Trial) -> float:
        return 2 - literals["LR"] + random.Random(trial.seed).gauss(0, 0.01)

    state = quick.go(home, agent, formula)
    assert state.kept == [1]
    assert state.experiments.last == 1
    assert any("it takes back #1, which was kept" in text for text in state.messages)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("python train.py --fast", ["python", "train.py", "--fast"]),
        ("/usr/bin/python3 -u -m pack.main", ["/usr/bin/python3", "-u", "-m", "pack.main"]),
        ("uv run train.py", ["uv", "run", "python", "train.py"]),
        ("python train.py && echo done", None),
        ("python -c 'print(1)'", None),
        ("make bench", None),
    ],
)
def test_a_python_command_is_profiled_as_it_is(run: str, words: list[str] | None) -> None:
    made = profile.around(run)
    if words is None:
        assert made is None
    else:
        assert made is not None
        parts = shlex.split(made)
        place = parts.index("-c")
        assert [*parts[:place], *parts[place + 2 :]] == words


def test_the_hottest_functions_are_read_off_what_cprofile_prints(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("def slow():\n    return sum(range(10**6))\n\n\nslow()\n")
    asked = [sys.executable, "-m", "cProfile", "-s", "tottime", "work.py"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "slow" in [one.name for one in profile.hottest(done.stdout)]


def test_a_standstill_is_said_where_it_is_unlikely(tmp_path: Path) -> None:
    context = context_of(tiny.repository(tmp_path / "home"))
    lucky = [made(number, "keep", 1.0, diff("A = 1", "A = 2")) for number in range(1, 4)]
    misses = [made(number, "discard", -1.0, diff("B = 1", "B = 2")) for number in range(4, 9)]
    assert "stands still" not in digest(replace(context, history=[*lucky, *misses[:3]]))
    told = digest(replace(context, history=[*lucky, *misses]))
    assert "none of the last 5 ideas was kept" in told
    assert "so far train.py 8" in told
    # Where hardly anything was kept before, so short a row is what is expected
    assert "stands still" not in digest(replace(context, history=misses))


def test_the_report_says_how_expectations_held() -> None:
    hopes = [(1, 0.2, 0.1), (2, 0.2, 0.05), (3, 0.2, -0.03)]
    tried = [
        one.model_copy(update={"proposal": one.proposal.model_copy(update={"predicted": hope})})
        for number, hope, gain in hopes
        if (one := made(number, "discard", gain, "")).proposal
    ]
    assert tables.expectations(tried) == [
        (
            "claude",
            "gains of +0.2 on average, measured +0.04; 1 of 3 gave at least half of what was expected",
        )
    ]


def test_a_profile_may_know_a_file_by_another_folder(tmp_path: Path) -> None:
    told = "PROFILE 0.6 /build/tree/train.py:3 step\nPROFILE 0.4 /usr/lib/other.py:1 work\n"
    trial = Trial(number=0, commit="c", seed=1, stage="profile")
    profile = Measurement(trial=trial, outcome="ok", tail=told)
    context = context_of(tiny.repository(tmp_path / "home"), profile=profile)
    assert [one.file for one in context.hot] == ["train.py", "/usr/lib/other.py"]


def test_what_a_model_thought_is_given_back_as_it_was(large: Path, serve: Serve) -> None:
    edit = {"file": "pack/core.py", "search": "work1(1)", "replace": "1"}
    thinking = using(("edit", edit), text="So be it.", thinking="Is it the constant?")
    server = serve(thinking, using(submit()))
    context = context_of(large)
    draft = registry.make(["claude"], context.brief, key=KEY, effort="low").propose(context)
    assert draft.usage.calls == 2
    kept, said, asked = server.requests[1]["messages"][1]["content"]
    assert kept == {
        "type": "thinking",
        "thinking": "Is it the constant?",
        "signature": "signed",
    }
    assert said == {"type": "text", "text": "So be it."}
    assert asked["type"] == "tool_use"
    assert asked["input"] == edit


def test_the_whole_record_of_an_experiment_is_a_tool_call_away(large: Path, serve: Serve) -> None:
    def measured(number: int, cost: float, **facts: Any) -> Measurement:
        trial = Trial(number=number, commit="c", seed=1)
        curve = [(float(n), cost / (n + 1)) for n in range(1, 9)]
        told = {"outcome": "ok", "value": cost, "metrics": {"cost": cost, "steps": 9 * cost}}
        return Measurement.model_validate({"trial": trial, "curve": curve} | told | facts)

    failed = {"outcome": "crash", "reason": "It ended with exit code 1.", "value": None}
    tail = "  File x.py\nValueError: no such part\n"
    wider = made(1, "discard", -1.0, diff("WIDTH = 4", "WIDTH = 8"))
    runs = [measured(1, 3.0), measured(1, 3.0, **failed, tail=tail)]
    wider = wider.model_copy(update={"runs": runs, "parent": "b" * 40})
    first = Experiment(number=0, commit="b" * 40, runs=[measured(0, 2.0)])
    server = serve(
        using(("experiment", {"number": 1}), ("experiment", {"number": 8})), submit_nothing()
    )
    context = context_of(large, history=[first, wider])
    with pytest.raises(AgentFailure):
        ClaudeAgent(context.brief, KEY).propose(context)
    told, absent = results(server.requests[1])
    assert "steps 27 (its incumbent: 18)" in told
    assert "Training loss at 10/25/50/100 % of the run: 1, 0.75, 0.6, 0.3333" in told
    assert "+WIDTH = 8" in told
    assert "ValueError: no such part" in told
    assert absent == "There is no experiment #8 in this run."


def submit_nothing() -> Answer:
    return failing(404, "not_found_error")
