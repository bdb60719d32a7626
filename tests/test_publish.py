"""Publishing: one pull request from a proven run, whatever happens on the way. Against a loopback GitHub on a real git repository."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import delivery
import pytest
import studies
import tiny
from delivery import Delivery, newer

from autoresearch_action.brief import Brief
from autoresearch_action.errors import EnvironmentFault, InputError, UserError
from autoresearch_action.github import commits

BRANCH = "autoresearch/program"


def confirmation(run: Delivery) -> dict[str, object]:
    lines = (run.state / "ledger.jsonl").read_text().splitlines()
    return next(
        json.loads(line) for line in reversed(lines) if line.startswith('{"event":"confirmation"')
    )


def settled(run: Delivery, pulls: int = 1) -> None:
    """Whatever happened: exactly so many open pull requests, each at the tree that was confirmed, one commit a change."""
    open_pulls = [pull for pull in run.fake.pulls.values() if pull["state"] == "open"]
    assert len(open_pulls) == pulls
    head = open_pulls[-1]["head_sha"]
    assert run.fake.git("rev-parse", f"{head}^{{tree}}").strip() == confirmation(run)["tree"]
    assert run.fake.git("rev-list", "--count", f"main..{head}").strip() == "2"


def test_a_branch_with_the_name_of_its_folder_does_not_hold_a_proof_back(run: Delivery) -> None:
    run.fake.git("branch", "autoresearch", "main")
    done = run.publish()
    settled(run)
    assert done.operation == "created"
    (pull,) = run.fake.pulls.values()
    assert pull["head"] == "autoresearch-program"
    assert "the branch autoresearch is there" in pull["body"]


def test_a_pull_request_with_commits_body_labels_and_outputs(run: Delivery) -> None:
    done = run.publish(AUTORESEARCH_LABELS="autoresearch\nml", AUTORESEARCH_REVIEWERS="mona")
    settled(run)
    (pull,) = run.fake.pulls.values()
    assert done.operation == "created" and pull["base"] == "main" and pull["head"] == BRANCH
    assert (
        pull["labels"] == ["autoresearch", "ml"]
        and pull["reviewers"] == ["mona"]
        and not pull["draft"]
    )
    assert pull["title"].startswith("autoresearch: val_bpb 1.5") and "→" in pull["title"]
    body = pull["body"]
    assert "re-measured on this head" in body.split("## Changes")[0] and len(body) < 58_000
    messages = run.fake.git("log", "--format=%B", f"main..{done.head}")
    assert messages.count("Autoresearch-Run: ") == 2
    for text in (body, messages):
        assert (
            "@mona" not in text and "#1" not in text and "mona" in text
        )  # said, but nobody is called and nothing is closed
    assert set(run.fake.git("rev-list", f"main..{done.head}").split()) <= run.fake.signed
    for sha in run.fake.git("rev-list", f"main..{done.head}").split():
        assert sha[:7] in body
    for verdict in map(json.loads, (run.state / "ledger.jsonl").read_text().splitlines()):
        if verdict["event"] == "verdict" and verdict["runs"]:
            hashes, frozen = (
                verdict["hashes"],
                re.search(r"frozen: .*sha256 (\w{16})$", body, re.MULTILINE),
            )
            assert (
                frozen
                and hashes["frozen"] == frozen[1]
                and f"environment: sha256 {hashes['environment']}" in body
            )
            assert (
                hashes["sandbox"]
                and ("patch" in hashes) == bool(verdict["number"])
                and max(map(len, hashes.values())) == 16
            )
            if verdict["number"]:
                assert (
                    hashes["patch"]
                    == hashlib.sha256((run.state / verdict["patch"]).read_bytes()).hexdigest()[:16]
                )
                assert hashes["patch"] in (run.state / "report.html").read_text()
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
    assert (
        again.operation == "none"
        and len(run.fake.writes) == writes
        and run.fake.git("for-each-ref") == before
    )
    assert (
        "would update pull request 1" in run.publish(dry_run=True).words
        and len(run.fake.writes) == writes
    )


def test_a_new_run_updates_the_pull_request_in_place(run: Delivery) -> None:
    first = run.publish()
    newer(run, 7)
    done = run.publish()
    assert (
        done.operation == "updated"
        and done.number == first.number
        and done.branch == BRANCH
        and done.head != first.head
    )
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
    run.fake.hook(
        "POST",
        r"/graphql$",
        lambda: pushed.append(run.fake.human_commit(BRANCH, "notes.txt", "mine\n")),
    )
    done = run.publish()
    assert run.fake.sha(BRANCH) == pushed[0] and done.branch == f"{BRANCH}-2"


def test_a_server_without_compare_and_swap_is_looked_at_once_more(run: Delivery) -> None:
    run.publish()
    newer(run, 7)
    run.fake.settings["graphql"] = False
    pushed: list[str] = []
    run.fake.hook(
        "POST",
        r"/graphql$",
        lambda: pushed.append(run.fake.human_commit(BRANCH, "notes.txt", "mine\n")),
    )
    done = run.publish()
    assert done.branch == f"{BRANCH}-2" and run.fake.sha(BRANCH) == pushed[0]
    newer(run, 5)
    done = run.publish()
    assert (
        done.operation == "updated"
        and done.branch == f"{BRANCH}-2"
        and done.head == run.fake.sha(f"{BRANCH}-2")
    )


def test_a_rule_against_moving_the_branch_is_a_sentence_and_no_second_pull_request(
    run: Delivery,
) -> None:
    first = run.publish()
    newer(run, 7)
    run.fake.settings["protected"] = "^refs/heads/autoresearch/"
    with pytest.raises(EnvironmentFault, match=r"a rule of the repository refuses it .*Rulesets"):
        run.publish()
    assert list(run.fake.pulls) == [1] and run.fake.sha(BRANCH) == first.head
    run.fake.settings["protected"] = ""
    assert run.publish().operation == "updated"


def test_another_branch_leaves_one_pull_request(run: Delivery) -> None:
    run.publish()
    done = run.publish(AUTORESEARCH_BRANCH="elsewhere")
    assert done.number == 2 and "pull request 1 was closed" in done.describe()
    settled(run)
    assert "superseded by pull request 2" in run.fake.pulls[1]["comments"][0]["body"]
    run.fake.human_commit("elsewhere", "notes.txt", "mine\n")
    run.publish(AUTORESEARCH_BRANCH="third")
    assert [pull["state"] for pull in run.fake.pulls.values()] == ["closed", "open", "open"], (
        "a person's commits are not closed over"
    )


def test_those_who_were_asked_or_have_reviewed_are_not_asked_again(run: Delivery) -> None:
    run.fake.settings["collaborators"] += ["hubot"]
    run.publish(AUTORESEARCH_REVIEWERS="mona")
    run.fake.pulls[1] |= {"reviewers": [], "reviewed": ["mona"]}
    run.publish(AUTORESEARCH_REVIEWERS="Mona\nhubot")
    run.publish(AUTORESEARCH_REVIEWERS="Mona\nhubot")
    asked = [
        body["reviewers"]
        for _, path, _, body in run.fake.writes
        if path.endswith("requested_reviewers")
    ]
    assert asked == [["mona"], ["hubot"]]


def test_checks_that_wait_for_approval_are_said_where_they_do(run: Delivery) -> None:
    run.publish()
    assert "Approve its checks" not in run.fake.pulls[1]["body"]
    assert (
        run.publish(AUTORESEARCH_JOB_TOKEN="true").operation == "updated"
        and "Approve its checks" in run.fake.pulls[1]["body"]
    )


FAULTS: dict[str, Callable[[Delivery], None]] = {
    "502 three times": lambda run: run.fake.fault("*", r".", times=3),
    "a lost answer to every write": lambda run: [
        run.fake.fault("POST", path, status=502, after=True)
        for path in (r"blobs$", r"trees$", r"commits$", r"refs$", r"pulls$", r"labels$")
    ],
    "the line drops when the pull request is made": lambda run: run.fake.fault(
        "POST", r"/pulls$", drop=True, after=True
    ),
    "the line drops before the branch is made": lambda run: run.fake.fault(
        "POST", r"/git/refs$", drop=True
    ),
    "a short rate limit": lambda run: run.fake.fault(
        "*",
        r"/git/",
        times=2,
        status=403,
        message="You have exceeded a secondary rate limit",
        headers={"Retry-After": "0"},
    ),
    "429": lambda run: run.fake.fault(
        "POST", r".", status=429, message="Too many requests", headers={"Retry-After": "0"}
    ),
    "the ref is said to be there": lambda run: run.fake.fault(
        "POST", r"/git/refs$", status=422, message="Reference already exists", after=True
    ),
    "a conflict on the ref": lambda run: run.fake.fault(
        "POST", r"/git/refs$", status=409, message="Conflict", after=True
    ),
    "reviewers nobody knows": lambda run: run.environ.update(AUTORESEARCH_REVIEWERS="nobody"),
    "labels forbidden": lambda run: run.fake.fault(
        "POST", r"labels$", times=9, status=403, message="Resource not accessible by integration"
    ),
    "an Enterprise Server": lambda run: run.environ.update(GITHUB_API_URL=f"{run.fake.url}/api/v3"),
    "two at once": lambda run: run.fake.hook("POST", r"/pulls$", lambda: replace(run).publish()),
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
    run.fake.fault(
        "POST",
        r"/pulls$",
        times=2,
        status=422,
        message="body is too long (maximum is 65536 characters)",
    )
    run.publish()
    settled(run)
    assert run.fake.pulls[1]["body"].split("\n")[1].startswith("**val")


def test_a_draft_where_drafts_are_not_to_be_had(run: Delivery) -> None:
    run.fake.settings["drafts_allowed"] = False
    done = run.publish(AUTORESEARCH_DRAFT="true")
    assert (
        done.operation == "created"
        and not run.fake.pulls[1]["draft"]
        and "drafts are not available" in done.describe()
    )


def test_a_claim_by_the_programs_own_word_opens_a_draft_that_says_so(
    run: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As though neither the base nor today's brief had a scorer."""
    had = commits.brief_of

    def without(*words: Any) -> Brief:
        return had(*words).model_copy(update={"evaluate": None})

    monkeypatch.setattr(commits, "brief_of", without)
    ledger = run.state / "ledger.jsonl"
    told = [json.loads(line) for line in ledger.read_text().splitlines()]
    for event in told:
        if event["event"] == "run":
            del event["contract"]["evaluate"]
    ledger.write_text("".join(json.dumps(event, separators=(",", ":")) + "\n" for event in told))
    run.publish()
    (pull,) = run.fake.pulls.values()
    assert pull["draft"]
    assert pull["title"].startswith("autoresearch (self-reported): val_bpb 1.5")


