"""The memory branch and the queue on it, and what the steps of the Action do when either cannot be had."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import delivery
import pytest
import tiny
from delivery import Delivery

from autoresearch_action import action
from autoresearch_action import ledger as ledgers
from autoresearch_action.agents.lessons import Lessons
from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.github import memory, queue
from autoresearch_action.github.api import allowed, connect


def test_memory_is_one_file_a_run_and_comes_back(run: Delivery, tmp_path: Path) -> None:
    address = memory.save(ledgers.read(run.state), run.environ, True)
    assert address.startswith("https://github.example/octo/repo/raw/autoresearch-memory/program/")
    writes = len([w for w in run.fake.writes if "blobs" not in w[1]])
    memory.save(ledgers.read(run.state), run.environ, True)
    assert (
        len([w for w in run.fake.writes if "blobs" not in w[1]]) <= writes + 1
    )  # the tree that turns out to be the same
    files = run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH).split()
    assert sum(1 for name in files if name.endswith(".jsonl")) == 1 and any(
        name.endswith("progress.png") for name in files
    )

    fresh = tmp_path / "fresh"
    assert (
        memory.recall(fresh, "program", run.environ) == 1
        and memory.recall(fresh, "program", run.environ) == 0
    )
    assert json.loads((fresh / "claims.json").read_text()) == json.loads(
        (run.state / "claims.json").read_text()
    )
    shutil.rmtree(run.state)
    fresh.rename(run.state)
    (run.home / "README").write_text("A newer base.\n")
    tiny.commit(run.home)
    delivery.research(run.home, "--agent", "optuna", "--max-experiments", "2")
    told = [json.loads(line) for line in (run.state / "ledger.jsonl").read_text().splitlines()]
    first = [event["description"] for event in told if event["event"] == "proposal"][:2]
    assert any("Raise the rate" in name for name in first), (
        "the last stack is measured first on the newer base"
    )
    memory.save(ledgers.read(run.state), run.environ, True)
    assert run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH).count(".jsonl") == 2


def test_a_ticket_counts_from_one(run: Delivery, tmp_path: Path) -> None:
    queue.enqueue(dispatched(run, tmp_path, 31, checkpoint="s3://models/1", attempt=-1_000))
    (ticket,) = queued(run)
    assert json.loads(run.fake.git("show", f"{memory.BRANCH}:{ticket}"))["attempt"] == 1


def test_lessons_come_back_with_what_people_made_of_them(run: Delivery, tmp_path: Path) -> None:
    state = ledgers.read(run.state)
    assert state.run is not None
    own = f"- #1 {state.run.id}: A higher rate pays"
    (run.state / "lessons.md").write_text(f"# Lessons\n\n{own}\n- #1 another: not of this run\n")
    memory.save(state, run.environ, False)
    branch = memory.Branch(connect(run.environ))
    written = branch.blob(branch.listing("program")["lessons.md"]).decode()
    assert own in written
    assert "another" not in written
    edited = written.replace("A higher rate pays", "A higher rate pays up to 0.3")
    branch.write({"program/lessons.md": f"{edited}Leave the loss alone.\n".encode()}, "By hand")
    later = f"{own}\n- #2 {state.run.id}: Wider pays too\n"
    (run.state / "lessons.md").write_text(later)
    memory.save(state, run.environ, False)
    fresh = tmp_path / "fresh"
    memory.recall(fresh, "program", run.environ)
    told = Lessons(ledgers.read(fresh)).read()[0].split("\n")
    assert "A higher rate pays up to 0.3" in told
    assert "A higher rate pays" not in told
    assert "Leave the loss alone." in told
    assert "Wider pays too" in told


def test_two_writers_of_the_memory_lose_nothing(run: Delivery) -> None:
    other = memory.Branch(memory.connect(run.environ))
    run.fake.hook(
        "POST", r"/git/refs$", lambda: other.write({"other/a.jsonl": b"{}\n"}, "Another run")
    )
    memory.save(ledgers.read(run.state), run.environ, True)
    run.fake.hook(
        "PATCH", r"/git/refs", lambda: other.write({"other/b.jsonl": b"{}\n"}, "Another run")
    )
    memory.Branch(memory.connect(run.environ)).write({"program/c.jsonl": b"{}\n"}, "A third")
    files = run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH)
    assert all(
        name in files
        for name in ("other/a.jsonl", "other/b.jsonl", "program/c.jsonl", "claims.json")
    )


def dispatched(run: Delivery, folder: Path, number: int, **payload: object) -> dict[str, str]:
    event = folder / f"event-{number}.json"
    event.write_text(json.dumps({"action": "checkpoint", "client_payload": payload}))
    run.fake.runs[str(number)] = "in_progress"
    return run.environ | {
        "GITHUB_EVENT_NAME": "repository_dispatch",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_RUN_ID": str(number),
    }


def test_a_third_checkpoint_is_queued_and_not_dropped(run: Delivery, tmp_path: Path) -> None:
    jobs = [
        dispatched(run, tmp_path, number, checkpoint=f"s3://models/{number}")
        for number in (11, 12, 13)
    ]
    for job in jobs:
        assert queue.enqueue(job).endswith(f"-{job['GITHUB_RUN_ID']}.json")
        assert queue.enqueue(job) == ""  # a second attempt of the same job
    run.fake.runs["12"] = "completed"  # cancelled while it waited, because the third one came
    assert (
        queue.settle(jobs[0]) == "" and not run.fake.dispatched
    )  # 13 is still on its way and will look
    run.fake.runs["13"] = "completed"
    assert "run 12" in queue.settle(jobs[2])
    payload = {"checkpoint": "s3://models/12", "attempt": 2}
    assert run.fake.dispatched == [{"event_type": "checkpoint", "client_payload": payload}]
    assert run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH).strip() == ""
    last = dispatched(run, tmp_path, 14, checkpoint="s3://models/12", attempt=3)
    queue.enqueue(last)
    run.fake.runs["14"] = "completed"
    assert (
        queue.settle(run.environ | {"GITHUB_RUN_ID": "99"}).endswith("dispatch it anew.")
        and len(run.fake.dispatched) == 1
    )


def test_a_broken_ticket_and_other_files_hold_nobody_up(run: Delivery, tmp_path: Path) -> None:
    queue.enqueue(dispatched(run, tmp_path, 12, checkpoint="s3://models/12"))
    branch = memory.Branch(connect(run.environ))
    others = {
        "queue/README.md": b"What lies here",
        "queue/20260101T000000Z-3.json": b"{",
        "queue/stats-2024.json": b"{}",
    }
    branch.write(others, "By hand")
    run.fake.runs |= {"3": "completed", "12": "completed"}
    said = queue.settle(run.environ | {"GITHUB_RUN_ID": "99"})
    assert (
        "20260101T000000Z-3.json of the memory branch cannot be read" in said
        and "run 12 had been left behind" in said
    )
    assert {*queued(run)} == {*others} and len(run.fake.dispatched) == 1


def step(run: Delivery, **more: str) -> dict[str, str]:
    return (
        run.environ
        | {
            "AUTORESEARCH_STATE": str(run.state),
            "GITHUB_STEP_SUMMARY": str(run.state / "summary"),
            "GITHUB_RUN_ID": "11",
        }
        | more
    )


def queued(run: Delivery) -> list[str]:
    return run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH, f"{queue.FOLDER}/").split()


def test_a_run_that_cannot_publish_leaves_the_queue_all_the_same(
    run: Delivery, tmp_path: Path
) -> None:
    for number in (11, 12):
        queue.enqueue(dispatched(run, tmp_path, number, checkpoint=f"s3://models/{number}"))
    run.fake.runs["12"] = "completed"  # cancelled while it waited
    run.fake.settings["actions_may_create_pulls"] = False
    with pytest.raises(EnvironmentFault, match="Allow GitHub Actions"):
        action.publish(step(run))
    assert not queued(run) and len(run.fake.dispatched) == 1
    queue.enqueue(dispatched(run, tmp_path, 13, checkpoint="s3://models/13"))
    action.settle(step(run, GITHUB_RUN_ID="13"))  # research failed: there is nothing to publish
    assert not queued(run)


def test_a_memory_branch_that_may_not_be_written_costs_no_pull_request(
    run: Delivery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    run.fake.settings["protected"] = memory.BRANCH
    action.publish(step(run))
    assert run.fake.pulls[1]["state"] == "open" and not run.fake.sha(memory.BRANCH)
    warning = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("::warning")
    )
    assert "Rulesets" in warning and "the claims are in this job's artifact alone" in warning
    assert "artifact alone" in (run.state / "summary").read_text()


@pytest.mark.parametrize("path", [r"/repos/octo/repo$", r"/git/", r"/actions/runs"])
def test_what_may_not_be_read_fails_neither_recall_nor_the_queue(
    run: Delivery,
    tmp_path: Path,
    path: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.chdir(run.home)
    queue.enqueue(dispatched(run, tmp_path, 5, checkpoint="s3://models/5"))
    run.fake.fault(
        "GET", path, times=99, status=403, message="Resource not accessible by integration"
    )
    action.recall(
        step(
            run,
            GITHUB_WORKSPACE=str(run.home),
            AUTORESEARCH_IN_STATE_DIRECTORY=str(tmp_path / "state"),
        )
    )
    action.settle(step(run))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::warning")]
    assert len(told) == (1 if "runs" in path else 2) and all(
        "actions: read" in line for line in told
    )


def test_a_secret_in_an_address_is_not_queued(run: Delivery, tmp_path: Path) -> None:
    queue.enqueue(
        dispatched(run, tmp_path, 11, checkpoint="https://user:pw@host/m.pt?X-Amz-Signature=secret")
    )
    ticket = run.fake.git("show", f"{memory.BRANCH}:queue/{queued(run)[0].removeprefix('queue/')}")
    assert "https://host/m.pt" in ticket and "secret" not in ticket and "pw" not in ticket
    run.fake.runs["11"] = "completed"
    assert (
        "https://host/m.pt of run 11 was left behind" in queue.settle(step(run, GITHUB_RUN_ID="12"))
        and not run.fake.dispatched
    )


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_doctor_says_what_the_token_may_not_see(run: Delivery) -> None:
    ((name, text, advice),) = allowed("gone", "octo/repo", run.environ)
    assert name == "github" and "not valid" in text and advice
    run.fake.fault(
        "GET",
        r"/repos/octo/repo$",
        times=9,
        status=403,
        message="Resource not accessible by integration",
    )
    ((name, text, advice),) = allowed(run.fake.token, "octo/repo", run.environ)
    assert name == "github" and "permissions: contents: write" in text and advice
    run.fake.faults.clear()
    run.fake.fault("GET", r"/pulls", status=403, message="Resource not accessible by integration")
    assert [(name, bool(advice)) for name, _, advice in allowed(run.fake.token, "octo/repo", run.environ)][:2] == [
        ("github", False), ("pull requests", True),
    ]  # fmt: skip
    assert [name for name, _, _ in allowed(run.fake.token, "octo/repo", run.environ)] == [
        "github",
        "pull requests",
    ]


def test_two_folders_of_a_repository_are_two_lines_of_research(tmp_path: Path) -> None:
    ids = []
    for place in ("", "a", "b", "a-b", "a/b"):
        tiny.repository(tmp_path / place)
        shutil.rmtree(tmp_path / place / ".git")
    tiny.git(tmp_path, "init", "-q")
    for place in ("", "a", "b", "a-b", "a/b"):
        environ = {
            "GITHUB_WORKSPACE": str(tmp_path),
            "AUTORESEARCH_IN_WORKING_DIRECTORY": place,
            "RUNNER_TOOL_CACHE": "/tools",
        }
        here = os.getcwd()
        try:
            brief, _, state = action._place(action.Inputs(environ), environ)
        finally:
            os.chdir(here)
        assert state.name == brief.id
        ids.append(brief.id)
    assert ids == ["program", "a--program", "b--program", "a-b--program", "a--b--program"]


def test_what_is_remembered_of_a_run_is_only_added_to(run: Delivery) -> None:
    """A later job that takes an earlier run's name does not take its place."""
    memory.save(ledgers.read(run.state), run.environ, True)
    ledger = run.state / "ledger.jsonl"
    with ledger.open("a") as file:
        file.write('{"event":"stop","at":2.0,"reason":"once more","finished":true}\n')
    memory.save(ledgers.read(run.state), run.environ, True)
    before = len(run.fake.writes)
    ledger.write_text(ledger.read_text().replace("Raise the rate", "Lower the rate"))
    with pytest.raises(EnvironmentFault, match="holds another run"):
        memory.save(ledgers.read(run.state), run.environ, True)
    assert len(run.fake.writes) == before


