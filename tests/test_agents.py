"""Agents: what they propose, what they spend, and that nothing of theirs is left behind.

Claude against a real HTTP server on loopback; command agents as real processes. Not covered: the quality of a
real model's ideas, and what it costs at its provider.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from model_server import Answer, ModelServer, failing, limited, overloaded, reply

from autoresearch_action import brief as briefs
from autoresearch_action.agents import (
    Agent,
    AgentFailure,
    Context,
    Draft,
    Exhausted,
    Outage,
    prompt,
    registry,
)
from autoresearch_action.agents.api import MAX_OUTPUT
from autoresearch_action.agents.claude import MODEL, ClaudeAgent
from autoresearch_action.agents.command import CommandAgent
from autoresearch_action.agents.digest import HISTORY, digest
from autoresearch_action.agents.edits import Edit, EditRefused, apply
from autoresearch_action.agents.ensemble import FAIR, Ensemble
from autoresearch_action.agents.literals import find, swap
from autoresearch_action.agents.optuna import OptunaAgent
from autoresearch_action.agents.patches import PatchesAgent
from autoresearch_action.errors import InputError
from autoresearch_action.records import Experiment, Measurement, Proposal, Trial, Usage, Verdict
from autoresearch_action.syntax import parsed

KEY = "sk-ant-loopback-0123456789"
LR = ("train.py", "LR = 0.1", "LR = 0.2")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    home = tiny.repository(tmp_path / "home")
    tree = (
        home / ".autoresearch" / "slots" / "agent-0"
    )  # where a session puts it: below the user's own repository
    shutil.copytree(home, tree, ignore=shutil.ignore_patterns(".git"))
    return Context(
        briefs.read(Path("program.md"), home), tree, tree, parent="a" * 40, number=1, seed=7
    )


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    servers: list[ModelServer] = []

    def start(*script: Answer) -> ModelServer:
        servers.append(ModelServer(script).__enter__())
        monkeypatch.setenv("ANTHROPIC_BASE_URL", servers[-1].url)
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


def measured(number: int, value: float, **trial: Any) -> Measurement:
    return Measurement(
        trial=Trial(number=number, commit="c", seed=1, **trial), outcome="ok", value=value
    )


def tried(
    number: int, agent: str, status: str = "discard", gain: float | None = None, **proposal: Any
) -> Experiment:
    text = proposal.pop("description", f"idea {number}")
    made = Proposal(parent="a" * 40, patch="", agent=agent, description=text, **proposal)
    verdict = Verdict(
        number=number,
        status=status,
        reason="not better",
        description=text,
        agent=agent,
        estimate=gain,
        runs=1,
    )  # type: ignore[arg-type]
    return Experiment(number=number, proposal=made, parent="a" * 40, verdict=verdict)


def crashed(tree: Path, reason: str, tail: str) -> Experiment:
    run = Measurement(
        trial=Trial(number=4, commit="c", seed=1), outcome="crash", reason=reason, tail=tail
    )
    return tried(4, "claude", "crash", description="Wider").model_copy(update={"runs": [run]})


def test_claude_proposes_an_edit_from_a_cached_prompt(context: Context, serve: Any) -> None:
    server = serve(reply([LR], comparable=False))
    draft = ClaudeAgent(context.brief, KEY).propose(context)
    assert "LR = 0.2" in (context.directory / "train.py").read_text()
    assert (draft.description, draft.comparable, draft.usage.calls) == (
        "Another step size",
        False,
        1,
    )
    assert (
        draft.usage.input_tokens,
        draft.usage.cache_read_tokens,
        draft.usage.cache_write_tokens,
    ) == (1_000, 4_000, 2_000)
    (request,) = server.requests
    assert (
        request["model"] == MODEL
        and request["stream"] is True
        and server.headers[0]["authorization"] == f"Bearer {KEY}"
    )
    frozen, files, question = request["messages"][0]["content"]
    assert (
        "cache_control" in frozen and "cache_control" in files and "cache_control" not in question
    )
    assert (
        "score.py" in frozen["text"]
        and "Lower the loss." in frozen["text"]
        and "LR = 0.1" not in frozen["text"]
    )
    assert "LR = 0.1" in files["text"] and "<history>" in question["text"]


def test_the_dollars_are_those_of_the_price_list_and_below_the_bound(
    context: Context, serve: Any
) -> None:
    serve(reply([LR]))
    agent = ClaudeAgent(context.brief, KEY, model="claude-sonnet-4-6")
    first = agent.worst_usd
    assert first is not None
    assert first > 2 * MAX_OUTPUT * 15 / 1e6
    usage = agent.propose(context).usage
    # 3 $/M input, 15 output, 0.30 cache read; a cache write is 6 for an hour, which a run of 300 s needs.
    assert usage.usd == pytest.approx((1_000 * 3 + 500 * 15 + 4_000 * 0.30 + 2_000 * 6) / 1e6)
    # From then on by what calls have cost
    assert agent.worst_usd is not None
    assert usage.usd < agent.worst_usd < 3 * usage.usd
    with pytest.raises(InputError, match="--usd-per-call"):
        ClaudeAgent(context.brief, KEY, model="local-model")
    priced = ClaudeAgent(context.brief, KEY, model="local-model", usd_per_call=0.25)
    (context.directory / "train.py").write_text("LR = 0.1\n")
    assert priced.worst_usd == 0.5 and priced.propose(context).usage.usd == 0.25


def test_an_edit_that_does_not_apply_is_mended_once(context: Context, serve: Any) -> None:
    server = serve(reply([("train.py", "LR = 7", "LR = 8")]), reply([LR]))
    draft = ClaudeAgent(context.brief, KEY).propose(context)
    assert draft.usage.calls == 2 and "LR = 0.2" in (context.directory / "train.py").read_text()
    assert "`LR = 7`" in server.requests[1]["messages"][2]["content"]
    before = (context.directory / "train.py").read_text()
    server = serve(
        reply([("train.py", "WIDTH = 4", "WIDTH = 5"), ("score.py", "import os", "")]),
        Answer(text="no JSON here"),
    )
    with pytest.raises(AgentFailure, match="is not taken") as failure:
        ClaudeAgent(context.brief, KEY).propose(context)
    assert failure.value.usage.calls == 2 and len(server.requests) == 2
    assert (context.directory / "train.py").read_text() == before


@pytest.mark.parametrize(
    ("answer", "sentence", "fatal", "paid"),
    [
        (Answer(stop="refusal"), "declined", False, True),
        (Answer(text='{"hypothesis": "', stop="max_tokens"), "cut off", False, True),
        (Answer(), "empty", False, True),
        (replace(reply([LR]), broken=True), "broke off", False, True),
        (Answer(error="overloaded_error"), "overloaded", False, True),
        (overloaded(), "overloaded", False, False),
        (failing(401, "authentication_error"), "refuses the key", True, False),
        (failing(404, "not_found_error"), f"does not know {MODEL}", True, False),
        (failing(400, "invalid_request_error"), "refuses the request", True, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_call_without_a_usable_reply_is_one_sentence(
    context: Context, serve: Any, answer: Answer, sentence: str, fatal: bool, paid: bool
) -> None:
    server = serve(answer)
    with pytest.raises(AgentFailure, match=sentence) as failure:
        ClaudeAgent(context.brief, KEY, retries=2).propose(context)
    assert failure.value.fatal is fatal and (failure.value.usage.usd > 0) is paid
    # Once more after each retry, or without what may be why it was refused
    assert len(server.requests) == {529: 3, 400: 2}.get(answer.status, 1)
    seen: BaseException | None = failure.value
    while seen is not None:  # what a traceback or a debugger could show
        assert KEY not in f"{seen!r} {seen} {vars(seen)}" and "\n" not in str(seen)
        seen = seen.__cause__ or seen.__context__


def test_the_rate_limit_is_waited_out_and_an_unreachable_host_is_said(
    context: Context, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(limited(0.3), overloaded(), reply([LR]))
    began = time.monotonic()
    assert ClaudeAgent(context.brief, KEY).propose(context).usage.calls == 1
    assert len(server.requests) == 3 and time.monotonic() - began >= 0.3
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(AgentFailure, match="cannot be reached"):
        ClaudeAgent(context.brief, KEY, retries=0).propose(context)


def test_a_server_that_takes_no_schema_is_given_it_in_words_from_then_on(
    context: Context, serve: Any
) -> None:
    server = serve(failing(400, "invalid_request_error"), reply([LR]), reply([LR]))
    agent = ClaudeAgent(context.brief, KEY)
    agent.propose(context)
    (context.directory / "train.py").write_text("LR = 0.1\n")
    agent.propose(context)
    asked = ["output_config" in request for request in server.requests]
    assert asked == [True, False, False]
    assert '"hypothesis"' in server.requests[2]["system"][-1]["text"]


def test_a_key_too_short_to_be_one_is_blotted_out_of_no_word(context: Context, serve: Any) -> None:
    serve(reply([LR], description="A wider net"))
    assert ClaudeAgent(context.brief, "x").propose(context).description == "A wider net"
    (context.directory / "train.py").write_text("LR = 0.1\n")
    assert ClaudeAgent(context.brief, "w").propose(context).description == "A wider net"


def test_an_outage_is_waited_out_and_the_others_work_on(context: Context, serve: Any) -> None:
    server = serve(overloaded(), overloaded(), reply([LR]))
    claude = ClaudeAgent(context.brief, KEY, retries=0)
    ensemble = Ensemble([claude, Scripted("other")])
    who, began = [], time.monotonic()
    while "claude" not in who:
        try:
            who.append(ensemble.propose(replace(context, number=len(who))).details["agent"])
        except AgentFailure as failure:
            assert failure.transient
            assert not failure.fatal
        time.sleep(0.05)
    assert time.monotonic() - began >= 2 * Outage.SHORTEST
    assert len(server.requests) == 3
    assert len(who) > 20
    claude.api._outage.begin()
    with pytest.raises(AgentFailure, match=r"^$"):
        claude.propose(replace(context, late=lambda: True))


def test_a_cancelled_call_ends_at_once(context: Context, serve: Any) -> None:
    for script in ([replace(reply([LR]), hang=True)], [limited(3600)]):
        server, cancelled = serve(*script), threading.Event()
        failures: list[AgentFailure] = []

        def call(
            cancelled: threading.Event = cancelled, failures: list[AgentFailure] = failures
        ) -> None:
            try:
                ClaudeAgent(context.brief, KEY).propose(replace(context, cancelled=cancelled))
            except AgentFailure as failure:
                failures.append(failure)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        while not server.requests and thread.is_alive():
            time.sleep(0.01)
        if script[0].hang:
            assert server.hung.wait(10)
        cancelled.set()
        thread.join(10)
        assert not thread.is_alive() and "cancelled" in str(failures[0])
        if script[0].hang:
            assert server.gone.wait(10)  # the connection was closed, not left to the server
            assert failures[0].usage.usd > 0  # what had come is paid for


def test_claude_mends_a_crash_but_not_a_lack_of_time_or_memory(
    context: Context, serve: Any
) -> None:
    server = serve(reply([("train.py", "WIDTH = 4", "WIDTH = 5")]), Answer(text=reply([]).text))
    agent = ClaudeAgent(context.brief, KEY)
    draft = agent.repair(
        context, crashed(context.tree, "run ended with exit code 1", "NameError: name 'WITDH'")
    )
    assert draft is not None and draft.description == "Wider (mended)"
    assert "NameError: name 'WITDH'" in server.requests[0]["messages"][0]["content"][-1]["text"]
    assert (
        agent.repair(
            context, crashed(context.tree, "run was ended after 20 s: the time limit", "step 1")
        )
        is None
    )
    assert (
        agent.repair(
            context,
            crashed(
                context.tree,
                "run ended with exit code 1",
                "torch.OutOfMemoryError: CUDA out of memory",
            ),
        )
        is None
    )
    assert len(server.requests) == 1
    with pytest.raises(
        AgentFailure, match=r"^$"
    ) as failure:  # nothing to mend is no failure, but was paid for
        agent.repair(context, crashed(context.tree, "run ended with exit code 1", "ValueError"))
    assert failure.value.usage.calls == 1


def test_the_prompt_is_bounded_and_holds_no_held_out_value(context: Context) -> None:
    (context.directory / "score.py").write_text("# long\n" * 100_000)
    baseline = Experiment(
        number=0,
        runs=[
            measured(0, 1.5),
            measured(0, 6.54321, stage="confirm"),
            measured(0, 9.87654, stage="transfer"),
        ],
    )
    long = [
        tried(
            n,
            "claude",
            "keep" if n % 50 == 0 else "discard",
            gain=0.001 * n,
            description=f"idea-{n} " + "x" * 300,
        ).model_copy(update={"runs": [measured(n, 7.65432, stage="confirm")]})
        for n in range(1, 1500)
    ]
    pending = [tried(2000 + n, "claude", description=f"under-way-{n}") for n in range(50)]
    earlier = [
        v.model_copy(update={"description": f"last-week-{v.number}\x1b[31m"})
        for e in long
        if (v := e.verdict)
    ]
    text = digest(
        replace(context, history=[baseline, *long], pending=pending, earlier=earlier, noise=0.01)
    )
    assert len(text) <= HISTORY
    assert "1.5" in text
    for held_out in ("6.54321", "9.87654", "7.65432", "7.65"):
        assert held_out not in text
    for wanted in ("idea-1499", "#1450 +1.45", "under-way-49", "last-week-1499"):
        assert wanted in text
    assert "\x1b" not in text
    frozen = prompt.task(context.brief, context.directory).frozen
    assert len(frozen) < prompt.FROZEN
    assert 'name="score.py"' in frozen


def running(mark: str) -> list[str]:
    """Processes that carry `mark` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"MARK={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(entry.name)
            except OSError:
                pass
    return found