def unreadable(run: Delivery, path: str) -> None:
    run.fake.fault(
        "GET", path, times=99, status=403, message="Resource not accessible by integration"
    )


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
    "dry-run: yes": (lambda run: run.environ.update(AUTORESEARCH_DRY_RUN="yes"), InputError, "dry-run: 'yes' is neither"),
    "no right to see pull requests": (lambda run: unreadable(run, r"/pulls"), EnvironmentFault, "pull-requests: write"),
    "no right to see the repository": (lambda run: unreadable(run, r"/repos/octo/repo$"), EnvironmentFault, "contents: write"),
    "no right to see the code": (lambda run: unreadable(run, r"/git/"), EnvironmentFault, "contents: write"),
    "no right to compare": (lambda run: unreadable(run, r"/compare"), EnvironmentFault, "contents: write"),
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
    "an executable": (
        replaced("index ", "old mode 100644\nnew mode 100755\nindex "),
        "may not be published",
    ),
    "other code than was confirmed": (replaced("+LR = 0.2", "+LR = 0.25"), "do not add up"),
    "a patch that does not apply": (replaced("-LR = 0.1", "-LR = 0.7"), "does not apply"),
    "a huge one": (lambda run: rewritten(run, lambda text: text + "+x\n" * 600_000), "too large"),
    "another program": (
        lambda run: run.environ.update(AUTORESEARCH_PROGRAM="other.md"),
        "expects 'other.md'",
    ),
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
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
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
    best = "LR, WIDTH = 0.3, 8"
    (run.home / "train.py").write_text(
        (run.home / "train.py").read_text().replace("time.sleep", f"{best}\n\ntime.sleep")
    )
    tiny.commit(run.home, "The best there is")
    tiny.git(run.home, "push", "-q", str(run.fake.bare), "main")
    tiny.patch(
        run.home,
        run.home.parent / "worse" / "1.diff",
        (best, "LR, WIDTH = 0.9, 8"),
        subject="Worse",
    )
    delivery.research(run.home, ideas=run.home.parent / "worse")
    done = run.publish()
    assert (
        done.operation == "closed"
        and run.fake.pulls[1]["state"] == "closed"
        and "newer base" in run.fake.pulls[1]["comments"][0]["body"]
    )
    assert run.publish().operation == "none"