def claimed(**told: object) -> bytes:
    claims = {"fdr": 0.1, "attempts": 0, "claimed": []} | told
    return json.dumps({"used": [], "accounted": [], "claims": claims}).encode()


def test_a_run_adds_to_the_claims_what_one_run_can(run: Delivery) -> None:
    """A job that ran a model's code may say anything of them: levels of later runs rest on it."""
    memory.save(ledgers.read(run.state), run.environ, True)
    kept = memory.Branch(connect(run.environ))

    def stored() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(kept.blob(kept.listing("program")["claims.json"]))
        return told

    before = stored()
    assert before == json.loads((run.state / "claims.json").read_text())
    for used, accounted, attempts, claims in (
        ([0] * 5_000, [*range(5_000)], 5_000, [*range(1, 5_001)]),
        ([*before["used"], 7], [], 0, []),
    ):
        told = {"fdr": 0.1, "attempts": attempts, "claimed": claims}
        hostile = {"used": used, "accounted": accounted, "claims": told}
        (run.state / "claims.json").write_text(json.dumps(hostile))
        memory.save(ledgers.read(run.state), run.environ, True)
        after = stored()
        assert after["used"][: len(before["used"])] == before["used"]
        assert len(after["used"]) <= len(before["used"]) + 20
        assert before["accounted"] == after["accounted"][: len(before["accounted"])]
        assert (
            before["claims"]["attempts"]
            <= after["claims"]["attempts"]
            <= before["claims"]["attempts"] + 20
        )
        assert len(after["claims"]["claimed"]) <= len(before["claims"]["claimed"]) + 1
        before = after


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        claimed(attempts=-2),
        claimed(fdr=1.0),
        claimed(attempts=1, claimed=[2]),
        claimed(attempts=2, claimed=[2, 1]),
        claimed(attempts=1e9),
        claimed(attempts="1"),
        b'{"used": [20], "claims": {}}',
        b'{"used": [true], "claims": {}}',
        b'{"used": [], "accounted": [4294967296], "claims": {}}',
    ],
)
def test_claims_that_no_run_writes_are_refused(run: Delivery, raw: bytes) -> None:
    """Some of them would end every later run in a traceback."""
    (run.state / "claims.json").write_bytes(raw)
    with pytest.raises(InputError, match=r"claims\.json .* not what this tool writes"):
        run.publish()