DAEMON = "setsid sh -c 'setsid sleep 300 >/dev/null 2>&1 &' & "  # leaves its parent, its group and its session


def test_a_command_gets_the_task_and_leaves_nothing_behind(context: Context) -> None:
    words = "cat > task.txt; env > env.txt; git rev-parse --git-dir > git.txt 2>&1; "
    words += (
        "sed -i 's/LR = 0.1/LR = 0.2/' train.py; echo thinking; printf 'Doubled \\033[1mLR\\n\\n'"
    )
    secrets = {"GITHUB_TOKEN": "t", "GITHUB_ENV": "e", "GH_TOKEN": "g", "ANTHROPIC_API_KEY": "k"}
    environment = os.environ | {"MARK": str(context.tree)} | secrets
    agent = CommandAgent(DAEMON + words, 0.4, environment)
    draft = agent.propose(context)
    assert (
        draft.description == "Doubled LR"
        and draft.usage == Usage(calls=1, usd=0.4)
        and agent.worst_usd == 0.4
    )
    assert (
        "LR = 0.2" in (context.directory / "train.py").read_text()
        and "Lower the loss." in (context.directory / "task.txt").read_text()
    )
    seen = (context.directory / "env.txt").read_text()
    assert "ANTHROPIC_API_KEY=k" in seen and "GITHUB" not in seen and "GH_TOKEN" not in seen
    assert (
        "not a git repository" in (context.directory / "git.txt").read_text()
    )  # it cannot commit to the user's
    assert not running(str(context.tree))
    with pytest.raises(InputError, match="--usd-per-call"):
        CommandAgent("true", None)


