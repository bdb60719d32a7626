"""The fake of GitHub, driven by the real PyGithub: the publisher's tests stand on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_github import FakeGitHub
from github import Auth, Github, GithubException, InputGitTreeElement
from github.Repository import Repository


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeGitHub]:
    with FakeGitHub(tmp_path / "origin.git") as server:
        yield server
        server.check()


@pytest.fixture(params=["", "/api/v3"])
def repo(fake: FakeGitHub, request: pytest.FixtureRequest) -> Repository:
    pace = {"seconds_between_requests": 0, "seconds_between_writes": 0}
    return Github(
        base_url=fake.url + request.param, auth=Auth.Token(fake.token), retry=None, **pace
    ).get_repo(fake.repository)


def commit(repo: Repository, text: str, parent: str) -> str:
    entries = [
        InputGitTreeElement(
            "a/train.py", "100644", "blob", sha=repo.create_git_blob(text, "utf-8").sha
        )
    ]
    tree = repo.create_git_tree(entries, repo.get_git_tree(parent))
    return repo.create_git_commit("A step\n\nTrailer: 1", tree, [repo.get_git_commit(parent)]).sha


def refused(words: str) -> pytest.RaisesExc[GithubException]:
    return pytest.raises(GithubException, match=words)


def test_a_pull_request_from_blobs_to_closing(fake: FakeGitHub, repo: Repository) -> None:
    base = repo.get_branch("main").commit.sha
    first = commit(repo, "LR = 0.2\n", base)
    ref = repo.create_git_ref("refs/heads/auto/one", first)
    assert (
        repo.get_git_commit(first).verification.verified
        and fake.git("show", "auto/one:a/train.py") == "LR = 0.2\n"
    )
    pull = repo.create_pull("main", "auto/one", title="T", body="B")
    for head, words in (
        ("auto/one", "422 .*already exists for octo:auto/one."),
        ("main", "422 .*No commits between main and main"),
    ):
        with refused(words):
            repo.create_pull("main", head, title="T", body="B")
    repo.create_label("auto", "ff0000", "By a machine")
    pull.add_to_labels("auto", "new")
    with refused("422 .*too long"):
        pull.edit(body="x" * 65_537)
    fake.human_commit("auto/one", "b.txt", "by hand\n")
    with refused("422 .*not a fast forward"):
        ref.edit(commit(repo, "LR = 0.3\n", base))
    fake.advance("main", "c.txt", "moved\n")
    compared = repo.compare("main", "auto/one")
    assert (
        compared.status,
        compared.ahead_by,
        compared.behind_by,
        compared.merge_base_commit.sha,
    ) == ("diverged", 2, 1, base)
    pull.edit(title="T2", body="B2")
    (listed,) = repo.get_pulls(state="all", head="octo:auto/one", base="main")
    assert (
        listed.title,
        listed.commits,
        [label.name for label in listed.labels],
        listed.user.type,
    ) == ("T2", 2, ["auto", "new"], "Bot")
    ref.delete()
    assert fake.pulls[1]["state"] == repo.get_pull(1).state == "closed" and not fake.git(
        "fsck", "--strict", "--no-dangling"
    )


def test_faults_hooks_and_the_unknown(fake: FakeGitHub, repo: Repository) -> None:
    fake.fault("GET", "/branches/main$", status=502)
    with refused("Server Error: 502"):
        repo.get_branch("main")
    base = repo.get_branch("main").commit.sha
    fake.fault("POST", "/git/refs$", after=True)
    with refused("Server Error: 502"):
        repo.create_git_ref("refs/heads/x", base)
    assert fake.sha("x") == base and fake.writes[-1][:3] == (
        "POST",
        "/repos/octo/repo/git/refs",
        502,
    )
    fake.fault("GET", "/git/ref/", drop=True)
    with pytest.raises(OSError):
        _ = repo.get_git_ref("heads/x").object
    fake.hook("PATCH", "/git/refs/heads/x$", lambda: fake.human_commit("x", "h.txt", "first\n"))
    with refused("422 .*not a fast forward"):
        repo.get_git_ref("heads/x").edit(commit(repo, "1\n", base))
    with refused("404 "):
        repo.get_topics()
    assert fake.unknown.pop() == "GET /repos/octo/repo/topics"