def run_of(state: Path) -> str:
    return str(
        next(
            json.loads(line)["id"]
            for line in (state / "ledger.jsonl").open()
            if line.startswith('{"event":"run"')
        )
    )


def inherited(state: Path, first: str, chosen: Callable[[dict[str, object]], bool]) -> None:
    """The ledger with the chosen proposals marked as the stack of an earlier run."""
    events = [json.loads(line) for line in (state / "ledger.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "proposal" and chosen(event):
            event["details"] |= {"inherited": first}
    (state / "ledger.jsonl").write_text(
        "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events)
    )


LATER: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "its state was lost": (lambda state, first: None, "open"),
    "another run's stack was measured": (
        lambda state, first: inherited(state, "other", lambda p: True),
        "open",
    ),
    "it was kept and not confirmed": (
        lambda state, first: inherited(state, first, lambda p: p["number"] == 1),
        "closed",
    ),
    "one of its changes was never measured": (
        lambda state, first: (inherited(state, first, lambda p: True), undecided(state)),
        "open",
    ),  # type: ignore[dict-item]
}


def undecided(state: Path) -> None:
    text = (state / "ledger.jsonl").read_text()
    (state / "ledger.jsonl").write_text(text.replace('"estimate":-0.01', '"estimate":null'))


@pytest.mark.parametrize("name", LATER)
def test_a_pull_request_is_closed_on_evidence_alone(
    run: Delivery, tmp_path: Path, name: str
) -> None:
    """A later run on a newer base that proved nothing."""
    spoil, wanted = LATER[name]
    run.publish()
    studies.make(
        tmp_path / "later", count=3, held=False, base=run.fake.advance("main", "README", "newer\n")
    )
    spoil(tmp_path / "later", run_of(run.state))
    later = replace(run, state=tmp_path / "later")
    later.publish()
    assert run.fake.pulls[1]["state"] == wanted
    if wanted == "open":  # until what it changes is there anyhow, by another way
        studies.make(
            tmp_path / "last",
            held=False,
            base=run.fake.advance("main", "train.py", run.fake.read(BRANCH, "train.py")),
        )
        done = replace(run, state=tmp_path / "last").publish()
        assert done.operation == "closed" and "is there already" in done.words


@pytest.mark.parametrize(
    "wrong",
    [
        {"GITHUB_API_URL": "not a url"},
        {"GITHUB_API_URL": "file:///etc"},
        {"GITHUB_TOKEN": "€"},
        {"GITHUB_REPOSITORY": "a\nb/c"},
    ],
)
def test_surroundings_that_cannot_be_are_said_before_anything_is_asked(
    wrong: dict[str, str],
) -> None:
    from autoresearch_action.github.api import connect

    given = {
        "GITHUB_TOKEN": "x",
        "GITHUB_REPOSITORY": "a/b",
        "GITHUB_API_URL": "http://127.0.0.1:9",
    }
    with pytest.raises(EnvironmentFault, match=next(iter(wrong))):
        connect(given | wrong)