def test_a_command_that_fails_or_is_late_or_cancelled_is_ended_whole(context: Context) -> None:
    environment = os.environ | {"MARK": str(context.tree)}
    with pytest.raises(AgentFailure, match=r"exit code 3: no quota\.") as failure:
        CommandAgent("yes | head -c 3000000; echo no quota >&2; exit 3", 0.4, environment).propose(
            context
        )
    assert failure.value.usage.usd == 0.4 and not failure.value.fatal
    with pytest.raises(AgentFailure) as failure:
        CommandAgent("exec no-such-program-here", 0, environment).propose(context)
    assert failure.value.fatal
    with pytest.raises(AgentFailure, match="did not end within"):
        CommandAgent(DAEMON + "sleep 300", 0.4, environment, limit=0.7).propose(context)
    assert not running(str(context.tree))
    threading.Timer(0.5, context.cancelled.set).start()
    with pytest.raises(AgentFailure, match="cancelled"):
        CommandAgent(DAEMON + "sleep 300", 0.4, environment).propose(context)
    assert not running(str(context.tree))


def test_a_command_ends_with_the_run_that_is_killed(context: Context, tmp_path: Path) -> None:
    code = (
        "import sys; from test_agents import *; directory = Path(sys.argv[1])\n"
        "brief = briefs.Brief(run='x', path=Path('program.md'), directory=directory)\n"
        "place = Context(brief, directory, directory, 'x', 1, 1)\n"
        "CommandAgent('touch begun; sleep 300', 0, dict(os.environ)).propose(place)"
    )
    environment = os.environ | {"MARK": str(tmp_path)}
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parent, env=environment
    )
    while not (tmp_path / "begun").exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.kill()
    run.wait()
    until = time.monotonic() + 5
    while running(str(tmp_path)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running(str(tmp_path))


class Scripted:
    """An agent whose behaviour a test sets."""

    reads_profiles = False

    def __init__(self, name: str, fault: Exception | None = None, worst: float = 0.0) -> None:
        self.name, self.fault, self.repaired = name, fault, 0
        self.worst_usd: float | None = worst

    def propose(self, context: Context) -> Draft:
        if self.fault:
            raise self.fault
        return Draft(description=self.name)

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        self.repaired += 1
        return Draft(description="mended")


def test_an_ensemble_is_fair_at_first_and_then_follows_what_is_kept(context: Context) -> None:
    agents = [Scripted("a", worst=1.0), Scripted("b", worst=2.0), Scripted("b")]
    ensemble = Ensemble(agents)
    assert ensemble.worst_usd == 2.0
    history: list[Experiment] = []
    for number in range(1, 61):
        now = replace(context, number=number, history=history)
        draft = ensemble.propose(now)
        who = draft.details["agent"]
        assert (
            Ensemble(agents).propose(now).details["agent"] == who
        )  # the same dice, the same history
        history = [*history, tried(number, who, "keep" if who == "b" and number % 2 else "discard")]
    asked = [experiment.proposal.agent for experiment in history if experiment.proposal]
    assert sorted(asked[: 3 * FAIR]) == sorted(["a", "b", "b 2"] * FAIR)
    assert asked.count("b") > asked.count("a") + asked.count("b 2") and "a" in asked[3 * FAIR :]
    assert ensemble.repair(context, tried(9, "b 2")) is not None and [
        agent.repaired for agent in agents
    ] == [0, 0, 1]
    assert ensemble.repair(context, tried(9, "")) is None


def test_an_ensemble_goes_on_without_those_that_are_done(context: Context) -> None:
    refused = AgentFailure("No key.", Usage(usd=1.0), fatal=True)
    agents = [
        Scripted("done", Exhausted("All tried.")),
        Scripted("keyless", refused, 5.0),
        Scripted("good"),
    ]
    ensemble = Ensemble(agents)
    failures = []
    for number in range(1, 20):
        try:
            assert ensemble.propose(replace(context, number=number)).details["agent"] == "good"
        except AgentFailure as failure:
            failures.append(failure)
    assert [failure.fatal for failure in failures] == [False] and failures[0].usage.usd == 1.0
    assert ensemble.worst_usd == 0.0
    agents[2].fault = Exhausted("Nothing left.")
    with pytest.raises(Exhausted, match=r"All tried.*Nothing left\."):
        ensemble.propose(context)


def test_optuna_turns_literals_never_twice_and_learns_from_the_ledger(context: Context) -> None:
    source = (context.directory / "train.py").read_bytes()
    history: list[Experiment] = []
    for number in range(1, 13):
        (context.directory / "train.py").write_bytes(source)
        now = replace(context, number=number, seed=number, history=history)
        draft = OptunaAgent(context.brief, 3).propose(
            now
        )  # a new one each time: a resumed run knows what the first knew
        assert (context.directory / "train.py").read_bytes() != source and draft.usage.usd == 0
        compile((context.directory / "train.py").read_text(), "train.py", "exec")
        history.append(
            tried(number, "optuna", gain=-0.1, description=draft.description, details=draft.details)
        )
    turned = [
        json.dumps(json.loads(e.proposal.details["changes"]), sort_keys=True)
        for e in history
        if e.proposal
    ]
    assert len(set(turned)) == len(turned)
    assert any("LR" in text for text in turned) and any("WIDTH" in text for text in turned)


def test_where_time_is_fixed_every_size_is_halved_once_and_a_device_that_is_not_here_is_left_out(
    context: Context,
) -> None:
    source = "import torch\nCUDA = torch.cuda.is_available()\nDEPTH = 8 if CUDA else 4\nWIDTH = 128\nTOKENS_PER_STEP = 2**11\nSTEP_LR = 0.1\n"
    (context.brief.directory / "train.py").write_text(source)
    brief = context.brief.model_copy(update={"time_budget": 5.0})
    brief.model_fields_set.add("time_budget")
    agent = OptunaAgent(brief, 1, cuda=False)
    history: list[Experiment] = []
    for number in range(1, 5):
        (context.directory / "train.py").write_text(source)
        draft = agent.propose(
            replace(context, brief=brief, number=number, seed=number, history=history)
        )
        history.append(
            tried(number, "optuna", gain=-0.1, description=draft.description, details=draft.details)
        )
    seen = [experiment.description for experiment in history]
    assert (
        set(seen[:3]) == {"DEPTH 4 → 2", "WIDTH 128 → 64", "TOKENS_PER_STEP 2**11 → 2**10"}
        and "8" not in seen[3]
    )


def test_ideas_made_side_by_side_do_not_trip_the_parser() -> None:
    """CPython's counts one depth for all threads: a finaliser that lets another thread in while a tree is built breaks it."""

    class Pause:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            time.sleep(1e-6)

    source, failed, until = (
        Path("train.py").read_bytes(),
        list[BaseException](),
        time.monotonic() + 1.5,
    )

    def work() -> None:
        while time.monotonic() < until and not failed:
            _ = [Pause() for _ in range(20)]
            try:
                assert parsed(source) is not None
            except SystemError as error:
                failed.append(error)

    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*before)
    assert not failed


