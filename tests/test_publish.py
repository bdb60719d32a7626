"""Publishing: one pull request from a proven run, whatever happens on the way. Against a loopback GitHub on a real git repository."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import delivery
import pytest
import tiny
from delivery import Delivery

from autoresearch_action.errors import EnvironmentFault, InputError, UserError
from autoresearch_action.github import memory, queue

BRANCH = "autoresearch/program"


@pytest.fixture(scope="session")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return delivery.make(tmp_path_factory.mktemp("proven"))


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return delivery.make(tmp_path_factory.mktemp("empty"), proven=False)


@pytest.fixture
def run(proven: Path, tmp_path: Path) -> Iterator[Delivery]:
    with delivery.delivered(proven, tmp_path) as made:
        yield made


def confirmation(run: Delivery) -> dict[str, object]:
    lines = (run.state / "ledger.jsonl").read_text().splitlines()
    return next(json.loads(line) for line in reversed(lines) if line.startswith('{"event":"confirmation"'))


def settled(run: Delivery, pulls: int = 1) -> None:
    """Whatever happened: exactly so many open pull requests, each at the tree that was confirmed, one commit a change."""
    open_pulls = [pull for pull in run.fake.pulls.values() if pull["state"] == "open"]
    assert len(open_pulls) == pulls
    head = open_pulls[-1]["head_sha"]
    assert run.fake.git("rev-parse", f"{head}^{{tree}}").strip() == confirmation(run)["tree"]
    assert run.fake.git("rev-list", "--count", f"main..{head}").strip() == "2"


def test_a_pull_request_with_commits_body_labels_and_outputs(run: Delivery) -> None:
    done = run.publish(AUTORESEARCH_LABELS="autoresearch\nml", AUTORESEARCH_REVIEWERS="mona")
    settled(run)
    (pull,) = run.fake.pulls.values()
    assert done.operation == "created" and pull["base"] == "main" and pull["head"] == BRANCH
    assert pull["labels"] == ["autoresearch", "ml"] and pull["reviewers"] == ["mona"] and not pull["draft"]
    assert pull["title"].startswith("autoresearch: val_bpb 1.5") and "→" in pull["title"]
    body = pull["body"]
    assert "re-measured on this head" in body.split("## Scope")[0] and len(body) < 58_000
    messages = run.fake.git("log", "--format=%B", f"main..{done.head}")
    assert messages.count("Autoresearch-Run: ") == 2
    for text in (body, messages):
        assert "@mona" not in text and "#1" not in text and "mona" in text  # said, but nobody is called and nothing is closed
    assert set(run.fake.git("rev-list", f"main..{done.head}").split()) <= run.fake.signed
    for sha in run.fake.git("rev-list", f"main..{done.head}").split():
        assert sha[:7] in body
    assert run.outputs == {
        "branch": BRANCH,
        "pull-request-number": "1",
        "pull-request-url": pull_url(run, 1),
        "pull-request-operation": "created",
        "pull-request-head-sha": done.head,
    }


def pull_url(run: Delivery, number: int) -> str:
    return next(p["html_url"] for p in [run.fake._full_pull(run.fake.pulls[number])])


def test_a_second_time_changes_nothing_and_a_dry_run_never(run: Delivery) -> None:
    assert "would open a pull request" in run.publish(dry_run=True).words and not run.fake.writes
    run.publish()
    before, writes = run.fake.git("for-each-ref"), len(run.fake.writes)
    again = run.publish()
    assert again.operation == "none" and len(run.fake.writes) == writes and run.fake.git("for-each-ref") == before
    assert "would update pull request 1" in run.publish(dry_run=True).words and len(run.fake.writes) == writes


def newer(run: Delivery, width: int) -> None:
    """Another run on the same base proves something else."""
    ideas = run.home.parent / "more"
    tiny.patch(run.home, ideas / "1.diff", ("WIDTH = 4", f"WIDTH = {width}"), subject=f"Width {width}")
    delivery.research(run.home, "--fresh", ideas=ideas)


def test_a_new_run_updates_the_pull_request_in_place(run: Delivery) -> None:
    first = run.publish()
    newer(run, 7)
    done = run.publish()
    assert done.operation == "updated" and done.number == first.number and done.branch == BRANCH and done.head != first.head
    (pull,) = run.fake.pulls.values()
    assert pull["head_sha"] == done.head and "Width 7" in pull["body"]
    assert run.fake.git("rev-parse", f"{done.head}^{{tree}}").strip() == confirmation(run)["tree"]


def test_a_person_who_pushed_keeps_the_branch(run: Delivery) -> None:
    run.publish()
    mine = run.fake.human_commit(BRANCH, "notes.txt", "mine\n")
    newer(run, 7)
    done = run.publish()
    assert done.branch == f"{BRANCH}-2" and done.number == 2 and run.fake.sha(BRANCH) == mine
    assert "left alone" in run.fake.pulls[2]["body"]
    assert run.publish().number == 2


def test_a_push_between_look_and_move_is_not_overwritten(run: Delivery) -> None:
    run.publish()
    newer(run, 7)
    pushed: list[str] = []
    run.fake.hook("POST", r"/graphql$", lambda: pushed.append(run.fake.human_commit(BRANCH, "notes.txt", "mine\n")))
    done = run.publish()
    assert run.fake.sha(BRANCH) == pushed[0] and done.branch == f"{BRANCH}-2"


def test_a_server_without_compare_and_swap_gets_a_fresh_branch(run: Delivery) -> None:
    first = run.publish()
    newer(run, 7)
    run.fake.settings["graphql"] = False
    done = run.publish()
    assert done.branch == f"{BRANCH}-2" and run.fake.sha(BRANCH) == first.head


FAULTS: dict[str, Callable[[Delivery], None]] = {
    "502 three times": lambda run: run.fake.fault("*", r".", times=3),
    "a lost answer to every write": lambda run: [
        run.fake.fault("POST", path, status=502, after=True)
        for path in (r"blobs$", r"trees$", r"commits$", r"refs$", r"pulls$", r"labels$")
    ],
    "the line drops when the pull request is made": lambda run: run.fake.fault("POST", r"/pulls$", drop=True, after=True),
    "the line drops before the branch is made": lambda run: run.fake.fault("POST", r"/git/refs$", drop=True),
    "a short rate limit": lambda run: run.fake.fault(
        "*", r"/git/", times=2, status=403, message="You have exceeded a secondary rate limit", headers={"Retry-After": "0"}
    ),
    "429": lambda run: run.fake.fault("POST", r".", status=429, message="Too many requests", headers={"Retry-After": "0"}),
    "the ref is said to be there": lambda run: run.fake.fault(
        "POST", r"/git/refs$", status=422, message="Reference already exists", after=True
    ),
    "a conflict on the ref": lambda run: run.fake.fault("POST", r"/git/refs$", status=409, message="Conflict", after=True),
    "reviewers nobody knows": lambda run: run.environ.update(AUTORESEARCH_REVIEWERS="nobody"),
    "labels forbidden": lambda run: run.fake.fault(
        "POST", r"labels$", times=9, status=403, message="Resource not accessible by integration"
    ),
    "an Enterprise Server": lambda run: run.environ.update(GITHUB_API_URL=f"{run.fake.url}/api/v3"),
    "two at once": lambda run: run.fake.hook("POST", r"/pulls$", lambda: Delivery(run.home, run.state, run.fake, run.environ).publish()),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_is_waited_out_or_worked_around(run: Delivery, name: str) -> None:
    FAULTS[name](run)
    done = run.publish()
    settled(run)
    assert done.number == 1 and done.operation in ("created", "none", "updated")
    assert run.publish().operation == "none"
    settled(run)


def test_a_body_that_is_too_long_is_shortened(run: Delivery) -> None:
    run.fake.fault("POST", r"/pulls$", times=2, status=422, message="body is too long (maximum is 65536 characters)")
    run.publish()
    settled(run)
    assert run.fake.pulls[1]["body"].split("\n")[1].startswith("**val")


def test_a_draft_where_drafts_are_not_to_be_had(run: Delivery) -> None:
    run.fake.settings["drafts_allowed"] = False
    done = run.publish(AUTORESEARCH_DRAFT="true")
    assert done.operation == "created" and not run.fake.pulls[1]["draft"] and "drafts are not available" in done.describe()


REFUSED: dict[str, tuple[Callable[[Delivery], None], type[UserError], str]] = {
    "Actions may not open pull requests": (
        lambda run: run.fake.settings.update(actions_may_create_pulls=False), EnvironmentFault, "Allow GitHub Actions to create"),
    "a dead token": (lambda run: run.environ.update(GITHUB_TOKEN="ghs_dead"), EnvironmentFault, "not valid, or no longer"),
    "no token": (lambda run: run.environ.update(GITHUB_TOKEN=" "), EnvironmentFault, "Set GITHUB_TOKEN"),
    "read only": (
        lambda run: run.fake.fault("POST", r"/git/", times=9, status=403, message="Resource not accessible by integration"),
        EnvironmentFault, "contents: write"),
    "a long rate limit": (
        lambda run: run.fake.fault("*", r".", times=9, status=403, message="API rate limit exceeded", headers={"Retry-After": "1800"}),
        EnvironmentFault, "rate limit is used up for 30 minutes"),
    "another repository": (lambda run: run.environ.update(GITHUB_REPOSITORY="octo/gone"), EnvironmentFault, "is not there"),
    "no such base": (lambda run: run.environ.update(AUTORESEARCH_BASE="nowhere"), InputError, "no branch nowhere"),
    "the network is gone": (lambda run: run.environ.update(GITHUB_API_URL="http://127.0.0.1:1"), EnvironmentFault, "cannot be reached"),
    "502 for ever": (lambda run: run.fake.fault("*", r".", times=99), EnvironmentFault, "5 times"),
    "draft: perhaps": (lambda run: run.environ.update(AUTORESEARCH_DRAFT="perhaps"), InputError, "neither true nor false"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_pass_is_a_sentence_and_can_be_done_later(run: Delivery, name: str) -> None:
    spoil, kind, words = REFUSED[name]
    good = dict(run.environ)
    spoil(run)
    with pytest.raises(kind, match=words) as caught:
        run.publish()
    assert str(caught.value).count("\n") == 0 and not run.fake.pulls
    if kind is EnvironmentFault and name not in ("another repository", "no such base"):
        assert "publish --state" in str(caught.value)
    run.fake.faults.clear()
    run.fake.settings["actions_may_create_pulls"] = True
    run.environ.clear()
    run.environ.update(good)
    run.publish()
    settled(run)


def rewritten(run: Delivery, change: Callable[[str], str]) -> None:
    for patch in (run.state / "proven").glob("*.diff"):
        patch.write_text(change(patch.read_text()))


def replaced(old: str, new: str) -> Callable[[Delivery], None]:
    return lambda run: rewritten(run, lambda text: text.replace(old, new))


def junk(run: Delivery) -> None:
    (run.state / "ledger.jsonl").write_text('{"event":"run","id":[]}\n')


HOSTILE: dict[str, tuple[Callable[[Delivery], None], str]] = {
    "another file": (replaced("train.py", "score.py"), "not in `edit`"),
    "a workflow": (replaced("train.py", ".github/workflows/x.yml"), "may not be published"),
    "out of the tree": (replaced("train.py", "../../x"), "may not be published"),
    "an executable": (replaced("index ", "old mode 100644\nnew mode 100755\nindex "), "may not be published"),
    "other code than was confirmed": (replaced("+LR = 0.2", "+LR = 0.25"), "do not add up"),
    "a patch that does not apply": (replaced("-LR = 0.1", "-LR = 0.7"), "does not apply"),
    "a huge one": (lambda run: rewritten(run, lambda text: text + "+x\n" * 600_000), "too large"),
    "another program": (lambda run: run.environ.update(AUTORESEARCH_PROGRAM="other.md"), "expects 'other.md'"),
    "a ledger of junk": (junk, "does not hold a ledger"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_research_job_hands_over_is_not_trusted(run: Delivery, name: str) -> None:
    spoil, words = HOSTILE[name]
    spoil(run)
    with pytest.raises(InputError, match=words):
        run.publish()
    assert not run.fake.pulls and not run.fake.sha(BRANCH)


def killed_while_publishing(run: Delivery, kills: int, seed: int) -> None:
    """`autoresearch publish` killed at random moments: never two pull requests, and the last start finishes it."""
    dice = random.Random(seed)
    command = [sys.executable, "-m", "autoresearch_action", "publish", "--state", str(run.state)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(delivery.HERE)} | run.environ
    hits = 0
    for _ in range(kills):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(dice.uniform(0.3, 1.6))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            hits += 1
        assert len(run.fake.pulls) <= 1
    assert hits
    run.publish()
    settled(run)
    assert len(run.fake.pulls) == 1 and run.publish().operation == "none"


def test_killed_while_publishing(run: Delivery) -> None:
    killed_while_publishing(run, 4, seed=1)


@pytest.mark.battery
@pytest.mark.parametrize("seed", range(10))
def test_killed_while_publishing_many_times(run: Delivery, seed: int) -> None:
    killed_while_publishing(run, 5, seed=10 + seed)


def test_a_base_that_moved_is_said_and_not_rebased_onto(run: Delivery) -> None:
    base = run.fake.sha("main")
    for index in range(3):
        run.fake.advance("main", f"new{index}.txt", "new\n")
    done = run.publish()
    assert "3 commits behind main" in run.fake.pulls[1]["body"]
    assert run.fake.git("merge-base", done.head, "main").strip() == base


def test_a_branch_that_was_deleted_and_a_base_that_is_elsewhere(run: Delivery) -> None:
    run.publish()
    run.fake.delete_branch(BRANCH)
    assert run.publish().operation == "created"
    stranger = tiny.git(run.fake.bare, "commit-tree", "-m", "x", f"{run.fake.sha('main')}^{{tree}}")
    tiny.git(run.fake.bare, "update-ref", "refs/heads/other", stranger)
    with pytest.raises(InputError, match="is not on other"):
        run.publish(AUTORESEARCH_BASE="other")


def test_nothing_proven_is_no_pull_request_and_success(empty: Path, tmp_path: Path) -> None:
    with delivery.delivered(empty, tmp_path) as run:
        done = run.publish()
        assert done.operation == "none" and "Nothing held" in done.words and not run.fake.writes


def test_a_newer_base_that_made_it_pointless_closes_it(run: Delivery) -> None:
    run.publish()
    (run.home / "train.py").write_text(
        (run.home / "train.py").read_text().replace("LR = 0.1", "LR = 0.3").replace("WIDTH = 4", "WIDTH = 8")
    )
    tiny.commit(run.home, "The best there is")
    tiny.git(run.home, "push", "-q", str(run.fake.bare), "main")
    tiny.patch(run.home, run.home.parent / "worse" / "1.diff", ("LR = 0.3", "LR = 0.9"), subject="Worse")
    delivery.research(run.home, ideas=run.home.parent / "worse")
    done = run.publish()
    assert (
        done.operation == "closed" and run.fake.pulls[1]["state"] == "closed" and "newer base" in run.fake.pulls[1]["comments"][0]["body"]
    )
    assert run.publish().operation == "none"


def test_memory_is_one_file_a_run_and_comes_back(run: Delivery, tmp_path: Path) -> None:
    address = memory.save(run.state, run.environ)
    assert address.startswith("https://github.example/octo/repo/raw/autoresearch-memory/program/")
    writes = len([w for w in run.fake.writes if "blobs" not in w[1]])
    memory.save(run.state, run.environ)
    assert len([w for w in run.fake.writes if "blobs" not in w[1]]) <= writes + 1  # the tree that turns out to be the same
    files = run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH).split()
    assert sum(1 for name in files if name.endswith(".jsonl")) == 1 and any(name.endswith("progress.png") for name in files)

    fresh = tmp_path / "fresh"
    assert memory.recall(fresh, "program", run.environ) == 1 and memory.recall(fresh, "program", run.environ) == 0
    assert json.loads((fresh / "claims.json").read_text()) == json.loads((run.state / "claims.json").read_text())
    shutil.rmtree(run.state)
    fresh.rename(run.state)
    (run.home / "README").write_text("A newer base.\n")
    tiny.commit(run.home)
    delivery.research(run.home, "--agent", "optuna", "--max-experiments", "2")
    told = [json.loads(line) for line in (run.state / "ledger.jsonl").read_text().splitlines()]
    first = [event["description"] for event in told if event["event"] == "proposal"][:2]
    assert any("Raise the rate" in name for name in first), "the last stack is measured first on the newer base"
    memory.save(run.state, run.environ)
    assert run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH).count(".jsonl") == 2


def test_two_writers_of_the_memory_lose_nothing(run: Delivery) -> None:
    other = memory.Branch(memory.connect(run.environ))
    run.fake.hook("POST", r"/git/refs$", lambda: other.write({"other/a.jsonl": b"{}\n"}, "Another run"))
    memory.save(run.state, run.environ)
    run.fake.hook("PATCH", r"/git/refs", lambda: other.write({"other/b.jsonl": b"{}\n"}, "Another run"))
    memory.Branch(memory.connect(run.environ)).write({"program/c.jsonl": b"{}\n"}, "A third")
    files = run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH)
    assert all(name in files for name in ("other/a.jsonl", "other/b.jsonl", "program/c.jsonl", "claims.json"))


def dispatched(run: Delivery, folder: Path, number: int, **payload: object) -> dict[str, str]:
    event = folder / f"event-{number}.json"
    event.write_text(json.dumps({"action": "checkpoint", "client_payload": payload}))
    run.fake.runs[str(number)] = "in_progress"
    return run.environ | {"GITHUB_EVENT_NAME": "repository_dispatch", "GITHUB_EVENT_PATH": str(event), "GITHUB_RUN_ID": str(number)}


def test_a_third_checkpoint_is_queued_and_not_dropped(run: Delivery, tmp_path: Path) -> None:
    jobs = [dispatched(run, tmp_path, number, checkpoint=f"s3://models/{number}") for number in (11, 12, 13)]
    for job in jobs:
        assert queue.enqueue(job).endswith(f"-{job['GITHUB_RUN_ID']}.json")
        assert queue.enqueue(job) == ""  # a second attempt of the same job
    run.fake.runs["12"] = "completed"  # cancelled while it waited, because the third one came
    assert queue.settle(jobs[0]) == "" and not run.fake.dispatched  # 13 is still on its way and will look
    run.fake.runs["13"] = "completed"
    assert "run 12" in queue.settle(jobs[2])
    payload = {"checkpoint": "s3://models/12", "attempt": 2}
    assert run.fake.dispatched == [{"event_type": "checkpoint", "client_payload": payload}]
    assert run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH).strip() == ""
    last = dispatched(run, tmp_path, 14, checkpoint="s3://models/12", attempt=3)
    queue.enqueue(last)
    run.fake.runs["14"] = "completed"
    assert queue.settle(run.environ | {"GITHUB_RUN_ID": "99"}) == "" and len(run.fake.dispatched) == 1  # three times is enough


@pytest.mark.parametrize(
    "wrong", [{"GITHUB_API_URL": "not a url"}, {"GITHUB_API_URL": "file:///etc"}, {"GITHUB_TOKEN": "€"}, {"GITHUB_REPOSITORY": "a\nb/c"}]
)
def test_surroundings_that_cannot_be_are_said_before_anything_is_asked(wrong: dict[str, str]) -> None:
    from autoresearch_action.github.api import connect

    given = {"GITHUB_TOKEN": "x", "GITHUB_REPOSITORY": "a/b", "GITHUB_API_URL": "http://127.0.0.1:9"}
    with pytest.raises(EnvironmentFault, match=next(iter(wrong))):
        connect(given | wrong)