def test_a_literal_is_replaced_byte_for_byte() -> None:
    source = "# é\nLR = 3e-4  # step\nBATCH = 2**15\nSEED = 42\nfast = True\n".encode()
    knobs = {knob.name: knob for knob in find(source, "train.py")}
    assert "SEED" not in knobs and knobs["LR"].value == 3e-4
    assert swap(source, {knobs["LR"]: 0.001}).decode() == source.decode().replace("3e-4", "1e-3")
    assert b"BATCH = 2**16" in swap(source, {knobs["BATCH"]: 16})


def test_patches_come_in_order_once_and_one_that_does_not_apply_is_passed_over(
    context: Context, tmp_path: Path
) -> None:
    home = context.brief.directory
    context = replace(context, parent=tiny.git(home, "rev-parse", "HEAD"))
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider")
    (tmp_path / "ideas" / "2.diff").write_text("not a patch\n")
    tiny.patch(home, tmp_path / "ideas" / "3.patch", ("range(10)", "range(20)"))
    agent = PatchesAgent(str(tmp_path / "ideas"), context.brief)
    assert agent.propose(context).description == "Wider"
    assert (
        agent.propose(context).details["patch"].startswith("3.patch ")
    )  # three-way: the first one has been kept by now
    text = (context.directory / "train.py").read_text()
    assert "WIDTH = 6" in text and "range(20)" in text
    with pytest.raises(Exhausted):
        agent.propose(context)


def test_edits_apply_all_or_none_and_only_where_they_may(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_bytes(b"def f():\r\n    a = 1\r\n    a = 2\r\n")
    assert apply(
        tmp_path, [Edit(file="./train.py", search="a = 1\na = 2", replace="a = 3")], ["train.py"]
    ) == ["train.py"]
    assert file.read_bytes() == b"def f():\r\n    a = 3\r\n"
    for edit, sentence in [
        (Edit(file="../x.py", search="", replace="x"), "may not be edited"),
        (Edit(file="score.py", search="", replace="x"), "may not be edited"),
        (Edit(file="train.py", search="a = 9", replace=""), "does not occur"),
        (Edit(file="train.py", search="\n", replace="x"), "empty"),
    ]:
        with pytest.raises(EditRefused, match=sentence):
            apply(
                tmp_path,
                [Edit(file="train.py", search="a = 3", replace="a = 4"), edit],
                ["train.py"],
            )
    assert b"a = 3" in file.read_bytes() and not (tmp_path.parent / "x.py").exists()


def test_specs_name_agents_and_wrong_ones_say_what_to_do(context: Context, tmp_path: Path) -> None:
    agents: list[Agent] = [
        registry.make([], context.brief),
        registry.make([], context.brief, key=KEY),
        registry.make(["claude:claude-opus-4-6"], context.brief, key=KEY),
        registry.make(["command:sh x.sh", "optuna"], context.brief, usd_per_call=0),
    ]
    assert [agent.name for agent in agents] == [
        "optuna",
        "claude",
        "claude:claude-opus-4-6",
        "ensemble",
    ]
    assert KEY not in repr(agents)
    for specs, sentence in [
        (["claude"], "ANTHROPIC_API_KEY"),
        (["gpt"], "not known"),
        (["command:x"], "--usd-per-call"),
    ]:
        with pytest.raises(InputError, match=sentence):
            registry.make(specs, context.brief)


def test_the_sdk_is_not_imported_before_it_is_needed(context: Context) -> None:
    code = "import sys, autoresearch_action.agents.claude, autoresearch_action.agents.ensemble, autoresearch_action.agents.registry; "
    code += "print({'anthropic', 'genai_prices', 'optuna'} & set(sys.modules))"
    root = Path(__file__).parent.parent
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )
